//! Transactions of which a standby's snapshot may have seen what they did, or not: they count as not seen.

use rowcast_engine::Lsn;

use super::*;
use crate::snapshot::model::{TABLE, chunk, schema};
use crate::snapshot::rows::Rows;
use crate::snapshot::visible::{Commit, Visible};

/// Up to here the standby had replayed before.
const REPLAYED: Lsn = Lsn(100);

const SEEN: Commit = Commit { xid: 9, at: Lsn(99) };
const IN_DOUBT: Commit = Commit { xid: 7, at: REPLAYED };

/// What is remembered.
fn named(tracker: &Tracker) -> &[Commit] {
    &tracker.ring.as_ref().unwrap().named
}

fn tracker() -> Tracker {
    begun(Tracker::default())
}

fn begun(mut tracker: Tracker) -> Tracker {
    tracker.watch();
    tracker.describe(&schema());
    tracker.begin(TABLE);
    tracker
}

/// An update of row 1, whole or with its large column as it was.
fn update(tracker: &mut Tracker, commit: Commit, whole: bool) {
    let large: &[u8] = if whole { b"t\0\0\0\x01x" } else { b"u" };
    let raw = [&b"N\0\x02t\0\0\0\x011"[..], large].concat();
    tracker.change(TABLE, commit, Op::Update, &raw);
}

/// What becomes of rows 1 and 2 when this is streamed while they are read: the verdict, how many are kept, and how many
/// are to be read again.
fn read(tracker: &mut Tracker, streamed: impl FnOnce(&mut Tracker)) -> (Verdict, usize, usize) {
    let window = tracker.open(TABLE).unwrap();
    streamed(tracker);
    let mut rows = Rows::default();
    rows.push(b"1\tlarge\n", 2).unwrap();
    rows.push(b"2\tlarge\n", 2).unwrap();
    let visible = "1:99:".parse::<Visible>().unwrap().on_standby(REPLAYED);
    let read = chunk(window, &visible, &rows);
    let mut kept = 0;
    let verdict = tracker.settle(&read, |_| kept += 1);
    (verdict, kept, tracker.again(TABLE).count())
}

#[test]
fn a_row_that_may_be_older_gives_way_and_what_no_event_carries_is_read_again() {
    let written = |kept, again| (Verdict::Written, kept, again);
    assert_eq!(read(&mut tracker(), |tracker| update(tracker, SEEN, false)), written(2, 0));
    assert_eq!(read(&mut tracker(), |tracker| update(tracker, IN_DOUBT, true)), written(1, 0));
    assert_eq!(read(&mut tracker(), |tracker| update(tracker, IN_DOUBT, false)), written(1, 1));
    assert_eq!(read(&mut tracker(), |tracker| tracker.truncate(TABLE, SEEN)), written(2, 0));
    assert_eq!(read(&mut tracker(), |tracker| tracker.truncate(TABLE, IN_DOUBT)), written(0, 0));
}

/// A standby does not send what it has not replayed; one that was started again lies behind, and so may another one.
#[test]
fn what_was_streamed_before_the_window_must_surely_be_seen() {
    for (commit, verdict) in [(SEEN, Verdict::Written), (IN_DOUBT, Verdict::Unseen)] {
        let mut tracker = tracker();
        tracker.delivered(commit);
        assert_eq!(read(&mut tracker, |_| {}).0, verdict);
        // Also when an earlier snapshot has seen it.
        tracker.ring.as_mut().unwrap().named.clear();
        assert_eq!(read(&mut tracker, |_| {}).0, verdict);
    }
    for (position, verdict) in [(REPLAYED, Verdict::Written), (Lsn(101), Verdict::Unseen)] {
        let mut tracker = begun(Tracker::behind(position));
        assert_eq!(read(&mut tracker, |_| {}).0, verdict, "streamed over another connection");
    }
    // And it is forgotten when it has been seen.
    let mut tracker = tracker();
    tracker.delivered(SEEN);
    read(&mut tracker, |tracker| tracker.delivered(IN_DOUBT));
    assert_eq!(named(&tracker), [IN_DOUBT]);
}

/// Nothing is written while a sink is behind, nor while what was streamed is not visible yet: what is remembered stays
/// small all the same.
#[test]
fn what_all_see_is_forgotten_though_nothing_is_written() {
    let mut tracker = tracker();
    let commit = |xid: u32| Commit { xid, at: Lsn(u64::from(xid)) };
    (1..=1_000).for_each(|xid| tracker.delivered(commit(xid)));
    tracker.forget(&"999:1005:999".parse().unwrap());
    assert_eq!(named(&tracker), [commit(999)]);
    assert!(tracker.ring.as_ref().unwrap().named.capacity() < 100, "its memory is given back");
    let window = tracker.open(TABLE).unwrap();
    let (visible, rows) = ("999:1005:999,1001".parse().unwrap(), Rows::default());
    tracker.delivered(commit(1_000));
    let read = chunk(window, &visible, &rows);
    assert_eq!(tracker.settle(&read, |_| {}), Verdict::Unseen);
    assert_eq!(named(&tracker), [commit(999)], "the chunk was not written, and saw the other");
    let window = tracker.open(TABLE).unwrap();
    let visible = "1001:1005:1001".parse().unwrap();
    assert_eq!(tracker.settle(&Read { window, visible: &visible, ..read }, |_| {}), Verdict::Written);
    assert_eq!(named(&tracker), []);
}

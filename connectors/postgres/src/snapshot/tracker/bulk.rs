//! More keys than can be kept for reading them again; a transaction that is half taken in.

use rowcast_engine::Lsn;

use super::*;
use crate::snapshot::model::{TABLE, chunk, schema};
use crate::snapshot::rows::Rows;
use crate::snapshot::visible::{Commit, Visible};

/// Of no such transaction it is seen.
const LATER: Commit = Commit { xid: 900, at: Lsn(90) };

/// An update of a row whose large column stays as it is.
fn update(tracker: &mut Tracker, key: u32) {
    let key = key.to_string();
    let length = u32::try_from(key.len()).unwrap().to_be_bytes();
    let raw = [&b"N\0\x02t"[..], &length, key.as_bytes(), b"u"].concat();
    tracker.change(TABLE, LATER, Op::Update, &raw);
}

/// Reads rows of these keys while all of them are updated by a transaction that is not seen.
fn read(tracker: &mut Tracker, keys: std::ops::Range<u32>) -> (Verdict, usize) {
    let window = tracker.open(TABLE).unwrap();
    keys.clone().for_each(|key| update(tracker, key));
    tracker.delivered(LATER);
    let mut rows = Rows::default();
    for key in keys {
        rows.push(format!("{key}\tlarge\n").as_bytes(), 2).unwrap();
    }
    let visible: Visible = "900:900:".parse().unwrap();
    let read = chunk(window, &visible, &rows);
    let mut kept = 0;
    let verdict = tracker.settle(&read, |_| kept += 1);
    (verdict, kept)
}

#[test]
fn a_bulk_update_has_a_chunk_read_again_and_not_the_table() {
    let mut tracker = Tracker::default();
    tracker.watch();
    tracker.describe(&schema());
    tracker.begin(TABLE);
    // Nothing of it is written, nothing is kept for later: smaller, it is read when the update is seen.
    assert_eq!(read(&mut tracker, 0..30_000), (Verdict::TooMuch, 0));
    assert_eq!(tracker.again(TABLE).count(), 0);
    let open = tracker.open(TABLE);
    assert!(open.is_some());
    tracker.close(TABLE, open.unwrap());
    // Small ones give what they have, however much is updated: so it ends.
    tracker.ring.as_mut().unwrap().named.clear();
    assert_eq!(read(&mut tracker, 0..1_000), (Verdict::Written, 0));
    assert_eq!(tracker.again(TABLE).count(), 1_000);
}

/// What came of it before the window is in no notes, and a snapshot that does not see it has the rows of before.
#[test]
fn a_window_that_opens_within_a_transaction_reckons_with_it() {
    for seen in [false, true] {
        let mut tracker = Tracker::default();
        tracker.watch();
        tracker.describe(&schema());
        tracker.begin(TABLE);
        tracker.arrives(LATER);
        update(&mut tracker, 1);
        let window = tracker.open(TABLE).unwrap();
        tracker.delivered(LATER);
        let visible: Visible = if seen { "901:901:" } else { "900:900:" }.parse().unwrap();
        let mut rows = Rows::default();
        rows.push(b"1\tlarge\n", 2).unwrap();
        let read = chunk(window, &visible, &rows);
        let mut kept = 0;
        let verdict = tracker.settle(&read, |_| kept += 1);
        let expected = if seen { (Verdict::Written, 1) } else { (Verdict::Unseen, 0) };
        assert_eq!((verdict, kept), expected, "{seen}");
    }
}

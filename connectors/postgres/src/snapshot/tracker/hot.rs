//! A row that is updated all the time, and commits that are not visible for a while.

use rowcast_engine::Lsn;
use rowcast_engine::record::Value;
use rowcast_engine::schema::{Column, Type, TypeKind};

use super::*;
use crate::snapshot::model::{TABLE, chunk, schema};
use crate::snapshot::rows::{Rows, key_of_texts};

fn tuple(key: &str, large: Option<&str>) -> Vec<u8> {
    let text =
        |text: &str| [&b"t"[..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    [&b"\0\x02"[..], &text(key), &large.map_or(b"u".to_vec(), text)].concat()
}

fn commit(xid: u32) -> Commit {
    Commit { xid, at: Lsn(u64::from(xid)) }
}

/// The one of this number updates row 1: its large value stays, or becomes this.
fn update(tracker: &mut Tracker, xid: u32, large: Option<&str>) {
    tracker.change(TABLE, commit(xid), Op::Update, &[b"N".to_vec(), tuple("1", large)].concat());
    tracker.delivered(commit(xid));
}

/// That of a row that goes, or gets another key.
fn leave(tracker: &mut Tracker, xid: u32, to: Option<&str>) {
    let old = [b"K".to_vec(), tuple("1", None)].concat();
    let new = to.map(|key| [b"N".to_vec(), tuple(key, None)].concat());
    let op = if to.is_some() { Op::Update } else { Op::Delete };
    tracker.change(TABLE, commit(xid), op, &[old, new.unwrap_or_default()].concat());
    tracker.delivered(commit(xid));
}

/// One that reads, with row 1 waiting to be read again.
fn tracker() -> Tracker {
    let mut tracker = Tracker::default();
    tracker.watch();
    tracker.describe(&schema());
    tracker.begin(TABLE);
    tracker.read_again(TABLE, [key()]);
    tracker
}

fn key() -> Box<[u8]> {
    key_of_texts(&["1".to_owned()])
}

/// Reads row 1 in this window with a snapshot that sees all below this one: the verdict, and the large values given.
fn read(tracker: &mut Tracker, window: u64, below: u32) -> (Verdict, Vec<String>) {
    let mut rows = Rows::default();
    rows.push(b"1\tas read\n", 2).unwrap();
    let (visible, asked) = (format!("{below}:{below}:").parse().unwrap(), [key()]);
    let read = Read { asked: &asked, all_read: true, ..chunk(window, &visible, &rows) };
    let mut given = Vec::new();
    let verdict = tracker.settle(&read, |row| {
        let (tuple, rest) = Tuple::split(&row).unwrap();
        let Some(Value::Text(large)) = tuple.values().nth(1) else { panic!("no text") };
        assert_eq!(rest, b"");
        given.push(String::from_utf8(large.to_vec()).unwrap());
    });
    (verdict, given)
}

/// Else there would always be one more.
#[test]
fn a_row_that_is_updated_all_the_time_is_read_once_more() {
    for (larges, now) in [
        (&[None][..], "as read"),
        (&[None, Some("new"), None], "new"),
        (&[Some("new"), Some("newer"), None], "newer"),
    ] {
        let mut tracker = tracker();
        update(&mut tracker, 10, None);
        let window = tracker.open(TABLE).unwrap();
        update(&mut tracker, 11, Some("seen"));
        (12..).zip(larges).for_each(|(xid, large)| update(&mut tracker, xid, *large));
        assert_eq!(read(&mut tracker, window, 12), (Verdict::Written, vec![now.to_owned()]));
        assert_eq!(tracker.again(TABLE).count(), 0);
        assert_eq!(tracker.noted, 0, "its notes are gone");
    }
}

/// Of a partition that is FULL below a root of which others are not, all of the row as it was is said.
#[test]
fn so_is_one_whose_row_of_before_is_said() {
    let mut tracker = tracker();
    tracker.describe(&Schema { id: 2, identity: Identity::Default, ..schema() });
    let window = tracker.open(TABLE).unwrap();
    let raw = [b"O".to_vec(), tuple("1", Some("as read")), b"N".to_vec(), tuple("1", None)].concat();
    tracker.change(TABLE, commit(12), Op::Update, &raw);
    tracker.delivered(commit(12));
    assert_eq!(read(&mut tracker, window, 12), (Verdict::Written, vec!["as read".to_owned()]));
    assert_eq!(tracker.again(TABLE).count(), 0);
}

fn with_column(id: SchemaId, oid: u32, labels: &[&str], key: &[u16]) -> Schema {
    let kind = TypeKind::Enum(labels.iter().map(ToString::to_string).collect());
    let ty = Type { oid, name: "mood".to_owned(), kind };
    let column = Column { name: "m".to_owned(), ty, typmod: -1, identity: false, not_null: false };
    Schema { id, columns: vec![column], key: key.to_vec(), ..schema() }
}

/// Whose version need not be the reader's, where the stream has not described the table since.
#[test]
fn so_is_one_of_a_version_whose_rows_are_written_alike() {
    let now = with_column(7, 20_000, &["sad", "ok"], &[0]);
    for (stream, waits) in
        [(with_column(2, 20_000, &["ok"], &[0]), 0), (with_column(2, 20_001, &["ok"], &[0]), 1)]
    {
        let mut tracker = tracker();
        tracker.describe(&stream);
        let window = tracker.open(TABLE).unwrap();
        update(&mut tracker, 12, None);
        let mut rows = Rows::default();
        rows.push(b"1\tas read\n", 2).unwrap();
        let (visible, asked) = ("12:12:".parse().unwrap(), [key()]);
        let read = Read { schema: 7, form: Form::of(&now), asked: &asked, ..chunk(window, &visible, &rows) };
        let mut given = 0;
        assert_eq!(tracker.settle(&read, |_| given += 1), Verdict::Written);
        assert_eq!((given, tracker.again(TABLE).count()), (1 - waits, waits));
    }
    // The key of the one says nothing of a row of the other.
    assert_ne!(Form::of(&now), Form::of(&Schema { key: vec![1], ..now.clone() }));
}

#[test]
fn one_that_is_not_where_it_was_waits() {
    for to in [None, Some("1"), Some("2")] {
        let mut tracker = tracker();
        let window = tracker.open(TABLE).unwrap();
        leave(&mut tracker, 12, to);
        update(&mut tracker, 13, None);
        assert_eq!(read(&mut tracker, window, 12), (Verdict::Written, vec![]));
        assert!(tracker.again(TABLE).any(|waits| *waits == *key()));
    }
}

/// A table that was altered in between may have as many columns, and other ones; the stream need not have said so yet.
#[test]
fn one_of_another_version_waits() {
    let mut tracker = tracker();
    tracker.describe(&with_column(7, 20_000, &[], &[0]));
    let window = tracker.open(TABLE).unwrap();
    update(&mut tracker, 12, None);
    assert_eq!(read(&mut tracker, window, 12), (Verdict::Written, vec![]));
    assert_eq!(tracker.again(TABLE).count(), 1);
}

/// Of what came before it began to wait the tuples were not kept.
#[test]
fn one_that_came_to_wait_in_the_window_waits_on() {
    let mut tracker = tracker();
    tracker.end(TABLE);
    tracker.begin(TABLE);
    let window = tracker.open(TABLE).unwrap();
    update(&mut tracker, 12, None);
    tracker.read_again(TABLE, [key()]);
    update(&mut tracker, 13, None);
    assert_eq!(read(&mut tracker, window, 12), (Verdict::Written, vec![]));
    assert_eq!(tracker.again(TABLE).count(), 1);
}

/// With a standby that takes a while to answer, and commits that come without a pause, no window begins at a moment at
/// which all that was streamed can be seen.
#[test]
fn what_was_streamed_before_a_window_is_seen_in_it_in_the_end() {
    let mut tracker = tracker();
    tracker.delivered(commit(10));
    let window = tracker.open(TABLE).unwrap();
    for xid in 11..20 {
        tracker.delivered(commit(xid));
        // Each is seen when the next one has been streamed.
        let below = xid - 1;
        let expected = if below <= 10 { Verdict::Unseen } else { Verdict::Written };
        let (verdict, given) = read(&mut tracker, window, below);
        assert_eq!(verdict, expected, "below {below}");
        if verdict == Verdict::Written {
            assert_eq!(given, ["as read"]);
            return;
        }
    }
    panic!("it is never written");
}

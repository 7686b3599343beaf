//! A table that is altered between the reading of a chunk and its place in the stream.

use super::*;
use crate::snapshot::model::{TABLE, chunk, schema};
use crate::snapshot::rows::Rows;
use crate::snapshot::visible::Visible;

/// What becomes of a chunk of two rows that were read as of a version, in this window.
fn settled(tracker: &mut Tracker, window: u64, version: SchemaId) -> (Verdict, usize) {
    let mut rows = Rows::default();
    rows.push(b"1\tlarge\n", 2).unwrap();
    rows.push(b"2\tlarge\n", 2).unwrap();
    let visible: Visible = "1:99:".parse().unwrap();
    let read = Read { schema: version, ..chunk(window, &visible, &rows) };
    let mut kept = 0;
    (tracker.settle(&read, |_| kept += 1), kept)
}

fn described(tracker: &mut Tracker, version: SchemaId) {
    tracker.describe(&Schema { id: version, ..schema() });
}

/// Behind an event of the new version no row of the old one is told.
#[test]
fn rows_of_the_version_before_are_read_again() {
    let mut tracker = Tracker::default();
    tracker.watch();
    described(&mut tracker, 1);
    tracker.begin(TABLE);
    let window = tracker.open(TABLE).unwrap();
    described(&mut tracker, 1);
    assert_eq!(settled(&mut tracker, window, 1), (Verdict::Written, 2), "told again, and the same");

    let (early, late) = (tracker.open(TABLE).unwrap(), tracker.open(TABLE).unwrap());
    described(&mut tracker, 2);
    assert_eq!(settled(&mut tracker, early, 1), (Verdict::Changed, 0));
    assert_eq!(
        settled(&mut tracker, late, 2),
        (Verdict::Written, 2),
        "read behind the change, told before it"
    );
    let behind = tracker.open(TABLE).unwrap();
    assert_eq!(settled(&mut tracker, behind, 2), (Verdict::Written, 2));
    // The stream has not come to the change that the reader has seen.
    let ahead = tracker.open(TABLE).unwrap();
    assert_eq!(settled(&mut tracker, ahead, 3), (Verdict::Written, 2));
}

/// What was noted as of a version in between is not found by the key of the other one.
#[test]
fn rows_of_a_version_that_comes_back_are_read_again() {
    let mut tracker = Tracker::default();
    tracker.watch();
    described(&mut tracker, 1);
    tracker.begin(TABLE);
    let window = tracker.open(TABLE).unwrap();
    described(&mut tracker, 2);
    described(&mut tracker, 1);
    assert_eq!(settled(&mut tracker, window, 1), (Verdict::Changed, 0));
}

//! What cannot be reckoned with is said, and memory is bounded.

use super::*;
use crate::snapshot::model::schema;
use crate::snapshot::rows::Rows;
use crate::snapshot::told::tests::{raw, tuple};
use crate::snapshot::tracker::Tracker;

const TABLE: u32 = 7;
/// Of no such transaction it is seen.
const LATER: Commit = Commit { xid: 900, at: Lsn(90) };
const SEEN: Commit = Commit { xid: 800, at: Lsn(70) };

fn visible() -> Visible {
    "900:900:".parse().unwrap()
}

fn tracker() -> Tracker {
    let mut tracker = Tracker::default();
    tracker.watch();
    tracker.describe(&schema());
    tracker.begin_whole(TABLE);
    tracker
}

fn opened(tracker: &mut Tracker) -> Opened {
    tracker.open_whole(TABLE).unwrap().unwrap()
}

fn settle(tracker: &mut Tracker, window: u64, told: &Told, exact: bool) -> Result<Changes, Flaw> {
    let (visible, shape) = (visible(), Shape::of(&schema()));
    let (visible, left_out) = (&visible, None);
    tracker.settle_whole(&ReadWhole { relation: TABLE, window, visible, shape, told, left_out, exact })
}

/// Looks after a table for which these changes come while it is read.
fn settled(changes: impl Fn(&mut Tracker)) -> Result<Changes, Flaw> {
    let mut tracker = tracker();
    tracker.tell(TABLE, Told::default())?;
    let Opened { window, told, .. } = opened(&mut tracker);
    tracker.know(TABLE, window, &visible(), Lsn(80));
    changes(&mut tracker);
    settle(&mut tracker, window, &told, true)
}

#[test]
fn what_cannot_be_reckoned_with_is_said() {
    let insert = raw(&[(b'N', &["1", "x"])]);
    assert!(settled(|tracker| tracker.change(TABLE, LATER, Op::Insert, &insert)).is_ok());
    let key = raw(&[(b'K', &["1", "NULL"])]);
    let unsaid = settled(|tracker| {
        tracker.change(TABLE, LATER, Op::Delete, &key);
        tracker.change(TABLE, LATER, Op::Insert, &insert);
    });
    assert_eq!(unsaid.unwrap_err(), Flaw::Unsaid);
    assert_eq!(settled(|tracker| tracker.delivered_untold(LATER)).unwrap_err(), Flaw::Unsaid);
    assert!(settled(|tracker| tracker.truncate(TABLE, SEEN)).is_ok(), "nothing was left out");
    assert!(settled(|tracker| tracker.truncate(TABLE, LATER)).unwrap().emptied);
    let altered = |tracker: &mut Tracker| {
        // No other column is known of it; its identity will do.
        let identity = rowcast_engine::schema::Identity::Default;
        tracker.describe(&rowcast_engine::schema::Schema { id: 2, identity, ..schema() });
    };
    let renumbered = settled(|tracker| {
        tracker.change(TABLE, LATER, Op::Insert, &insert);
        tracker.describe(&rowcast_engine::schema::Schema { id: 2, inserts_only: true, ..schema() });
        tracker.change(TABLE, LATER, Op::Insert, &insert);
    });
    assert!(renumbered.is_ok(), "its rows look as before");
    // Rows of before are not those of behind; where nothing was told before, the next reading has the new ones.
    assert!(settled(altered).is_ok());
    let late = settled(|tracker| {
        altered(tracker);
        tracker.change(TABLE, LATER, Op::Insert, &insert);
    });
    assert_eq!(late.unwrap_err(), Flaw::Changed);
    let both = settled(|tracker| {
        tracker.change(TABLE, LATER, Op::Insert, &insert);
        altered(tracker);
        tracker.change(TABLE, LATER, Op::Insert, &insert);
    });
    assert_eq!(both.unwrap_err(), Flaw::Shapes);
}

#[test]
fn memory_is_bounded_however_large_rows_are() {
    let large = |number: usize| raw(&[(b'N', &[&number.to_string(), &"x".repeat(1 << 20)])]);
    // What comes behind the snapshot need not be kept itself.
    let behind = settled(|tracker| {
        (0..200).for_each(|number| tracker.change(TABLE, LATER, Op::Insert, &large(number)));
        assert!(tracker.wholes[&TABLE].bytes() < 1 << 20);
    });
    assert!(behind.is_ok());
    let before = settled(|tracker| {
        (0..70).for_each(|number| tracker.change(TABLE, SEEN, Op::Insert, &large(number)));
        assert_eq!(tracker.wholes[&TABLE].bytes(), 0, "nothing is kept in vain");
    });
    assert_eq!(before.unwrap_err(), Flaw::TooMuch);

    let mut told = Told::default();
    (0..900_000_u32).for_each(|number| told.add(&number.to_be_bytes()));
    let mut tracker = tracker();
    assert_eq!(tracker.tell(TABLE, told), Err(Flaw::TooMuch));
    assert_eq!(tracker.open_whole(TABLE).unwrap().unwrap_err(), Flaw::TooMuch);
}

/// The reader of a large table need not come to its end.
#[test]
fn a_reader_hears_that_it_reads_in_vain() {
    let mut tracker = tracker();
    tracker.tell(TABLE, Told::default()).unwrap();
    let Opened { spoilt, .. } = opened(&mut tracker);
    tracker.change(TABLE, LATER, Op::Delete, &raw(&[(b'K', &["1", "NULL"])]));
    assert!(spoilt.load(Ordering::Relaxed));
}

#[test]
fn what_events_alone_have_told_is_an_excess() {
    for exact in [true, false] {
        let mut tracker = tracker();
        let mut told = Told::default();
        told.add(&tuple(&["1", "x"]));
        tracker.tell(TABLE, told).unwrap();
        let Opened { window, told, .. } = opened(&mut tracker);
        tracker.know(TABLE, window, &visible(), Lsn(80));
        // It is not among the rows that are read.
        let settled = settle(&mut tracker, window, &told, exact);
        assert_eq!(settled.map(drop), if exact { Err(Flaw::Excess) } else { Ok(()) });
    }
}

/// Rows that were left out since he had them, and that he has lost by then, where memory does not hold them.
#[test]
fn what_was_left_out_and_is_gone_is_read_again() {
    let mut tracker = tracker();
    let (mut told, row) = (Told::default(), tuple(&["1", "x"]));
    told.add(&row);
    tracker.tell(TABLE, told).unwrap();
    let Opened { window, mut told, .. } = opened(&mut tracker);
    tracker.know(TABLE, window, &visible(), Lsn(80));
    assert!(told.meet(&row));
    tracker.truncate(TABLE, SEEN);
    assert_eq!(settle(&mut tracker, window, &told, true).map(drop), Err(Flaw::Changed));
    tracker.close_whole(TABLE, window, told);
    assert!(opened(&mut tracker).told.is_empty());
}

/// What was told is not told again, also in a second reading, and a row that he has twice is left out twice.
#[test]
fn what_the_consumer_has_is_left_out() {
    let (x, y) = (["1", "x"], ["2", "y"]);
    let insert = |values: &[&str]| raw(&[(b'N', values)]);
    let mut tracker = tracker();
    // Before the journal has been looked up.
    tracker.change(TABLE, SEEN, Op::Insert, &insert(&x));
    let mut told = Told::default();
    told.shape = Some(Shape::of(&schema()));
    told.add(&tuple(&x));
    tracker.tell(TABLE, told).unwrap();
    for round in 0..2 {
        let Opened { window, mut told, .. } = opened(&mut tracker);
        let mut rows = Rows::default();
        for line in ["1\tx\n", "1\tx\n", "1\tx\n", "2\ty\n"] {
            rows.push(line.as_bytes(), 2).unwrap();
            if told.meet(rows.iter().next_back().unwrap()) {
                rows.pop();
            }
        }
        tracker.change(TABLE, LATER, Op::Insert, &insert(&x));
        tracker.know(TABLE, window, &visible(), Lsn(80));
        if round == 0 {
            assert_eq!(rows.len(), 2);
            // Seen by the snapshot, and so by the next one.
            tracker.change(TABLE, SEEN, Op::Insert, &insert(&y));
            tracker.close_whole(TABLE, window, told);
            continue;
        }
        // He had x three times, and y.
        assert_eq!(rows.len(), 0);
        assert_eq!(settle(&mut tracker, window, &told, true).map(drop), Ok(()));
    }
}

#[test]
fn another_window_or_none_is_of_no_use() {
    let mut tracker = tracker();
    assert!(tracker.open_whole(TABLE).is_none(), "it is not known what the consumer has");
    tracker.tell(TABLE, Told::default()).unwrap();
    let Opened { window, told, .. } = opened(&mut tracker);
    assert_eq!(settle(&mut tracker, window + 1, &told, true).map(drop), Err(Flaw::Changed));
    assert_eq!(settle(&mut tracker, window, &told, true).map(drop), Ok(()));
    tracker.close_whole(TABLE, window, told);
    assert!(tracker.open_whole(TABLE).is_some());
}

/// A row is noted once, however many there are of it.
#[test]
fn many_of_one_row_take_no_memory() {
    let deletes = |count: usize| {
        settled(|tracker| {
            let row = "x".repeat(1 << 20);
            (0..count).for_each(|_| tracker.change(TABLE, LATER, Op::Delete, &raw(&[(b'O', &["1", &row])])));
        })
    };
    assert!(deletes(50).is_ok());
    assert_eq!(deletes(70).map(drop), Err(Flaw::Changed));
}

/// What he has had of rows that looked another way, and has no more, is no reason to give the table up.
#[test]
fn rows_of_another_shape_of_which_he_has_none_do_not_matter() {
    let mut tracker = tracker();
    tracker.tell(TABLE, Told::default()).unwrap();
    tracker.change(TABLE, SEEN, Op::Insert, &raw(&[(b'N', &["1", "x"])]));
    tracker.change(TABLE, SEEN, Op::Delete, &raw(&[(b'O', &["1", "x"])]));
    let Opened { window, told, .. } = opened(&mut tracker);
    tracker.know(TABLE, window, &visible(), Lsn(80));
    assert!(told.is_empty());
    assert_eq!(settle(&mut tracker, window, &told, true).map(drop), Ok(()));
    tracker.close_whole(TABLE, window, told);
    let identity = rowcast_engine::schema::Identity::Default;
    tracker.describe(&rowcast_engine::schema::Schema { id: 2, identity, ..schema() });
    tracker.change(TABLE, SEEN, Op::Insert, &raw(&[(b'N', &["2", "x"])]));
    assert!(tracker.wholes[&TABLE].soundness().is_ok());
}

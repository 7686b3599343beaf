//! Which position of the source belongs to which number, coarsely: for a source that is to be told only what push
//! doors have, too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::segment::Segment;
use crate::lsn::Lsn;

/// So many are kept: 64 KB. When there are more, every second one goes, so that those of a door that is far behind are
/// further apart. A mark that is missing only makes what is told lower.
const MARKS_MAX: usize = 4096;

/// Whoever has all events up to `number` has all that committed in the source up to `lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    number: u64,
    lsn: Lsn,
}

/// Marks of the newest history, both of their members rising.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<VecDeque<Mark>>);

impl Marks {
    /// Those that segments know; what was noted between them before the restart is not missed for long.
    pub(crate) fn of(segments: &[Arc<Segment>], position: Lsn) -> Self {
        let marks = Self::default();
        let begin = segments.iter().rposition(|segment| segment.header.history.is_some()).unwrap_or(0);
        let held = segments.get(begin..).unwrap_or_default();
        held.iter().for_each(|segment| marks.note(segment.last(), segment.lsn_max()));
        if let Some(newest) = held.last() {
            marks.note(newest.last(), position);
        }
        marks
    }

    /// The journal holds all up to `lsn`, and `number` is its newest event.
    pub(crate) fn note(&self, number: u64, lsn: Lsn) {
        let mut marks = self.locked();
        match marks.back_mut() {
            Some(last) if lsn <= last.lsn => return,
            Some(last) if last.number == number => {
                last.lsn = lsn;
                return;
            }
            None if lsn == Lsn::ZERO => return,
            _ => {}
        }
        if marks.len() == MARKS_MAX {
            let mut at = 0;
            marks.retain(|_| {
                at += 1;
                // From behind: the newest one stays, since no other may follow.
                (MARKS_MAX - at).is_multiple_of(2)
            });
        }
        marks.push_back(Mark { number, lsn });
    }

    /// From here on positions are of another history.
    pub(crate) fn begin(&self, number: u64, lsn: Lsn) {
        self.locked().clear();
        self.note(number, lsn);
    }

    /// The position up to which one has everything who has all events up to `number`; `None` below all marks.
    pub(crate) fn reached(&self, number: u64) -> Option<Lsn> {
        let marks = self.locked();
        let after = marks.partition_point(|mark| mark.number <= number);
        after.checked_sub(1).and_then(|at| marks.get(at)).map(|mark| mark.lsn)
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_reaches_the_position_below_it() {
        let marks = Marks::default();
        marks.note(0, Lsn::ZERO);
        assert_eq!(marks.reached(u64::MAX), None, "nothing has been captured");
        marks.note(10, Lsn(100));
        marks.note(20, Lsn(200));
        // An idle position moves without events.
        marks.note(20, Lsn(250));
        marks.note(30, Lsn(250));
        assert_eq!(marks.reached(9), None);
        assert_eq!(
            [10, 19, 20, 99].map(|number| marks.reached(number)),
            [100, 100, 250, 250].map(|lsn| Some(Lsn(lsn)))
        );
        marks.begin(40, Lsn(50));
        assert_eq!((marks.reached(39), marks.reached(40)), (None, Some(Lsn(50))));
    }

    /// However many there are, what is told is never too high, and whoever has everything is told everything.
    #[test]
    fn thinning_makes_it_lower_and_never_higher() {
        let marks = Marks::default();
        for number in 1..=20_000_u64 {
            marks.note(number, Lsn(number * 10));
            assert_eq!(marks.reached(number), Some(Lsn(number * 10)));
        }
        assert!(marks.locked().len() <= MARKS_MAX);
        for number in 1..=20_000_u64 {
            assert!(marks.reached(number).is_none_or(|lsn| lsn.0 <= number * 10), "{number}");
        }
        let lag = 5_000 - marks.reached(5_000).map_or(0, |lsn| lsn.0 / 10);
        assert!(lag < 64, "{lag} behind");
    }
}

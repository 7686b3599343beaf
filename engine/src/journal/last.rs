//! Where the newest events begin. Numbers have gaps between segments, so that a count is no difference of numbers: each
//! segment knows how many events came before it.

use std::sync::Arc;

use crate::journal::segment::Segment;

/// The number before the newest `count` events; `None` where that is the end. In logarithmic time.
pub(super) fn before_last(segments: &[Arc<Segment>], count: u64) -> Option<u64> {
    let (oldest, newest) = (segments.first()?, segments.last()?);
    let before = newest.count().saturating_sub(count).max(oldest.count_before());
    let at = segments.partition_point(|segment| segment.count() <= before);
    let segment = segments.get(at)?;
    Some(segment.header.base + (before - segment.count_before()) - 1)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::journal::segment::SegmentHeader;
    use crate::lsn::Lsn;

    /// Segments with so many events each, and so many numbers left out before each.
    fn segments(shape: &[(u64, u64)]) -> Vec<Arc<Segment>> {
        let mut made: Vec<Arc<Segment>> = Vec::new();
        let mut next = 1;
        for (gap, events) in shape {
            next += gap;
            let header = SegmentHeader {
                base: next,
                previous_last: made.last().map_or(0, |before| before.last()),
                ..SegmentHeader::default()
            };
            let mut segment = Segment::new(header, PathBuf::new(), 0, Lsn::ZERO);
            if let Some(before) = made.last() {
                segment = segment.behind(before);
            }
            segment.restore(Vec::new(), 1000, *events, (0, Lsn::ZERO));
            next += events.max(&1);
            made.push(Arc::new(segment));
        }
        made
    }

    proptest! {
        #[test]
        fn it_is_where_counting_from_the_end_comes_to(
            shape in prop::collection::vec((0u64..50, 0u64..20), 1..40),
            removed in 0usize..40,
            count in 0u64..500,
        ) {
            let held = segments(&shape).split_off(removed.min(shape.len() - 1));
            let numbers: Vec<_> = held
                .iter()
                .flat_map(|segment| (0..segment.events()).map(|at| segment.header.base + at))
                .collect();
            let counted = numbers.len().saturating_sub(usize::try_from(count).unwrap());
            prop_assert_eq!(before_last(&held, count), numbers.get(counted).map(|first| first - 1));
        }
    }

    #[test]
    fn without_events_there_is_none() {
        assert_eq!(before_last(&[], 3), None);
        assert_eq!(before_last(&segments(&[(5, 0)]), 3), None);
        assert_eq!(before_last(&segments(&[(5, 3), (9, 0)]), 0), None);
    }
}

//! The first record of a producer in a partition goes alone.
//!
//! A broker takes whatever sequence number comes first from a producer of which it knows nothing, since it may have
//! forgotten it (`ProducerAppendInfo.checkSequence`). So of two requests on their way to a partition that is not ready
//! yet, as those of a topic just made, it can refuse the first and take the second: what came later is read first, and
//! whoever leaves out repetitions by number keeps what is old. Once it has one record it refuses what does not follow.

use std::collections::{HashMap, HashSet};

use crate::partition;

/// Custom channels are anyone's to name: beyond so many topics all begin anew, which costs a wait for each.
const TOPICS_MAX: usize = 10_000;

/// How far one producer has come with each topic.
#[derive(Debug, Default)]
pub(crate) struct Beginnings {
    topics: HashMap<String, Topic>,
}

#[derive(Debug)]
enum Topic {
    /// The first record, of this key, is on its way; how many partitions there are is not known yet.
    First(Vec<u8>),
    Some {
        partitions: i32,
        /// They have a record.
        begun: HashSet<i32>,
        /// Their first one is on its way.
        beginning: HashSet<i32>,
    },
    /// All partitions have one.
    All,
}

/// What comes before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// All that is on its way arrives.
    Arrival,
    /// Likewise; then it is to be said how many partitions the topic has.
    Counting,
}

impl Beginnings {
    /// Of another producer.
    pub(crate) fn anew(&mut self) {
        self.topics.clear();
    }

    /// What has to come before a record of this topic, with a key or without, is sent. When it is nothing the record
    /// counts as on its way.
    pub(crate) fn before(&mut self, topic: &str, key: Option<&[u8]>) -> Before {
        let key = partition::hashed(topic, key);
        let full = self.topics.len() >= TOPICS_MAX;
        match self.topics.get_mut(topic) {
            Some(Topic::All) => Before::Nothing,
            Some(Topic::First(_)) => Before::Counting,
            Some(Topic::Some { partitions, begun, beginning }) => {
                let place = partition::place(key, *partitions);
                if begun.contains(&place) || beginning.insert(place) {
                    Before::Nothing
                } else {
                    Before::Arrival
                }
            }
            None if full => {
                self.anew();
                Before::Arrival
            }
            None => {
                self.topics.insert(topic.to_owned(), Topic::First(key.to_owned()));
                Before::Nothing
            }
        }
    }

    /// The topic whose first record has arrived has so many partitions.
    pub(crate) fn counted(&mut self, topic: &str, partitions: i32) {
        if let Some(known) = self.topics.get_mut(topic)
            && let Topic::First(key) = known
        {
            let begun = [partition::place(key, partitions)].into();
            *known = Topic::Some { partitions, begun, beginning: HashSet::new() };
        }
    }

    /// All that was on its way has arrived.
    pub(crate) fn arrived(&mut self) {
        for topic in self.topics.values_mut() {
            if let Topic::Some { partitions, begun, beginning } = topic {
                begun.extend(beginning.drain());
                if i32::try_from(begun.len()).is_ok_and(|count| count >= *partitions) {
                    *topic = Topic::All;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_begins_with_one_record() {
        let (a, b) = (Some(b"21".as_slice()), Some(b"a-little-bit-long-string".as_slice()));
        assert_ne!(partition::place(a.unwrap(), 3), partition::place(b.unwrap(), 3));
        let mut known = Beginnings::default();
        assert_eq!(known.before("t", a), Before::Nothing);
        assert_eq!(known.before("t", b), Before::Counting);
        known.arrived();
        assert_eq!(known.before("t", a), Before::Counting);
        known.counted("t", 3);
        assert_eq!([known.before("t", a), known.before("t", a)], [Before::Nothing; 2]);
        // Another partition, and another topic, do not wait for this one.
        assert_eq!([known.before("t", b), known.before("u", b)], [Before::Nothing; 2]);
        assert_eq!(known.before("t", b), Before::Arrival);
        known.arrived();
        assert_eq!([known.before("t", b), known.before("t", b)], [Before::Nothing; 2]);
        known.anew();
        assert_eq!([known.before("t", a), known.before("t", a)], [Before::Nothing, Before::Counting]);
    }

    #[test]
    fn a_topic_is_forgotten_where_there_are_too_many_and_done_when_all_have_begun() {
        let mut known = Beginnings::default();
        assert_eq!(known.before("t", None), Before::Nothing);
        known.counted("t", 1);
        known.arrived();
        assert!(matches!(known.topics["t"], Topic::All));
        for count in 1..TOPICS_MAX {
            assert_eq!(known.before(&count.to_string(), None), Before::Nothing);
        }
        assert_eq!(known.before("u", None), Before::Arrival);
        assert_eq!(known.before("u", None), Before::Nothing);
        assert_eq!(known.topics.len(), 1);
    }
}

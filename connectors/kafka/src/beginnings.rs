//! The first record of a producer in a partition goes alone.
//!
//! A broker takes whatever sequence number comes first from a producer of which it knows nothing, since it may have
//! forgotten it (`ProducerAppendInfo.checkSequence`). So of two requests on their way to a partition that is not ready
//! yet, as those of a topic just made, it can refuse the first and take the second: what came later is read first, and
//! whoever leaves out repetitions by number keeps what is old. Once it has one record it refuses what does not follow.
//! A topic that is given more partitions begins anew, with those that it had as well: all that was on its way arrives first.

use std::collections::{HashMap, HashSet};

use crate::partition::{self, TOPICS_MAX};

/// How far one producer has come with each topic.
#[derive(Debug, Default)]
pub(crate) struct Beginnings {
    topics: HashMap<String, Topic>,
}

#[derive(Debug)]
enum Topic {
    /// The first record, of this key, is on its way; how many partitions there are is known when it is there.
    First(Vec<u8>),
    Some {
        partitions: i32,
        /// They have a record.
        begun: HashSet<i32>,
        /// Their first one is on its way.
        beginning: HashSet<i32>,
    },
    /// All partitions, of which there are so many, have one.
    All(i32),
}

/// What comes before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// All that is on its way arrives.
    Arrival,
}

impl Beginnings {
    /// Of another producer.
    pub(crate) fn anew(&mut self) {
        self.topics.clear();
    }

    /// What has to come before a record of this topic, with a key or without, is sent. When that is no arrival the
    /// record counts as on its way.
    pub(crate) fn before(&mut self, topic: &str, key: Option<&[u8]>) -> Before {
        let key = partition::hashed(topic, key);
        let full = self.topics.len() >= TOPICS_MAX;
        match self.topics.get_mut(topic) {
            Some(Topic::All(_)) => Before::Nothing,
            Some(Topic::First(_)) => Before::Arrival,
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

    /// All that was on its way has arrived; topics have so many partitions, and not all of them as many as before.
    pub(crate) fn arrived(&mut self, changed: bool, count_of: impl Fn(&str) -> Option<i32>) {
        self.topics.retain(|name, topic| {
            let key = match topic {
                Topic::First(key) => key,
                Topic::Some { partitions, .. } | Topic::All(partitions) => {
                    return !changed || count_of(name) == Some(*partitions);
                }
            };
            // One that nobody has counted begins anew.
            let Some(partitions) = count_of(name) else { return false };
            let begun = [partition::place(key, partitions)].into();
            *topic = Topic::Some { partitions, begun, beginning: HashSet::new() };
            true
        });
        for topic in self.topics.values_mut() {
            if let Topic::Some { partitions, begun, beginning } = topic {
                begun.extend(beginning.drain());
                if i32::try_from(begun.len()).is_ok_and(|count| count >= *partitions) {
                    *topic = Topic::All(*partitions);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(topic: &'static str, partitions: i32) -> impl Fn(&str) -> Option<i32> {
        move |asked| (asked == topic).then_some(partitions)
    }

    #[test]
    fn a_partition_begins_with_one_record() {
        let (a, b) = (Some(b"21".as_slice()), Some(b"a-little-bit-long-string".as_slice()));
        assert_ne!(partition::place(a.unwrap(), 3), partition::place(b.unwrap(), 3));
        let mut known = Beginnings::default();
        assert_eq!([known.before("t", a), known.before("t", b)], [Before::Nothing, Before::Arrival]);
        known.arrived(false, counts("t", 3));
        assert_eq!([known.before("t", a), known.before("t", a)], [Before::Nothing; 2]);
        // Another partition, and another topic, do not wait for this one.
        assert_eq!([known.before("t", b), known.before("u", b)], [Before::Nothing; 2]);
        assert_eq!(known.before("t", b), Before::Arrival);
        known.arrived(false, counts("v", 1));
        assert_eq!([known.before("t", b), known.before("t", b)], [Before::Nothing; 2]);
        assert_eq!(known.before("u", b), Before::Nothing);
        assert_eq!(known.before("u", b), Before::Arrival, "nobody has counted it");
        known.anew();
        assert_eq!([known.before("t", a), known.before("t", a)], [Before::Nothing, Before::Arrival]);
    }

    #[test]
    fn a_topic_begins_anew_when_it_has_more_partitions() {
        let mut known = Beginnings::default();
        for topic in ["t", "u"] {
            assert_eq!(known.before(topic, None), Before::Nothing);
        }
        known.arrived(false, |_| Some(1));
        assert_eq!([known.before("t", None), known.before("t", None)], [Before::Nothing; 2]);
        known.arrived(true, |topic| Some(if topic == "t" { 2 } else { 1 }));
        assert_eq!([known.before("t", None), known.before("t", None)], [Before::Nothing, Before::Arrival]);
        assert_eq!([known.before("u", None), known.before("u", None)], [Before::Nothing; 2]);
    }

    #[test]
    fn a_topic_is_forgotten_where_there_are_too_many_and_done_when_all_have_begun() {
        let mut known = Beginnings::default();
        assert_eq!(known.before("t", None), Before::Nothing);
        known.arrived(false, counts("t", 1));
        assert!(matches!(known.topics["t"], Topic::All(1)));
        for count in 1..TOPICS_MAX {
            assert_eq!(known.before(&count.to_string(), None), Before::Nothing);
        }
        assert_eq!(known.before("u", None), Before::Arrival);
        assert_eq!(known.before("u", None), Before::Nothing);
        assert_eq!(known.topics.len(), 1);
    }
}

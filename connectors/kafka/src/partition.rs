//! Which partition a record goes to.
//!
//! A record with a key goes where every Java client would put it (murmur2, as `DefaultPartitioner` does), so that
//! consumers may join topics by key. One without a key, of a table that has none or of a custom channel, goes to the
//! one partition that the topic's name hashes to: these events stay in order, too.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::producer::Partitioner;

/// Custom channels are anyone's to name: beyond so many topics all are counted anew.
pub(crate) const TOPICS_MAX: usize = 10_000;

/// Partitions by key, or by topic where there is no key.
#[derive(Debug, Default)]
pub(crate) struct ByKey {
    /// How many partitions each topic has, as the record before told.
    counted: Mutex<HashMap<String, i32>>,
    /// One has another number than before.
    changed: AtomicBool,
}

impl ByKey {
    /// The partitions of a topic, without a question to Kafka: each record tells.
    pub(crate) fn count_of(&self, topic: &str) -> Option<i32> {
        self.counted().get(topic).copied()
    }

    /// Whether a topic has had its partitions changed, and nobody has taken notice yet.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed.load(SeqCst)
    }

    /// Takes notice.
    pub(crate) fn notice(&self) -> bool {
        self.changed.swap(false, SeqCst)
    }

    fn note(&self, topic: &str, partitions: i32) {
        let mut counted = self.counted();
        if let Some(known) = counted.get_mut(topic) {
            if std::mem::replace(known, partitions) != partitions {
                self.changed.store(true, SeqCst);
            }
            return;
        }
        if counted.len() >= TOPICS_MAX {
            counted.clear();
            self.changed.store(true, SeqCst);
        }
        counted.insert(topic.to_owned(), partitions);
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<String, i32>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partitioner for ByKey {
    fn partition(
        &self,
        topic_name: &str,
        key: Option<&[u8]>,
        partition_cnt: i32,
        _is_partition_available: impl Fn(i32) -> bool,
    ) -> i32 {
        self.note(topic_name, partition_cnt);
        place(hashed(topic_name, key), partition_cnt)
    }
}

/// What decides where a record goes.
pub(crate) fn hashed<'a>(topic: &'a str, key: Option<&'a [u8]>) -> &'a [u8] {
    key.unwrap_or(topic.as_bytes())
}

/// The partition of these bytes among `count`, from 0.
pub(crate) fn place(bytes: &[u8], count: i32) -> i32 {
    // Java's integers have a sign, which it masks out.
    (murmur2(bytes) & 0x7fff_ffff).cast_signed() % count.max(1)
}

/// MurmurHash2, 32 bits, with the seed of Kafka's Java client.
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // The length is part of the hash; longer keys than 4 GB do not exist.
    let mut hash = SEED ^ u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_java_client() {
        // The values that Kafka's own tests expect.
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn each_record_tells_how_many_partitions_there_are() {
        let by_key = ByKey::default();
        let sent = |topic: &str, count| _ = by_key.partition(topic, None, count, |_| true);
        assert_eq!(by_key.count_of("a"), None);
        sent("a", 12);
        sent("b", 1);
        sent("a", 12);
        assert_eq!((by_key.count_of("a"), by_key.count_of("b")), (Some(12), Some(1)));
        assert!(!by_key.has_changed(), "what was not known is no change");
        sent("a", 13);
        assert!(by_key.has_changed() && by_key.notice() && !by_key.has_changed());
        assert_eq!(by_key.count_of("a"), Some(13));
        (0..2 * TOPICS_MAX).for_each(|topic| sent(&topic.to_string(), 1));
        assert!(by_key.counted().len() <= TOPICS_MAX);
        assert!(by_key.has_changed(), "whoever knew more cannot compare any more");
    }

    #[test]
    fn records_without_a_key_stay_together() {
        let at = |topic: &str, key: Option<&[u8]>| ByKey::default().partition(topic, key, 12, |_| true);
        assert_eq!(at("app.public.log", None), at("app.public.log", None));
        assert_ne!(at("app.public.log", None), at("app.public.journal", None));
        assert_eq!(at("a", Some(b"{\"id\":1}")), at("b", Some(b"{\"id\":1}")));
        assert!((0..1000).all(|n: i32| (0..7).contains(&place(&n.to_le_bytes(), 7))));
    }
}

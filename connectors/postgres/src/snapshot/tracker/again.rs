//! The keys of one table whose rows are to be read again.

use std::collections::BTreeSet;

/// More means that most of what was read is out of date: the table begins anew.
const KEYS_MAX: usize = 20_000;

/// Their memory, likewise. A chunk of 8 MB, whose rows have their keys in them, fits twice.
const BYTES_MAX: usize = 16 << 20;

/// What a key takes beside its bytes, about.
const KEY_BYTES: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Again {
    keys: BTreeSet<Box<[u8]>>,
    bytes: usize,
}

impl Again {
    pub(crate) fn insert(&mut self, key: Box<[u8]>) {
        let bytes = KEY_BYTES + key.len();
        if self.keys.insert(key) {
            self.bytes += bytes;
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if self.keys.remove(key) {
            self.bytes -= KEY_BYTES + key.len();
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains(key)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(AsRef::as_ref)
    }

    /// In order.
    pub(crate) fn into_keys(self) -> BTreeSet<Box<[u8]>> {
        self.keys
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// More than can be kept.
    pub(crate) fn is_too_much(&self) -> bool {
        self.keys.len() > KEYS_MAX || self.bytes > BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_by_count_and_by_bytes() {
        let mut again = Again::default();
        let small = |at: usize| at.to_be_bytes().into();
        (0..KEYS_MAX).for_each(|at| again.insert(small(at)));
        assert!(!again.is_too_much());
        again.insert(small(0));
        assert!(!again.is_too_much(), "it was there");
        again.insert(small(KEYS_MAX));
        assert!(again.is_too_much());
        again.clear();
        assert!(!again.is_too_much() && again.iter().count() == 0);
        let large = |at: u8| vec![at; BYTES_MAX / 4].into_boxed_slice();
        (0..3).for_each(|at| again.insert(large(at)));
        assert!(!again.is_too_much());
        again.insert(large(3));
        assert!(again.is_too_much());
        again.remove(&large(3));
        again.remove(&large(9));
        assert!(!again.is_too_much());
        (0..3).for_each(|at| again.remove(&large(at)));
        assert_eq!(again.bytes, 0);
    }
}

//! Bytes that take no more memory than they are long.

use bytes::Bytes;

/// As long as readers have it, it takes no more memory than it is long: what holds a row was given room for many.
pub(crate) fn fitted(mut bytes: Vec<u8>) -> Bytes {
    if bytes.capacity() - bytes.len() > bytes.len() / 8 {
        bytes.shrink_to_fit();
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_memory_take_what_they_are_long() {
        for (length, room) in [(243, 4096), (3900, 4096), (4096, 4096)] {
            let mut bytes = Vec::with_capacity(room);
            bytes.resize(length, 1);
            let taken = Vec::from(fitted(bytes)).capacity();
            assert!(taken <= length + length / 8, "{taken} for {length}");
        }
    }
}

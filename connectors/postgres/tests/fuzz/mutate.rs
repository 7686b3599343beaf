//! Changes that know where a message is vulnerable: its tag, its lengths and counts, its end.

use crate::random::Random;

/// Lengths and counts that no message keeps.
const LENGTHS: [u32; 7] = [0, 1, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF];

/// Every tag and kind that any version of the protocol has, and some that none has.
const LETTERS: &[u8] = b"BCORYIUDTMSEcAbPKrpNOnutb\0\x01\x02\x04\xFFZ";

/// Makes one to three changes; `other` is another message.
pub(super) fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            bytes.extend_from_slice(other);
            continue;
        }
        // Most of what is interesting stands in front.
        let reach = if random.chance(128) { bytes.len().min(24) } else { bytes.len() };
        let at = random.index(reach);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.one_of(LETTERS),
            2 => bytes.truncate(at),
            3 => set(&mut bytes[at..], &random.one_of(&LENGTHS).to_be_bytes()),
            4 => set(&mut bytes[at..], &random.one_of(&LENGTHS).to_be_bytes()[2..]),
            5 => {
                let piece = &other[random.index(other.len())..];
                bytes.splice(at..at, piece.iter().copied().take(40));
            }
            6 => {
                let end = (at + 1 + random.index(9)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => bytes.extend_from_slice(&other[..random.index(other.len())]),
        }
    }
}

fn set(bytes: &mut [u8], value: &[u8]) {
    bytes.iter_mut().zip(value).for_each(|(byte, value)| *byte = *value);
}

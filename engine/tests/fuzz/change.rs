//! Changes to bytes.

use crate::random::Random;

pub(super) const SEGMENT_HEADER: usize = 128;
const FOOTER: usize = 32;
const ENTRY: usize = 16;

/// Numbers that are at the edge of something.
const EDGES: [u64; 14] =
    [0, 1, 7, 8, 63, 64, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 53, u64::MAX >> 1, u64::MAX];

/// Changes some of the bytes.
pub(super) fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            bytes.extend((0..random.below(200)).map(|_| 0));
            continue;
        }
        let at = random.index(bytes.len());
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 | 3 => set(bytes, at, random.one_of(&[1, 2, 4, 8]), random.one_of(&EDGES)),
            4 => {
                let old = bytes[at];
                set(bytes, at, 1, u64::from(old).wrapping_add(random.one_of(&[1, 255, 8, 248])));
            }
            5 => bytes.truncate(at),
            6 => {
                let piece = random.index((bytes.len() - at).min(600)) + at;
                let copy = bytes[at..piece].to_vec();
                let to = random.index(bytes.len());
                bytes.splice(to..to, copy);
            }
            7 => {
                let end = (at + random.index(300)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + random.index(600)).min(bytes.len());
                bytes[at..end].fill(random.one_of(&[0, 0xff, b'R', b'"']));
            }
        }
    }
}

fn set(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    for (place, byte) in bytes[at..].iter_mut().zip(value.to_le_bytes()).take(width) {
        *place = byte;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}

/// Where batches stand, as far as their lengths lead.
pub(super) fn batches(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = SEGMENT_HEADER;
    while let Some(length) =
        u32_at(bytes, at + 8).filter(|length| *length >= 64 && at + length <= bytes.len())
    {
        found.push(at..at + length);
        at += length;
    }
    found
}

/// Changes a place inside a batch or the header of a segment and makes its checksum right again.
pub(super) fn change_inside(bytes: &mut [u8], random: &mut Random) {
    let batches = batches(bytes);
    if batches.is_empty() || random.chance(30) {
        return change_header(bytes, random);
    }
    let batch = batches[random.index(batches.len())].clone();
    let length = batch.len();
    let inside = &mut bytes[batch];
    for _ in 0..1 + random.below(3) {
        // The header often: it has what leads to all else.
        let at = if random.chance(128) { 8 + random.index(56) } else { random.index(length) };
        match random.below(3) {
            0 => inside[at] ^= 1 << random.below(8),
            1 => inside[at] = inside[at].wrapping_add(random.one_of(&[1, 255])),
            _ => set(inside, at, random.one_of(&[1, 2, 4, 8]), random.one_of(&EDGES)),
        }
    }
    // As long as the header says now, so that a new length counts.
    let end = u32_at(inside, 8).unwrap_or(length).clamp(8, length);
    let crc = crc32c::crc32c(&inside[8..end]);
    inside[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A compressed segment, by its footer.
pub(super) fn is_packed(bytes: &[u8]) -> bool {
    bytes.len().checked_sub(FOOTER).is_some_and(|at| bytes[at..].starts_with(b"ROWCASTZ"))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}

/// Changes footer, table or what is compressed, and makes the checksums right again.
pub(super) fn change_packed(bytes: &mut Vec<u8>, random: &mut Random) {
    let footer = bytes.len() - FOOTER;
    let table =
        u64_at(bytes, footer + 16).filter(|at| at.checked_add(ENTRY).is_some_and(|end| end <= footer));
    match (random.below(3), table) {
        (0, Some(table)) => {
            let entries = (footer - table) / ENTRY;
            let entry = table + ENTRY * random.index(entries);
            let (at, width) = random.one_of(&[(0, 8), (8, 4)]);
            set(bytes, entry + at, width, random.one_of(&EDGES));
            seal_entry(bytes, entry);
        }
        (1, Some(table)) => change_plain(bytes, table, random),
        _ => {
            let (at, width) = random.one_of(&[(8, 8), (16, 8), (24, 4)]);
            set(bytes, footer + at, width, random.one_of(&EDGES));
            seal_footer(bytes);
        }
    }
}

/// Changes the plain form, and makes a compressed one of one frame of it.
fn change_plain(bytes: &mut Vec<u8>, table: usize, random: &mut Random) {
    let Some(frame) = bytes.get(SEGMENT_HEADER..table) else { return };
    let Ok(plain) = zstd::bulk::decompress(frame, 1 << 20) else { return };
    let mut whole = [&bytes[..SEGMENT_HEADER], &plain].concat();
    change_inside(&mut whole, random);
    let frame = zstd::bulk::compress(&whole[SEGMENT_HEADER..], 1).unwrap();
    let footer = bytes[bytes.len() - FOOTER..].to_vec();
    bytes.truncate(SEGMENT_HEADER);
    bytes[..SEGMENT_HEADER].copy_from_slice(&whole[..SEGMENT_HEADER]);
    bytes.extend_from_slice(&frame);
    let table = bytes.len();
    bytes.extend_from_slice(&(SEGMENT_HEADER as u64).to_le_bytes());
    bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&footer);
    let at = bytes.len() - FOOTER;
    set(bytes, at + 16, 8, table as u64);
    seal_entry(bytes, table);
    seal_footer(bytes);
}

/// Over its place and its length, and the frame that it names, if there is one.
fn seal_entry(bytes: &mut [u8], entry: usize) {
    let frame = u64_at(bytes, entry).zip(u32_at(bytes, entry + 8));
    let frame = frame.and_then(|(at, length)| bytes.get(at..at.checked_add(length)?));
    let crc = crc32c::crc32c(&bytes[entry..entry + 12]);
    let crc = crc32c::crc32c_append(crc, frame.unwrap_or_default());
    set(bytes, entry + 12, 4, u64::from(crc));
}

fn seal_footer(bytes: &mut [u8]) {
    let at = bytes.len() - FOOTER;
    let crc = crc32c::crc32c(&bytes[at..at + 28]);
    set(bytes, at + 28, 4, u64::from(crc));
}

fn change_header(bytes: &mut [u8], random: &mut Random) {
    if bytes.len() >= SEGMENT_HEADER {
        let (at, width) = (8 + random.index(116), random.one_of(&[1, 2, 8]));
        set(&mut bytes[..124], at, width, random.one_of(&EDGES));
        let crc = crc32c::crc32c(&bytes[..124]);
        bytes[124..SEGMENT_HEADER].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes the checksum at the end of an index right.
pub(super) fn seal_index(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len().saturating_sub(4));
    let crc = crc32c::crc32c(bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
}

/// Changes a digit or two of the JSON in an index.
pub(super) fn change_digits(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let digits: Vec<_> =
            (0..bytes.len().saturating_sub(4)).filter(|at| bytes[*at].is_ascii_digit()).collect();
        if digits.is_empty() {
            return;
        }
        let at = digits[random.index(digits.len())];
        if random.chance(100) {
            bytes.splice(at..at, *b"9999999");
        } else {
            bytes[at] = b'0' + random.below(10) as u8;
        }
    }
    seal_index(bytes);
}

//! A compressed segment whose table or footer is damaged: its frames are found one after the other, by what they are. What
//! they unpack to has the checksums of its batches.

use std::io;

use zstd::bulk::Decompressor;
use zstd::zstd_safe::{compress_bound, find_frame_compressed_size};

use crate::journal::compressed::{ENTRY_BYTES, Entry, FRAME_BYTES, Footer};
use crate::journal::disk::DiskFile;
use crate::journal::segment::SEGMENT_HEADER;

const FRAME: usize = FRAME_BYTES as usize;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Salvaged {
    pub(super) entries: Vec<Entry>,
    /// As it would be, had the segment no more frames than these.
    pub(super) footer: Footer,
    /// It never had more.
    pub(super) whole: bool,
}

impl Salvaged {
    /// The frames up to the first place where none can be read.
    pub(super) fn of(file: &dyn DiskFile) -> io::Result<Self> {
        let mut zstd = Decompressor::new()?;
        let (mut packed, mut plain) = (vec![0; compress_bound(FRAME)], vec![0; FRAME]);
        let (mut entries, mut at, mut length, mut last) =
            (Vec::new(), SEGMENT_HEADER as u64, SEGMENT_HEADER as u64, FRAME);
        // Only the last one has less.
        while last == FRAME {
            let read = file.read_at(&mut packed, at)?;
            let frame = frame(packed.get(..read).unwrap_or_default());
            let unpacked = frame.and_then(|frame| zstd.decompress_to_buffer(frame, &mut plain).ok());
            let entry = frame.and_then(|frame| Entry::of(at, frame));
            let (Some(entry), Some(unpacked)) = (entry, unpacked.filter(|unpacked| *unpacked > 0)) else {
                break;
            };
            entries.push(entry);
            at += u64::from(entry.length);
            length += unpacked as u64;
            last = unpacked;
        }
        let whole = last < FRAME || begins_table(file, at, &entries)?;
        Ok(Self { entries, footer: Footer { length, table: at, frame_bytes: FRAME_BYTES }, whole })
    }
}

/// The frame that these bytes begin with.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    find_frame_compressed_size(bytes).ok().and_then(|size| bytes.get(..size))
}

/// Whether an entry of one of these frames stands in its place, if the table begins here.
fn begins_table(file: &dyn DiskFile, at: u64, entries: &[Entry]) -> io::Result<bool> {
    let mut table = vec![0; entries.len() * ENTRY_BYTES];
    file.read_at(&mut table, at)?;
    Ok(table.chunks_exact(ENTRY_BYTES).zip(entries).any(|(found, entry)| *found == entry.encode()))
}

//! Carries out what a survey found, in an order that a crash cannot hurt; see the module above.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::StreamPosition;
use crate::journal::compressed::blanked_view;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::refusal::cannot_change;
use crate::journal::repair::{Cut, LostNumbers, REASON};
use crate::journal::rolling::json_of;
use crate::journal::segment::{SEGMENT_HEADER, SegmentHeader, is_compressed, mark_compressed};
use crate::journal::writer::now;
use crate::lsn::Lsn;
use crate::record::{Builder, seal};
use crate::schema::SchemaId;

/// Copies are made in pieces of this size.
const COPY_BYTES: usize = 1 << 20;

/// The gap that stands for lost numbers.
#[derive(Debug)]
pub(in crate::journal) struct Bridge {
    pub(in crate::journal) lost: LostNumbers,
    /// The last event before it.
    pub(in crate::journal) previous_last: u64,
    pub(in crate::journal) at: Micros,
    pub(in crate::journal) position: Option<StreamPosition>,
    /// The highest number that a schema version has been given.
    pub(in crate::journal) schemas: SchemaId,
    pub(in crate::journal) installation: Uuid,
    /// It stands for the beginning of a history.
    pub(in crate::journal) history: Option<Lsn>,
}

/// One break: what is cut off, and what stands in its place.
#[derive(Debug)]
pub(super) struct Mend {
    pub(super) cuts: Vec<Cut>,
    pub(super) bridge: Option<Bridge>,
}

impl Mend {
    pub(super) fn carry_out(&mut self, dir: &Path, disk: &dyn Disk) -> Result<()> {
        for cut in &mut self.cuts {
            let file = cut.file.clone();
            cut.save(dir, disk).map_err(cannot("save what is to be cut off", &file))?;
        }
        disk.sync_dir(dir).map_err(cannot("sync", dir))?;
        if let Some(bridge) = &self.bridge {
            let name = &bridge.lost.bridge;
            // A file of one event that is lost has the name that the bridge needs.
            for cut in self.cuts.iter().filter(|cut| cut.file == *name) {
                disk.rename(&cut.file, &cut.saved).map_err(cannot("set aside", &cut.file))?;
            }
            bridge.write(dir, disk).map_err(cannot("write", name))?;
        }
        // Not before the gap is there: without its index a newest segment that was damaged looks like one with a torn end.
        for cut in &self.cuts {
            let index = cut.file.with_extension("idx");
            remove_if_there(disk, &index).map_err(cannot("remove", &index))?;
        }
        disk.sync_dir(dir).map_err(cannot("sync", dir))?;
        for cut in &self.cuts {
            cut.off(self.bridge.as_ref(), disk).map_err(cannot("cut", &cut.file))?;
        }
        disk.sync_dir(dir).map_err(cannot("sync", dir))
    }
}

/// The journal is as broken as before, or less.
fn cannot(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        let error = cannot_change(doing, path, error);
        let remedy = error.remedy().unwrap_or_default();
        let hint = format!("{remedy} Nothing is lost by this: run it again then.");
        error.hint(hint)
    }
}

impl Bridge {
    pub(in crate::journal) fn write(&self, dir: &Path, disk: &dyn Disk) -> io::Result<()> {
        let LostNumbers { from, to, bridge, detail, .. } = &self.lost;
        let header = SegmentHeader {
            base: *to,
            previous_last: self.previous_last,
            created: now(),
            installation: self.installation,
            bridge: true,
            history: self.history,
            ..SegmentHeader::default()
        };
        let mut bytes = header.encode().to_vec();
        let mut builder = Builder::new();
        // Without one it stands for nobody's, beside the number of schema versions.
        let nobodys = (self.schemas > 0).then(StreamPosition::default);
        if let Some(position) = self.position.as_ref().or(nobodys.as_ref()) {
            builder.position(position.lsn, &json_of(position, self.schemas).map_err(io::Error::other)?);
        }
        let mut parts = builder.take();
        builder.begin_local(self.at);
        builder.lost(*from, REASON, detail);
        builder.commit(Lsn::ZERO);
        parts.extend(builder.take());
        for mut part in parts {
            seal(&mut part.bytes, 0);
            bytes.extend_from_slice(&part.bytes);
        }
        debug_assert!(bytes.len() > SEGMENT_HEADER);
        let beside = bridge.with_extension("seg.new");
        let file = disk.create(&beside)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        disk.rename(&beside, bridge)?;
        disk.sync_dir(dir)
    }
}

impl Cut {
    /// Copies what is going to be cut off; a whole file is only renamed, later.
    fn save(&mut self, dir: &Path, disk: &dyn Disk) -> io::Result<()> {
        let names = disk.list(dir)?;
        let file = disk.open(&self.file)?;
        let from = if is_compressed(&header_of(&*file)?) { 0 } else { self.cut_at };
        let mut number = 0;
        let wanted = self.saved.clone();
        while names.contains(&self.saved) {
            // A repair that was broken off has saved them already.
            if self.cut_at > 0 && ends_alike(&*file, from, &*disk.open(&self.saved)?)? {
                return Ok(());
            }
            number += 1;
            self.saved = PathBuf::from(format!("{}.{number}", wanted.display()));
        }
        if self.cut_at == 0 {
            return Ok(());
        }
        let beside = PathBuf::from(format!("{}.new", self.saved.display()));
        let copy = disk.create(&beside)?;
        let to = file.length()?;
        each_piece(&*file, from..to, |piece, at| copy.write_at(piece, at - from).map(|()| true))?;
        copy.sync()?;
        disk.rename(&beside, &self.saved)
    }

    fn off(&self, bridge: Option<&Bridge>, disk: &dyn Disk) -> io::Result<()> {
        if self.cut_at == 0 {
            let renamed = bridge.is_some_and(|bridge| bridge.lost.bridge == self.file);
            return if renamed { Ok(()) } else { disk.rename(&self.file, &self.saved) };
        }
        let file: Arc<dyn DiskFile> = disk.open(&self.file)?;
        let header = header_of(&*file)?;
        if is_compressed(&header) {
            return self.put_plain(header, disk);
        }
        file.truncate(self.cut_at)?;
        file.sync()
    }

    /// Puts the plain form of what is sound in the place of a compressed segment.
    fn put_plain(&self, mut header: [u8; SEGMENT_HEADER], disk: &dyn Disk) -> io::Result<()> {
        let (packed, _) = blanked_view(disk.open(&self.file)?, &header)?;
        let beside = self.file.with_extension("seg.new");
        let plain = disk.create(&beside)?;
        mark_compressed(&mut header, false);
        plain.write_at(&header, 0)?;
        let batches = SEGMENT_HEADER as u64..self.cut_at;
        each_piece(&*packed, batches, |piece, at| plain.write_at(piece, at).map(|()| true))?;
        plain.sync()?;
        disk.rename(&beside, &self.file)
    }
}

/// Whether all of `file` from a place on is what `saved` holds.
fn ends_alike(file: &dyn DiskFile, from: u64, saved: &dyn DiskFile) -> io::Result<bool> {
    let to = file.length()?;
    let mut other = vec![0; COPY_BYTES];
    Ok(saved.length()? == to - from
        && each_piece(file, from..to, |piece, at| {
            let read = saved.read_at(other.get_mut(..piece.len()).unwrap_or_default(), at - from)?;
            Ok(other.get(..read) == Some(piece))
        })?)
}

/// Gives the bytes of a range, with their offsets, until told to stop; whether it was not.
fn each_piece(
    file: &dyn DiskFile,
    range: Range<u64>,
    mut see: impl FnMut(&[u8], u64) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut piece = vec![0; COPY_BYTES];
    let mut at = range.start;
    while at < range.end {
        let wanted = usize::try_from(range.end - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let read = file.read_at(piece.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = piece.get(..read).unwrap_or_default();
        if !see(read, at)? {
            return Ok(false);
        }
        at += read.len() as u64;
    }
    Ok(true)
}

fn header_of(file: &dyn DiskFile) -> io::Result<[u8; SEGMENT_HEADER]> {
    let mut header = [0; SEGMENT_HEADER];
    file.read_at(&mut header, 0)?;
    Ok(header)
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

//! Small files of numbers that are written over in place: each number is a line of 20 digits, their checksum the last line.
//!
//! In place, because a full disk may have no room for another file. What a crash leaves of it, or a disk makes of a digit,
//! has a wrong checksum, and is no note.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::journal::disk::{Disk, DiskFile};

const LINE: usize = 21;
/// More than any such file has.
const LENGTH_MAX: usize = 256;

/// Writes the numbers durably, but for the file's name.
pub(super) fn write(path: &Path, disk: &dyn Disk, numbers: &[u64]) -> io::Result<()> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(path)?,
        opened => opened?,
    };
    write_to(&*file, numbers)
}

/// The same where it is open.
pub(super) fn write_to(file: &dyn DiskFile, numbers: &[u64]) -> io::Result<()> {
    let text = encode(numbers);
    file.write_at(text.as_bytes(), 0)?;
    // What a longer one has had behind it would make it none.
    if file.length()? > text.len() as u64 {
        file.truncate(text.len() as u64)?;
    }
    file.sync()
}

fn encode(numbers: &[u64]) -> String {
    let mut text = String::new();
    for number in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{number:020}");
    }
    let crc = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "{crc:08x}");
    text
}

/// The numbers, where the file has so many and a right checksum.
///
/// # Errors
///
/// It cannot be read: that is not the same as no note, which whoever asks would go on from.
pub(super) fn read<const COUNT: usize>(path: &Path, disk: &dyn Disk) -> io::Result<Option<[u64; COUNT]>> {
    let sound = |text: String| {
        let numbers = numbers(text.get(..COUNT * LINE)?)?;
        (encode(&numbers) == text).then_some(numbers)
    };
    Ok(text(path, disk)?.and_then(sound))
}

/// The number of a file that a version before there were checksums has written.
pub(super) fn read_bare(path: &Path, disk: &dyn Disk) -> io::Result<Option<u64>> {
    let text = text(path, disk)?.filter(|text| text.len() == LINE);
    Ok(text.and_then(|text| numbers(&text)).map(|[number]| number))
}

fn text(path: &Path, disk: &dyn Disk) -> io::Result<Option<String>> {
    let mut bytes = vec![0; LENGTH_MAX];
    match disk.open(path).and_then(|file| file.read_at(&mut bytes, 0)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => bytes.truncate(read?),
    }
    Ok(String::from_utf8(bytes).ok())
}

fn numbers<const COUNT: usize>(text: &str) -> Option<[u64; COUNT]> {
    let numbers: Option<Vec<u64>> =
        text.split_inclusive('\n').map(|line| line.strip_suffix('\n')?.parse().ok()).collect();
    numbers?.try_into().ok()
}

//! A place on the disk that cannot be read, or whose checksum is wrong: what stands elsewhere is read and delivered, and
//! status says it for as long as it lasts.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowcast_engine::event::Op;
use rowcast_engine::feed::{Feed, Filter, From, Pattern};
use rowcast_engine::journal::disk::DiskFile;
use rowcast_engine::journal::{self, Journal, Options};
use rowcast_engine::stop;

use crate::compression::until;
use crate::damage::{all, copy, history, number, segments, small};
use crate::failures::read_to_break;
use crate::guarded::{Guard, Guarded};
use crate::support::{Fixture, read_all};

const PAGE: u64 = 4096;
const EIO: i32 = 5;

/// One page of a file cannot be read, as the kernel tells it: who asks for more gets nothing of it at first, since a disk
/// reads on until all is there.
#[derive(Debug, Default)]
struct Spot(Mutex<Option<(PathBuf, u64)>>);

impl Spot {
    fn spoil(&self, place: Option<(PathBuf, u64)>) {
        *self.0.lock().unwrap() = place;
    }
}

impl Guard for Spot {
    fn read_at(&self, file: &dyn DiskFile, read: &Path, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some((path, page)) = &*self.0.lock().unwrap()
            && path == read
            && offset < page + PAGE
            && offset + buffer.len() as u64 > *page
        {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        file.read_at(buffer, offset)
    }
}

/// How many events stand wholly before an offset of a segment.
fn before(path: &Path, end: u64) -> usize {
    let bytes = fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let (mut at, mut events) = (128, 0);
    loop {
        let next = at + word(at + 8) as usize;
        if next as u64 > end {
            return events;
        }
        events += word(at + 24) as usize;
        at = next;
    }
}

async fn first_of(journal: &Journal, count: u64) -> rowcast_engine::Result<u64> {
    let (_stopper, stop) = stop();
    let filter = Filter::new(vec![Pattern::parse("public.*").unwrap()], &[Op::Insert]);
    Feed::new(journal.clone(), stop).start(From::Last(count), &filter).await.map(|start| start.position)
}

#[tokio::test]
async fn a_sector_that_cannot_be_read_takes_only_what_stands_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Guarded::<Spot>::default();
    let options = Options { cache_bytes: 2_000, ..Options::new(dir.path()) };
    let mut fixture = Fixture::over(journal::open(options, Arc::new(disk.clone())).unwrap()).await;
    for _ in 0..700 {
        fixture.transaction(1, &"a text".repeat(100)).await;
    }
    let journal = fixture.journal().clone();
    let whole = read_all(&journal, 0);
    let path = segments(dir.path()).pop().unwrap();
    disk.0.spoil(Some((path.clone(), 24 * PAGE)));
    let (after, error) = read_to_break(&journal, whole[0].0);
    assert!(error.to_string().starts_with("Cannot read "), "{error}");
    let given = whole.iter().position(|seen| seen.0 == after).unwrap() + 1;
    assert!(given > 50 && given == before(&path, 24 * PAGE), "{given}");
    let told = journal.summary().damage.expect("it is told");
    assert!(told.starts_with("Cannot read ") && told.contains(path.to_str().unwrap()), "{told}");
    // What is read elsewhere says nothing of it.
    assert_eq!(read_all(&journal, whole[699].0 - 3).len(), 3);
    assert!(journal.summary().damage.is_some());
    disk.0.spoil(None);
    assert_eq!(read_all(&journal, 0), whole);
    assert_eq!(journal.summary().damage, None);
}

#[tokio::test]
async fn a_file_that_is_put_back_is_no_damage_any_more() {
    let source = history().await;
    let dir = copy(source.path());
    let journal = Fixture::open(small(dir.path())).await.journal().clone();
    let whole = read_all(&journal, 0);
    let path = segments(dir.path())[2].clone();
    // One that nobody reads, and one that somebody does.
    for read in [false, true] {
        fs::rename(&path, path.with_extension("aside")).unwrap();
        if read {
            read_to_break(&journal, whole[0].0);
        }
        until("it is missed", || journal.summary().damage.is_some()).await;
        fs::rename(path.with_extension("aside"), &path).unwrap();
        until("it is found", || journal.summary().damage.is_none()).await;
    }
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut sound = [0; 8];
    file.read_exact_at(&mut sound, 1000).unwrap();
    file.write_all_at(b"garbage!", 1000).unwrap();
    let (after, _) = read_to_break(&journal, whole[0].0);
    // The look of each second sees nothing wrong with the file.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(journal.summary().damage.is_some());
    file.write_all_at(&sound, 1000).unwrap();
    assert!(journal.read(after).is_ok());
    assert_eq!(journal.summary().damage, None);
    journal.close().await;
}

#[tokio::test]
async fn the_newest_events_are_found_behind_what_cannot_be_read() {
    let source = history().await;
    let events = all(copy(source.path()).path()).await;
    let dir = copy(source.path());
    let journal = Fixture::open(small(dir.path())).await.journal().clone();
    let ids: Vec<u64> = events.iter().map(number).collect();
    let newest = &ids[ids.len() - 64..];
    // A segment in the middle of those that are looked through for few.
    let broken = segments(dir.path()).into_iter().rev().skip(2);
    let broken = broken.map(|path| (crate::damage::number_of(&path), path));
    let (base, path) = broken.into_iter().find(|(base, _)| *base < newest[40]).unwrap();
    assert!(base > newest[0], "it is looked through: {base} {newest:?}");
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"garbage!", 700).unwrap();
    let behind = segments(dir.path()).into_iter().find(|other| *other > path).unwrap();
    let behind = ids.iter().filter(|id| **id >= crate::damage::number_of(&behind)).count();
    assert!((5..64).contains(&behind), "{behind}");
    for count in [1, 5, behind as u64] {
        let at = ids[ids.len() - count as usize] - 1;
        assert_eq!(first_of(&journal, count).await.unwrap(), at, "{count}");
    }
    let error = first_of(&journal, behind as u64 + 1).await.unwrap_err();
    assert!(error.to_string().contains("is damaged at offset"), "{error}");
    journal.close().await;
}

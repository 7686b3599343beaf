//! How far a push door is: one small file for each, JSON with a checksum, written beside and renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::or_files;
use crate::sink::Start;

/// Of the files, which tells them from ones that are half written.
const EXTENSION: &str = "json";

/// What to do where it is not known which sinks there are.
const LISTED: &str = "It has to be a directory that the user who runs rowcast may read and enter (chmod u+rwx): what \
                      is in it keeps events from being removed before a sink has them";

/// The file of one push door.
#[derive(Clone, Debug)]
pub struct Cursor {
    path: PathBuf,
    installation: Uuid,
}

/// How far a push door is, and what a person has decided about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The last event that the target has, or is not to get.
    pub id: u64,
    /// Nothing is delivered until a person resumes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// From this event up to `id` a person has skipped them, and the target has not been told yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_from: Option<u64>,
    /// How it began; none for one that began with an earlier version of rowcast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
}

/// How a push door began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// As configured then.
    pub how: Start,
    /// Behind this event.
    pub id: u64,
    /// When, microseconds since 1970: what tells it from another beginning of the same door.
    pub at: Micros,
}

impl Started {
    /// The moment of its wish for the rows that are there, if it began with one.
    pub fn wish(self) -> Option<Micros> {
        (self.how == Start::Snapshot).then_some(self.at)
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    installation: Uuid,
    #[serde(flatten)]
    place: Place,
}

/// Before the checksum of all that stands before it, the last field.
const CHECKSUM: &str = ",\"crc\":";
/// What a file without one may have: an earlier version wrote it.
const BEFORE_CHECKSUMS: [&str; 5] = ["installation", "id", "paused", "skipped_from", "started"];

impl Content {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.pop();
        let crc = crc32c::crc32c(&bytes);
        write!(bytes, "{CHECKSUM}{crc}}}")?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        if !is_sound(bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong"));
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A digit that the disk has made another one would be another position, and what lies between would be skipped in silence.
fn is_sound(bytes: &[u8]) -> bool {
    let Some(at) = memchr::memmem::rfind(bytes, CHECKSUM.as_bytes()) else {
        let fields = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes);
        // What is not JSON is told as that. A field that is not known is a checksum whose name is damaged.
        return fields
            .map_or(true, |fields| fields.keys().all(|key| BEFORE_CHECKSUMS.contains(&key.as_str())));
    };
    let (content, checksum) = bytes.split_at(at);
    checksum == format!("{CHECKSUM}{}}}", crc32c::crc32c(content)).as_bytes()
}

impl Cursor {
    /// The cursor of sink `name` in the directory of cursors.
    pub fn new(dir: &Path, name: &str, installation: Uuid) -> Self {
        Self { path: dir.join(format!("{name}.{EXTENSION}")), installation }
    }

    /// What is stored; `None` for a sink that has never run.
    pub fn load(&self) -> Result<Option<Place>> {
        let failed = |error: io::Error| Error::failed(self.cannot("read")).because(error);
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let content = Content::decode(&bytes).map_err(failed)?;
        if content.installation != self.installation {
            return Err(Error::failed(format!("{} belongs to another installation", self.path.display()))
                .hint("Remove the file to have this sink begin anew, as its start says (snapshot, earliest or latest)."));
        }
        Ok(Some(content.place))
    }

    /// Stores a place durably.
    pub fn save(&self, place: Place) -> Result<()> {
        let failed = |error: io::Error| Error::transient(self.cannot("write")).because(error);
        let content = Content { installation: self.installation, place };
        let bytes = content.encode().map_err(failed)?;
        replace(&self.path, &bytes).map_err(failed)
    }

    /// Likewise, and no power cut brings the old one back: for what a person has decided. A position that comes back
    /// only makes the target get some events again: retention syncs the directory before it takes them.
    pub fn decide(&self, place: Place) -> Result<()> {
        self.save(place)?;
        sync_dir(self.dir()).map_err(|error| Error::transient(self.cannot("write")).because(error))
    }

    /// Stores where a sink begins. No power cut takes the file away, or the directory, which may have been made for it:
    /// the sink would begin anew then, behind what it had not been sent.
    pub fn begin(&self, place: Place) -> Result<()> {
        self.begin_with(place, sync_dir)
    }

    fn begin_with(&self, place: Place, sync_dir: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
        self.save(place)?;
        // Above it too, whoever has made it: an earlier try may have, and failed.
        let above = self.dir().parent().filter(|above| !above.as_os_str().is_empty());
        let dirs = [self.dir(), above.unwrap_or(Path::new("."))];
        let synced = dirs.into_iter().try_for_each(sync_dir);
        synced.map_err(|error| Error::transient(self.cannot("write")).because(error))
    }

    /// Where it lies.
    pub(crate) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn cannot(&self, what: &str) -> String {
        format!("Cannot {what} the sink's position in {}", self.path.display())
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    abort::point(Point::CursorWritten);
    fs::rename(&beside, path)?;
    abort::point(Point::CursorRenamed);
    Ok(())
}

/// The positions of all sinks that have a cursor in a directory, by name. One that cannot be read may be anywhere: it
/// counts as the beginning, so that nothing goes that its sink may lack.
///
/// # Errors
/// When it cannot be seen which sinks there are: nothing could be kept for them.
pub fn positions(dir: &Path) -> Result<BTreeMap<String, u64>> {
    let cannot = |error: io::Error| {
        let what = format!("Cannot list the positions of sinks in {}", dir.display());
        let hint = or_files(&error, LISTED);
        Error::failed(what).because(error).hint(hint)
    };
    // What is read is what a power cut leaves, where that can be had: retention goes by it.
    let _ = sync_dir(dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(cannot)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(cannot(error)),
    };
    let position = |entry: fs::DirEntry| {
        let path = entry.path();
        path.extension().filter(|found| *found == EXTENSION)?;
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read.ok().and_then(|bytes| Content::decode(&bytes).ok()),
        };
        Some((path.file_stem()?.to_str()?.to_owned(), content.map_or(0, |content| content.place.id)))
    };
    Ok(entries.into_iter().filter_map(position).collect())
}

/// The highest position of all cursors in a directory that can be read: numbers start above it.
///
/// # Errors
/// As [`positions`].
pub fn highest(dir: &Path) -> Result<u64> {
    Ok(positions(dir)?.into_values().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn where_a_sink_begins_is_durable_by_its_name() {
        let data = tempfile::tempdir().unwrap();
        let cursors = data.path().join("cursors");
        let cursor = Cursor::new(&cursors, "kafka", Uuid::nil());
        let place = Place { id: 7, ..Place::default() };
        let (synced, ill) = (RefCell::new(Vec::new()), RefCell::new(true));
        let sync = |dir: &Path| {
            // The file has its name before the directory that names it is synced.
            assert_eq!(cursor.load().unwrap(), Some(place));
            synced.borrow_mut().push(dir.to_owned());
            if ill.replace(false) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        assert!(cursor.begin_with(place, sync).is_err());
        cursor.begin_with(place, sync).unwrap();
        assert_eq!(*synced.borrow(), [cursors.clone(), cursors.clone(), data.path().to_owned()]);
        cursor.begin(place).unwrap();
    }

    #[test]
    fn one_that_cannot_be_read_is_at_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        Cursor::new(dir.path(), "sound", Uuid::nil()).save(Place { id: 7, ..Place::default() }).unwrap();
        fs::write(dir.path().join("torn.json"), "{").unwrap();
        fs::create_dir(dir.path().join("odd.json")).unwrap();
        fs::write(dir.path().join("half.new"), "{").unwrap();
        let found: Vec<_> = positions(dir.path()).unwrap().into_iter().collect();
        assert_eq!(found, [("odd".to_owned(), 0), ("sound".to_owned(), 7), ("torn".to_owned(), 0)]);
        assert_eq!(highest(dir.path()).unwrap(), 7);
    }

    #[test]
    fn a_digit_that_was_made_another_one_is_no_position() {
        let dir = tempfile::tempdir().unwrap();
        let cursor = Cursor::new(dir.path(), "kafka", Uuid::nil());
        let started = Some(Started { how: Start::Latest, id: 6, at: 5 });
        let place = Place { id: 1_800_000_000_000_007, paused: true, skipped_from: Some(7), started };
        cursor.save(place).unwrap();
        assert_eq!(cursor.load().unwrap(), Some(place));
        let path = dir.path().join("kafka.json");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(cursor.load().is_err(), "{text}");
                assert_eq!(positions(dir.path()).unwrap()["kafka"], 0, "{text}");
            }
        }
        // As earlier versions wrote it, and as a later one may.
        let bare = serde_json::to_vec(&Content { installation: Uuid::nil(), place }).unwrap();
        fs::write(&path, &bare).unwrap();
        assert_eq!(cursor.load().unwrap(), Some(place));
        let mut later = [&bare[..bare.len() - 1], b",\"more\":1"].concat();
        let crc = crc32c::crc32c(&later);
        later.extend_from_slice(format!(",\"crc\":{crc}}}").as_bytes());
        fs::write(&path, &later).unwrap();
        assert_eq!(cursor.load().unwrap(), Some(place));
    }

    /// One that is not there yet holds none; of one that cannot be listed nobody knows.
    #[test]
    fn a_directory_that_cannot_be_listed_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let cursors = dir.path().join("cursors");
        assert!(positions(&cursors).unwrap().is_empty());
        fs::write(&cursors, "").unwrap();
        let error = positions(&cursors).unwrap_err();
        assert!(error.to_string().starts_with("Cannot list the positions of sinks in "), "{error}");
        assert!(error.remedy().unwrap().contains("chmod"), "{error}");
        assert!(highest(&cursors).is_err());
    }
}

//! How far a push door is: one small file for each, written beside and renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::abort::{self, Point};
use crate::error::{Error, Result};

/// The file of one push door.
#[derive(Debug)]
pub struct Cursor {
    path: PathBuf,
    installation: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Content {
    installation: Uuid,
    /// The last event that the target has.
    id: u64,
}

impl Cursor {
    /// The cursor of sink `name` in the directory of cursors.
    pub fn new(dir: &Path, name: &str, installation: Uuid) -> Self {
        Self { path: dir.join(format!("{name}.json")), installation }
    }

    /// The stored position; `None` when the sink has never committed.
    pub fn load(&self) -> Result<Option<u64>> {
        let failed = |error: io::Error| Error::failed(self.cannot("read")).because(error);
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        if content.installation != self.installation {
            return Err(Error::failed(format!("{} belongs to another installation", self.path.display()))
                .hint("Remove the file to start this sink from the oldest event held."));
        }
        Ok(Some(content.id))
    }

    /// Stores a position durably.
    pub fn save(&self, id: u64) -> Result<()> {
        let failed = |error: io::Error| Error::transient(self.cannot("write")).because(error);
        let content = Content { installation: self.installation, id };
        let bytes = serde_json::to_vec(&content).map_err(|error| failed(error.into()))?;
        replace(&self.path, &bytes).map_err(failed)
    }

    fn cannot(&self, what: &str) -> String {
        format!("Cannot {what} the sink's position in {}", self.path.display())
    }
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

/// The positions of all sinks that have a cursor in a directory, by name.
pub fn positions(dir: &Path) -> BTreeMap<String, u64> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let position = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let content: Content = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((path.file_stem()?.to_str()?.to_owned(), content.id))
    };
    entries.filter_map(position).collect()
}

/// The highest position of all cursors in a directory: numbers start above it.
pub fn highest(dir: &Path) -> u64 {
    positions(dir).into_values().max().unwrap_or(0)
}

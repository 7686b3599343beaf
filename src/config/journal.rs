//! The section `[journal]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rowcast_engine::journal::{Compression, Options, Sync};
use rowcast_engine::{Error, Result};
use serde::{Deserialize, Serialize};

use super::units::{Size, Time};

/// Below this a segment costs more files than it saves.
const SEGMENT_MIN: u64 = 1 << 20;

/// How the journal keeps its events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Journal {
    /// Its directory; `journal` in the data directory where absent.
    pub(crate) dir: Option<PathBuf>,
    /// Events are kept at least so long, if there is room.
    retention: Time,
    /// All segments together; half the file system where absent.
    max_size: Option<Size>,
    /// Capture pauses when less than this is free on the file system.
    min_free: Size,
    /// A sink that is behind and has not moved for this long loses what it has not delivered when max_size is reached;
    /// capture waits for one that moves.
    stalled_after: Time,
    /// Whether events are durable before they are shown.
    sync: SyncWhen,
    /// With `sync = "interval"`: the longest time between two syncs.
    sync_interval: Time,
    /// A segment is closed at about this size.
    segment_size: Size,
    /// What becomes of closed segments.
    compression: Compress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Compress {
    /// They stay as they were written.
    None,
    /// They are compressed in the background.
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum SyncWhen {
    /// Durable, then shown, then confirmed.
    Always,
    /// Shown, then durable, then confirmed.
    Interval,
}

impl Default for Journal {
    fn default() -> Self {
        let options = Options::new("");
        Self {
            dir: None,
            retention: Time(options.retention),
            max_size: None,
            min_free: Size(options.min_free),
            stalled_after: Time(options.stalled_after),
            sync: SyncWhen::Always,
            sync_interval: Time(Duration::from_millis(100)),
            segment_size: Size(options.segment_bytes),
            compression: match options.compression {
                Compression::None => Compress::None,
                Compression::Zstd => Compress::Zstd,
            },
        }
    }
}

impl Journal {
    /// Where it lies.
    pub(crate) fn dir(&self, data: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data.join("journal"))
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            return Err(Error::usage("journal.dir is empty")
                .hint("Name a directory, or leave the key out: it is then journal in the data directory"));
        }
        if self.segment_size.0 < SEGMENT_MIN {
            return Err(Error::usage("journal.segment_size is less than 1MB"));
        }
        if self.max_size.is_some_and(|max| max.0 < 2 * self.segment_size.0) {
            return Err(Error::usage("journal.max_size is less than two segments")
                .hint("Make it larger, or journal.segment_size smaller"));
        }
        if self.sync == SyncWhen::Interval && self.sync_interval.0.is_zero() {
            return Err(Error::usage("journal.sync_interval is zero").hint("That is sync = \"always\""));
        }
        Ok(())
    }

    /// As the engine wants it. Numbers start above `seen`.
    pub(crate) fn options(&self, data: &Path, seen: u64) -> Options {
        Options {
            retention: self.retention.0,
            max_size: self.max_size.map(|size| size.0),
            min_free: self.min_free.0,
            stalled_after: self.stalled_after.0,
            sync: match self.sync {
                SyncWhen::Always => Sync::Always,
                SyncWhen::Interval => Sync::Interval(self.sync_interval.0),
            },
            segment_bytes: self.segment_size.0,
            compression: match self.compression {
                Compress::None => Compression::None,
                Compress::Zstd => Compression::Zstd,
            },
            seen,
            ..Options::new(self.dir(data))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_engines() {
        let options = Journal::default().options(Path::new("data"), 7);
        let expected = Options { seen: 7, ..Options::new("data/journal") };
        assert_eq!(format!("{options:?}"), format!("{expected:?}"));
        assert!(Journal::default().check().is_ok());
    }

    #[test]
    fn what_is_said_is_taken() {
        let said = r#"{"sync": "interval", "sync_interval": "2s", "max_size": "8GB", "dir": "/j",
            "compression": "zstd"}"#;
        let options = serde_json::from_str::<Journal>(said).unwrap().options(Path::new("data"), 0);
        assert_eq!(options.sync, Sync::Interval(Duration::from_secs(2)));
        assert_eq!(options.compression, Compression::Zstd);
        assert_eq!((options.max_size, options.dir), (Some(8 << 30), PathBuf::from("/j")));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for said in [
            r#"{"dir": ""}"#,
            r#"{"segment_size": "10kB"}"#,
            r#"{"max_size": "100MB"}"#,
            r#"{"sync": "interval", "sync_interval": "0s"}"#,
        ] {
            assert!(serde_json::from_str::<Journal>(said).unwrap().check().is_err(), "{said}");
        }
    }
}

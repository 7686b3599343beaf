//! Named places at which the tests end the process as a crash would: SIGKILL, nothing cleaned up.
//!
//! Only with the feature `abort-points`, which the program's tests ask for and a build that is shipped never has;
//! without it a point is nothing. `ROWCAST_ABORT_AT=append.written:3` ends the process when it comes to that place
//! for the third time. With `:panic` behind that the thread alone ends there, as by a fault of ours.

/// The environment's variable that says where.
pub const VARIABLE: &str = "ROWCAST_ABORT_AT";

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A place at which a crash has to be harmless. The tests die at every one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $variant,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As the environment names it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

points! {
    /// The installation's number is written beside, not yet under its name.
    OpenInstallation = "open.installation",
    /// Unfinished files are removed, nothing has been read.
    OpenCleared = "open.cleared",
    /// All segments are read, and the newest is cut where it was torn.
    OpenScanned = "open.scanned",
    /// The first segment of this run begins with the position, and the one that held it so far is still there.
    OpenPosition = "open.position",
    /// Segments that never held an event are gone.
    OpenDropped = "open.dropped",
    /// Room was there, nothing is written.
    AppendBegun = "append.begun",
    /// A round is being written: half of it is there.
    AppendTorn = "append.torn",
    /// All of it is written, not synced.
    AppendWritten = "append.written",
    /// The same where a sync follows at once.
    SyncBegun = "sync.begun",
    /// It is on the disk, and nobody has been shown it.
    SyncDone = "sync.done",
    /// A batch may be read, but lies above the newest visible number.
    ShowBatch = "show.batch",
    /// Events are visible, nothing is confirmed.
    ShowHead = "show.head",
    /// The durable position has moved.
    ShowDurable = "show.durable",
    /// Who published has been answered.
    ShowReplied = "show.replied",
    /// A segment has ended, its index is not written.
    RollClosed = "roll.closed",
    /// An index is being written.
    IndexCreated = "index.created",
    /// It is written.
    IndexWritten = "index.written",
    /// The file of the next segment is there, empty.
    SegmentCreated = "segment.created",
    /// It has its header, its name is not durable.
    SegmentHeader = "segment.header",
    /// The next segment is being written, without the position.
    SegmentStarted = "segment.started",
    /// The next segment begins with the position, not synced.
    RollPosition = "roll.position",
    /// The next segment is ready.
    RollDone = "roll.done",
    /// A huge transaction has a file.
    SpillCreated = "spill.created",
    /// A part of it is written.
    SpillWritten = "spill.written",
    /// All of it is on the disk, and it has not been handed over.
    SpillSynced = "spill.synced",
    /// The writer takes the file in: the segment before is closed.
    AdoptBegun = "adopt.begun",
    /// The position stands at its end.
    AdoptPosition = "adopt.position",
    /// Its header has the number.
    AdoptHeader = "adopt.header",
    /// Position and header are on the disk.
    AdoptSynced = "adopt.synced",
    /// It has the name of a segment, perhaps not durably.
    AdoptRenamed = "adopt.renamed",
    /// It is a durable part of the journal, unseen.
    AdoptDurable = "adopt.durable",
    /// It is visible and may be confirmed; nothing follows it yet.
    AdoptShown = "adopt.shown",
    /// Of a round that found no room nothing is left on the disk, and nobody has been told.
    FullCut = "full.cut",
    /// It is noted that an old segment goes, and it is there.
    RetentionNoted = "retention.noted",
    /// An old segment is out of the list, its index is there.
    RetentionListed = "retention.listed",
    /// Its file is gone, the list still has it.
    RetentionRemoved = "retention.removed",
    /// The slot is claimed, and does not exist.
    SourceClaimed = "source.claimed",
    /// The slot exists, and its birth is not recorded.
    SourceCreated = "source.created",
    /// Its birth is recorded, and the journal does not know the slot.
    SourceRecorded = "source.recorded",
    /// The journal knows durably whose stream it holds, and the stream has not begun.
    SourceIdentified = "source.identified",
    /// A group of transactions is in the hands of the journal.
    SourceSubmitted = "source.submitted",
    /// A position is durable here, and the server is about to be told.
    SourceConfirming = "source.confirming",
    /// The server was told.
    SourceConfirmed = "source.confirmed",
    /// The tables of a snapshot stand in the journal, and none is being read.
    SnapshotListed = "snapshot.listed",
    /// The stream notes what it changes for a chunk, of which nothing has been read.
    SnapshotOpened = "snapshot.opened",
    /// A chunk has been read, and the stream does not have it.
    SnapshotRead = "snapshot.read",
    /// Its rows are in a group that the journal does not have.
    SnapshotEmitted = "snapshot.emitted",
    /// Its reader knows, and it may not be on the disk.
    SnapshotHeard = "snapshot.heard",
    /// It is on the disk, with how far the table has come.
    SnapshotNoted = "snapshot.noted",
    /// A sink has been sent events and has not been asked to commit.
    SinkSent = "sink.sent",
    /// The target has them, and the cursor is where it was.
    SinkCommitted = "sink.committed",
    /// The new cursor is written beside.
    CursorWritten = "cursor.written",
    /// It is in its place.
    CursorRenamed = "cursor.renamed",
}

/// Ends the process here, if the environment says so.
#[cfg(not(feature = "abort-points"))]
#[inline(always)]
pub fn point(_point: Point) {}

/// The same, for a process that ends in the midst of something: before it does, it does this much of it.
#[cfg(not(feature = "abort-points"))]
#[inline(always)]
pub fn ending(_point: Point, _last: impl FnOnce()) {}

#[cfg(feature = "abort-points")]
pub use armed::{ending, point};

#[cfg(feature = "abort-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Point, VARIABLE};

    /// Where to end, and when it is come to how many times more.
    struct Aim {
        point: Point,
        left: AtomicU64,
        panics: bool,
    }

    /// Ends the process here, if the environment says so.
    pub fn point(point: Point) {
        ending(point, || {});
    }

    /// The same, for a process that ends in the midst of something: before it does, it does this much of it.
    pub fn ending(point: Point, last: impl FnOnce()) {
        static AIM: OnceLock<Option<Aim>> = OnceLock::new();
        let Some(aim) = AIM.get_or_init(from_environment) else { return };
        if aim.point == point && aim.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            last();
            assert!(!aim.panics, "{}: the tests have this thread panic", point.name());
            die();
        }
    }

    /// A test that names what does not exist would wait for a death that never comes: it is told at once.
    fn from_environment() -> Option<Aim> {
        let text = std::env::var(VARIABLE).ok()?;
        parse(&text).map(Some).unwrap_or_else(|| {
            tracing::error!(
                "{VARIABLE} is {}, not NAME:COUNT or NAME:COUNT:panic with a name of abort.rs",
                crate::in_quotes(&text)
            );
            std::process::exit(2)
        })
    }

    fn parse(text: &str) -> Option<Aim> {
        let (text, panics) = text.strip_suffix(":panic").map_or((text, false), |text| (text, true));
        let (name, count) = text.split_once(':')?;
        let point = Point::ALL.iter().copied().find(|point| point.name() == name)?;
        let left = count.parse().ok().filter(|count| *count > 0)?;
        Some(Aim { point, left: AtomicU64::new(left), panics })
    }

    fn die() -> ! {
        use rustix::process::{Signal, getpid, kill_process};
        // Should it fail, which it cannot, the end is the same but for the exit code.
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_what_exists_is_understood() {
            let aim = parse("sync.done:7").expect("a point");
            assert_eq!((aim.point, aim.left.into_inner(), aim.panics), (Point::SyncDone, 7, false));
            assert!(parse("sync.done:7:panic").is_some_and(|aim| aim.panics));
            for wrong in ["sync.done", "sync.done:0", "sync.done:x", "sync.done:panic", "sync:1", ""] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}

//! A journal of all kinds of segments, ways to break it, and what must hold once it is mended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rowcast_engine::event::Op;
use rowcast_engine::feed::{Feed, Filter, Framing, From, Next, Pattern, ViewKey};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Options};
use rowcast_engine::record::Builder;
use rowcast_engine::{Lsn, ingest, stop};
use serde_json::Value;

use crate::support::Fixture;

/// Options that make small segments.
pub(crate) fn small(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 3000;
    options.cache_bytes = 1000;
    options
}

/// The segment files of a directory, the oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == "seg")).collect();
    paths.sort();
    paths
}

/// The number in a segment's name.
pub(crate) fn number_of(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

/// A copy of the files of a directory.
pub(crate) fn copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Names and contents of all files but the lock.
pub(crate) fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .filter(|path| path.file_name().unwrap() != "lock")
        .map(|path| (PathBuf::from(path.file_name().unwrap()), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// Commits one transaction by way of a spill file.
pub(crate) async fn spilled(fixture: &mut Fixture, rows: usize) {
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    let mut spill = fixture.journal().spill().unwrap();
    for _ in 0..rows {
        fixture.row(&mut builder, &"z".repeat(100_000));
        if builder.open_bytes() > 1 << 20 {
            spill = ingest::spill_parts(spill, builder.take_open_parts()).await.unwrap();
        }
    }
    spill = ingest::spill_parts(spill, builder.take_tail(Lsn(fixture.lsn))).await.unwrap();
    let committed = 1_800_000_000_000_000 + i64::try_from(fixture.lsn).unwrap();
    fixture.ingest.room().await.unwrap().adopt(fixture.journal(), spill, Lsn(fixture.lsn), committed);
    fixture.durable().await;
}

/// Small segments, a spilled one, a segment of a single event, and a newest one with several transactions.
pub(crate) async fn history() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(small(dir.path())).await;
    for _ in 0..60 {
        fixture.transaction(2, "an order of the shop").await;
    }
    spilled(&mut fixture, 13).await;
    // A new segment began behind it: this fills it.
    fixture.transaction(1, &"w".repeat(4000)).await;
    for _ in 0..30 {
        fixture.transaction(3, "an order of the shop").await;
    }
    // The newest one shall have several.
    while fs::metadata(segments(dir.path()).pop().unwrap()).unwrap().len() < 1500 {
        fixture.transaction(1, "an order of the shop").await;
    }
    fixture.journal().close().await;
    dir
}

/// An event as a reader of the feed is told it; a gap also with its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its number and a digest of what was told.
    Event(u64, u32),
    Gap {
        from: u64,
        to: u64,
        reason: String,
    },
}

/// What a reader that starts at a place is told up to the newest event.
pub(crate) async fn told(feed: &Feed, from: From) -> Vec<Told> {
    let filter = Filter::new(vec![Pattern::parse("public.*").unwrap()], &[Op::Insert]);
    let start = feed.start(from, &filter).await.unwrap();
    let gap = |from, to, reason: &str| Told::Gap { from, to, reason: reason.to_owned() };
    let mut all: Vec<_> =
        start.gap.map(|(gone, reason)| gap(gone.from, gone.to, reason)).into_iter().collect();
    let key = ViewKey { filter, framing: Framing::Ndjson, options: Default::default() };
    let mut subscription = feed.subscribe(key, start.position);
    while let Some(next) = subscription.try_next().await.unwrap() {
        let events = match next {
            Next::Gap(gone) => {
                all.push(gap(gone.from, gone.to, "retention"));
                continue;
            }
            Next::Schema(_) => continue,
            Next::Events(events) => events,
        };
        for frame in events.frames() {
            let bytes = events.frame(frame);
            all.push(if frame.gap {
                let event: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(event["to"], frame.id, "the number of a gap is its end");
                gap(event["from"].as_u64().unwrap(), frame.id, event["reason"].as_str().unwrap())
            } else {
                Told::Event(frame.id, crc32c::crc32c(&bytes))
            });
        }
    }
    all
}

/// All that a closed journal holds.
pub(crate) async fn all(dir: &Path) -> Vec<Told> {
    let journal = journal::open(small(dir), Arc::new(RealDisk)).unwrap();
    let (_stopper, stop) = stop();
    let all = told(&Feed::new(journal.clone(), stop), From::Earliest).await;
    journal.close().await;
    all
}

pub(crate) fn number(told: &Told) -> u64 {
    match told {
        Told::Event(id, _) => *id,
        Told::Gap { to, .. } => *to,
    }
}

/// What must hold of a journal that was mended: every event is there as it was or lies in a gap, each reader that
/// missed something is told of it once, and no number is given twice. Gives the gaps.
pub(crate) async fn mended(dir: &Path, whole: &[Told]) -> Vec<(u64, u64)> {
    journal::check(dir, &RealDisk).unwrap();
    let journal = journal::open(small(dir), Arc::new(RealDisk)).unwrap();
    let (_stopper, stop) = stop();
    let feed = Feed::new(journal.clone(), stop);
    let found = told(&feed, From::After(0)).await;
    assert!(found.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "numbers rise");
    let mut gaps = Vec::new();
    for told in &found {
        match told {
            Told::Event(..) => assert!(whole.contains(told), "{told:?} is new"),
            Told::Gap { from, to, .. } => gaps.push((*from, *to)),
        }
    }
    let kept: BTreeSet<_> = found.iter().map(number).collect();
    let lost = |id: u64| gaps.iter().any(|(from, to)| (*from..=*to).contains(&id));
    for told in whole {
        let id = number(told);
        assert_ne!(kept.contains(&id) && found.contains(told), lost(id), "{id} is held or told as lost");
    }
    let edges = gaps.iter().flat_map(|(from, to)| [from - 1, *from, from.midpoint(*to), to - 1, *to, to + 1]);
    let last = journal.newest();
    let some = whole.iter().map(number).step_by(61);
    for seen in edges.chain(some).filter(|seen| *seen <= last) {
        tells_what_is_missing(&feed, seen, &found, &gaps).await;
    }
    let position = journal.position();
    assert_eq!((position.slot.as_str(), position.system), ("rowcast", 7), "whose stream it is, is known");
    journal.close().await;
    drop((journal, feed));
    let mut fixture = Fixture::open(small(dir)).await;
    fixture.transaction(1, "new").await;
    let newest = fixture.journal().newest();
    assert!(whole.iter().all(|told| number(told) < newest), "no number is given twice");
    fixture.journal().close().await;
    gaps
}

/// A client that has seen `id` gets all that is held above it, with each gap that it has to know of, once.
async fn tells_what_is_missing(feed: &Feed, id: u64, found: &[Told], gaps: &[(u64, u64)]) {
    let got = told(feed, From::After(id)).await;
    let events = |all: &[Told]| {
        let above = all.iter().filter(|told| number(told) > id);
        above.filter(|told| matches!(told, Told::Event(..))).cloned().collect::<Vec<_>>()
    };
    assert_eq!(events(&got), events(found), "from {id} on");
    let told_gaps: Vec<_> = got
        .iter()
        .filter_map(|told| match told {
            Told::Gap { from, to, .. } => Some((*from, *to)),
            Told::Event(..) => None,
        })
        .collect();
    let expected: Vec<_> = gaps.iter().filter(|(_, to)| *to > id).copied().collect();
    // What is not held at the old end is told from the client's own place on.
    let same =
        told_gaps.iter().zip(&expected).all(|(told, gap)| told.1 == gap.1 && told.0 <= gap.0.max(id + 1));
    assert!(same && told_gaps.len() == expected.len(), "from {id}: {told_gaps:?}, not {expected:?}");
}

//! What the journal says in log and metrics of what it does by itself.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rowcast_engine::Lsn;
use rowcast_engine::ingest;
use rowcast_engine::journal::{self, Options, State};
use rowcast_engine::record::Builder;

use crate::damage::segments;
use crate::disk::{FakeDisk, Fault, Ill, REMOVE};
use crate::log::{self, logged};
use crate::support::{Fixture, read_all};

/// Log and metrics of the whole process. To be called before what is to be recorded.
pub(crate) fn record() {
    log::record();
    recorded();
}

fn recorded() -> &'static PrometheusHandle {
    static RECORDED: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDED.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// The metrics as text.
pub(crate) fn rendered() -> String {
    recorded().render()
}

fn logged_of(dir: &Path, words: &str) -> Vec<String> {
    logged(dir.to_str().unwrap(), words)
}

async fn some_transactions(dir: &Path) -> usize {
    let mut fixture = Fixture::open(Options::new(dir)).await;
    for _ in 0..20 {
        fixture.transaction(5, "some text").await;
    }
    let whole = read_all(fixture.journal(), 0).len();
    fixture.journal().close().await;
    whole
}

/// Ends the newest segment at an offset, as a crash does, which has not come to writing its index.
fn tear(dir: &Path, end: impl Fn(u64) -> u64) -> u64 {
    let path = segments(dir).pop().unwrap();
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end(length)).unwrap();
    fs::remove_file(path.with_extension("idx")).unwrap();
    length
}

#[tokio::test]
async fn a_torn_end_that_is_cut_is_told_with_its_place() {
    const CUT: &str = "Cut the torn end of the journal";
    record();
    let (sound, torn) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = some_transactions(sound.path()).await;
    some_transactions(torn.path()).await;
    tear(sound.path(), |length| length);
    let length = tear(torn.path(), |length| length - 7);
    for dir in [sound.path(), torn.path()] {
        Fixture::open(Options::new(dir)).await.journal().close().await;
    }
    assert_eq!(logged_of(sound.path(), CUT), Vec::<String>::new(), "nothing of {whole} events was torn");
    let told = logged_of(torn.path(), CUT);
    let left = fs::metadata(segments(torn.path()).first().unwrap()).unwrap().len();
    assert!(left < length, "the last transaction is gone");
    let offset = format!("offset={left} ");
    assert_eq!(told.len(), 1, "{told:?}");
    for words in ["WARN", ".seg", &offset, "reason="] {
        assert!(told[0].contains(words), "{words} is not in {told:?}");
    }
    // Where the rest ends with zeros they may be what is written ahead.
    let bytes: u64 = told[0].split("bytes=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1..=length - 7 - left).contains(&bytes), "{told:?}");
}

/// A sink cannot have had what never was.
#[tokio::test]
async fn an_end_that_a_sink_has_had_and_that_is_gone_is_told() {
    record();
    let dir = tempfile::tempdir().unwrap();
    some_transactions(dir.path()).await;
    let seen = 8_000_000_000_000_123;
    let options = Options { seen, ..Options::new(dir.path()) };
    Fixture::open(options).await.journal().close().await;
    let told = logged(&seen.to_string(), "files of its end are missing");
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("newest="), "{told:?}");
    assert!(told[0].contains("restore the removed files"), "{told:?}");
}

#[tokio::test]
async fn a_segment_that_cannot_be_removed_is_told_and_counted() {
    record();
    let failures = || {
        let name = "rowcast_journal_remove_failures_total ";
        rendered().lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (dir, disk, before) = (tempfile::tempdir().unwrap(), FakeDisk::default(), failures());
    let options =
        Options { segment_bytes: 1000, max_size: Some(5000), ahead_bytes: 0, ..Options::new(dir.path()) };
    let mut fixture = Fixture::over(journal::open(options, Arc::new(disk.clone())).unwrap()).await;
    disk.plan(Some(Fault { calls: REMOVE, after: 0, ill: Ill::Forbidden, times: u32::MAX, waits: u32::MAX }));
    let mut state = fixture.journal().state();
    loop {
        let mut builder = Builder::new();
        fixture.begin(&mut builder);
        fixture.row(&mut builder, &"z".repeat(900));
        fixture.commit(&mut builder);
        tokio::select! {
            biased;
            _ = state.wait_for(|state| matches!(state, State::Full(_))) => break,
            room = fixture.ingest.room() => {
                room.unwrap().append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
            }
        }
    }
    let told = logged_of(dir.path(), "Cannot remove an old segment");
    assert!(told.iter().any(|line| line.contains("ERROR") && line.contains(".seg")), "{told:?}");
    assert!(failures() > before);
    disk.plan(None);
    crate::room::soon("room", state.wait_for(|state| *state == State::Open)).await.unwrap();
    fixture.journal().close().await;
}

/// It is read at the end, and goes when others follow.
#[tokio::test]
async fn a_transaction_that_is_larger_than_the_journal_may_be_is_told() {
    const LARGER: &str = "A transaction is larger than the journal may be";
    record();
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_size: Some(4321), ..Options::new(dir.path()) };
    let mut fixture = Fixture::open(options).await;
    fixture.transaction(1, "small").await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, &"z".repeat(10_000));
    let end = Lsn(fixture.lsn);
    let spill = fixture.journal().spill().unwrap();
    let spill = ingest::spill_parts(spill, builder.take_tail(end)).await.unwrap();
    assert!(logged("max_size=4321", LARGER).is_empty());
    fixture.ingest.room().await.unwrap().adopt(fixture.journal(), spill, end, 7);
    fixture.durable().await;
    let told = logged("max_size=4321", LARGER);
    assert!(told.len() == 1 && told[0].contains("Raise journal.max_size"), "{told:?}");
    tokio::time::timeout(Duration::from_secs(60), fixture.journal().close()).await.unwrap();
}

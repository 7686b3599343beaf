//! What arrives while the disk is busy is one write and one sync.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rowcast_engine::event::{Body, Event};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::Disk;
use rowcast_engine::journal::{self, Journal, Options, Start, State};
use rowcast_engine::record::Builder;
use rowcast_engine::{Lsn, Result};
use tokio::runtime::{Builder as Tokio, Runtime};
use tokio::task::JoinHandle;

use crate::disk::{FakeDisk, Fault, Ill, OTHERS, WRITE};
use crate::random::Random;
use crate::room::soon;
use crate::support::{Fixture, for_each_batch, read_all, table, unlocked};

/// Nothing of it runs: journals that are opened within it have no ticks, which would end a round.
static CLOCK: LazyLock<Runtime> =
    LazyLock::new(|| Tokio::new_current_thread().enable_time().build().unwrap());

fn open(options: Options, disk: &FakeDisk) -> Journal {
    open_standing(options, Arc::new(disk.clone()))
}

/// A journal under a clock that stands still: nothing looks at its files but what is asked of it.
pub(crate) fn open_standing(options: Options, disk: Arc<dyn Disk>) -> Journal {
    let _inside = CLOCK.enter();
    journal::open(options, disk).unwrap()
}

struct Standing {
    disk: FakeDisk,
    fixture: Fixture,
}

impl Standing {
    async fn open(options: Options) -> Self {
        let disk = FakeDisk::default();
        let mut fixture = Fixture::over(open(options, &disk)).await;
        fixture.transaction(1, "first").await;
        Self { disk, fixture }
    }

    fn ingest(&self) -> Ingest {
        Ingest::new(self.fixture.journal().clone())
    }

    /// A transaction that nobody waits for.
    async fn hand_over(&mut self, ingest: &Ingest, rows: usize, text: &str) {
        let mut builder = Builder::new();
        self.fixture.begin(&mut builder);
        (0..rows).for_each(|_| self.fixture.row(&mut builder, text));
        self.fixture.commit(&mut builder);
        ingest.room().await.unwrap().append(self.fixture.journal(), builder.take(), Lsn(self.fixture.lsn));
    }

    async fn publish(&self, text: &str) -> JoinHandle<Result<u64>> {
        let (journal, text) = (self.fixture.journal().clone(), text.to_owned());
        let task = tokio::spawn(async move { journal.publish(&[("custom", text.as_bytes())], 1).await });
        // It is in the queue.
        tokio::task::yield_now().await;
        task
    }

    /// Writes and syncs since it had done so many.
    fn calls_since(&self, before: (u64, u64)) -> (u64, u64) {
        let now = self.disk.calls();
        (now.0 - before.0, now.1 - before.1)
    }

    /// The writer is in the midst of a round, and what comes now is the next one.
    async fn busy(&mut self) {
        self.disk.hold(true);
        let ingest = self.ingest();
        self.hand_over(&ingest, 1, "busy").await;
        self.disk.until_held();
    }
}

fn options(dir: &Path) -> Options {
    Options { cache_bytes: 1, ..Options::new(dir) }
}

#[test]
fn what_has_arrived_is_one_write_and_one_sync() {
    let runtime = Tokio::new_current_thread().enable_time().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mut it = Standing::open(options(dir.path())).await;
        let before = it.disk.calls();
        it.busy().await;
        let ingests = [it.ingest(), it.ingest()];
        let mut replies = vec![it.publish("1").await];
        it.hand_over(&ingests[0], 3, "a").await;
        // A table that the segment does not know, and a transaction of several parts.
        it.fixture.orders = it.fixture.journal().register(table("other")).unwrap();
        it.hand_over(&ingests[1], 3, &"b".repeat(600_000)).await;
        replies.push(it.publish("2").await);
        it.disk.hold(false);
        it.fixture.durable().await;
        let mut numbers = Vec::new();
        for reply in replies {
            numbers.push(soon("an answer", reply).await.unwrap().unwrap());
        }
        assert_eq!(it.calls_since(before), (2, 2), "one for what was busy, one for all else");
        let all = read_events(&it.fixture);
        let first = all[0].0;
        let kinds: Vec<_> = all.iter().map(|(id, kind)| (id - first, kind.as_str())).collect();
        let row = "row";
        assert_eq!(
            kinds,
            [
                (0, row),
                (1, row),
                (2, "1"),
                (3, row),
                (4, row),
                (5, row),
                (6, row),
                (7, row),
                (8, row),
                (9, "2")
            ]
        );
        assert_eq!(numbers, [first + 2, first + 9], "each was told the number of his own");
        it.fixture.journal().close().await;
        let report = journal::check(dir.path(), &it.disk).unwrap();
        assert_eq!((report.events, report.unfinished), (10, 0));
    });
}

/// However many they are: nobody waits for a round that another one is in.
#[test]
fn a_crowd_that_publishes_shares_one_sync() {
    let runtime = Tokio::new_current_thread().enable_time().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mut it = Standing::open(options(dir.path())).await;
        let before = it.disk.calls();
        it.busy().await;
        let mut replies = Vec::new();
        for number in 0..300 {
            replies.push(it.publish(&number.to_string()).await);
        }
        it.disk.hold(false);
        for reply in replies {
            soon("an answer", reply).await.unwrap().unwrap();
        }
        assert_eq!(it.calls_since(before), (2, 2), "one for what was busy, one for the crowd");
        it.fixture.journal().close().await;
    });
}

/// Numbers, and the payload of what was published.
fn read_events(fixture: &Fixture) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for_each_batch(fixture.journal(), 0, |batch, after| {
        all.extend(batch.events().filter(|event| event.id > after).map(|event| {
            let kind = match event.body {
                Body::Message { payload, .. } => payload.to_owned(),
                _ => "row".to_owned(),
            };
            (event.id, kind)
        }));
    });
    all
}

#[test]
fn on_a_full_disk_those_of_a_round_who_need_not_wait_are_turned_away_and_the_others_go_on() {
    let runtime = Tokio::new_current_thread().enable_time().build().unwrap();
    // The disk is full at another place each time.
    for length in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(turned_away(dir.path(), &"x".repeat(length * 11)));
    }
}

async fn turned_away(dir: &Path, text: &str) {
    let mut it = Standing::open(Options { ahead_bytes: 0, ..options(dir) }).await;
    it.busy().await;
    let ingests = [it.ingest(), it.ingest()];
    it.hand_over(&ingests[0], 2, text).await;
    let mut replies = vec![it.publish("1").await, it.publish("2").await];
    it.hand_over(&ingests[1], 2, text).await;
    replies.push(it.publish("3").await);
    // What is busy goes well.
    let full = Fault { calls: WRITE | OTHERS, after: 1, ill: Ill::Full, times: u32::MAX, waits: u32::MAX };
    it.disk.plan(Some(full));
    it.disk.hold(false);
    for reply in replies {
        let error = soon("a refusal", reply).await.unwrap().unwrap_err();
        assert!(error.to_string().starts_with("The journal takes no events now"), "{error}");
    }
    // The power goes while the others wait: of those who were told that nothing is stored, nothing is.
    for seed in 0..50 {
        let after = it.disk.after_power_cut(&mut Random::new(seed));
        let see = |event: &Event<'_>| {
            assert_ne!(event.channel(), "custom", "seed {seed}");
            true
        };
        // That the end is torn is no harm here.
        let _ = journal::for_each_event(dir, &after, Start::Earliest, see);
    }
    assert!(matches!(*it.fixture.journal().state().borrow(), State::Full(_)));
    it.disk.plan(None);
    soon("the others", it.fixture.durable()).await;
    let all = read_all(it.fixture.journal(), 0);
    assert_eq!(all.len(), 6);
    assert!(all.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "no number is left out");
    let id = it.fixture.journal().publish(&[("custom", b"4")], 1).await.unwrap();
    assert_eq!(id, all[5].0 + 1);
    it.fixture.journal().close().await;
    assert_eq!(journal::check(dir, &it.disk).unwrap().events, 7);
}

#[test]
fn a_round_that_a_kill_has_torn_leaves_whole_transactions_from_its_beginning() {
    let runtime = Tokio::new_current_thread().enable_time().build().unwrap();
    let mut lengths = std::collections::BTreeSet::new();
    for calls in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            // What was shown is read from memory: nothing else works after the kill.
            let mut it = Standing::open(Options::new(dir.path())).await;
            it.busy().await;
            let ingests = [it.ingest(), it.ingest(), it.ingest()];
            it.fixture.orders = it.fixture.journal().register(table("other")).unwrap();
            // As long as they are, so that the kill comes at another place each time.
            for (at, ingest) in ingests.iter().enumerate() {
                it.hand_over(ingest, 2, &"x".repeat(calls * 7 + at)).await;
            }
            it.disk.plan(Some(Fault { calls: WRITE | OTHERS, after: 1, ill: Ill::Kill, times: 1, waits: 0 }));
            it.disk.hold(false);
            let mut state = it.fixture.journal().state();
            let failed = state.wait_for(|state| matches!(state, State::Failed(_)));
            soon("the end", failed).await.unwrap();
            let disk = it.disk.after_kill();
            let before = read_all(it.fixture.journal(), 0);
            assert_eq!(before.len(), 2, "nothing of what was torn was shown");
            drop((it, ingests, state));
            unlocked(dir.path());
            let journal = open(options(dir.path()), &disk);
            let found = read_all(&journal, 0);
            assert_eq!(found[..2], before[..]);
            assert!(found.len().is_multiple_of(2), "{} events: transactions have two", found.len());
            assert!(found.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1));
            lengths.insert(found.len());
            journal.close().await;
        });
    }
    assert!(lengths.len() > 2, "the kills came at different places: {lengths:?}");
}

#[test]
fn a_round_ends_with_its_segment() {
    let runtime = Tokio::new_current_thread().enable_time().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mut it = Standing::open(Options { segment_bytes: 3000, ..options(dir.path()) }).await;
        it.busy().await;
        let ingests: Vec<_> = (0..6).map(|_| it.ingest()).collect();
        for ingest in &ingests {
            it.hand_over(ingest, 4, &"s".repeat(200)).await;
        }
        it.disk.hold(false);
        soon("all", it.fixture.durable()).await;
        let summary = it.fixture.journal().summary();
        assert!(summary.segments >= 3, "{summary:?}");
        let all = read_all(it.fixture.journal(), 0);
        assert_eq!(all.len(), 26);
        it.fixture.journal().close().await;
        drop((it.fixture, ingests));
        let largest = it.disk.files().into_values().map(|bytes| bytes.len()).max().unwrap();
        assert!(
            largest < 3000 + 2000,
            "a segment of {largest} bytes took more than one append beyond its size"
        );
        let journal = open(options(dir.path()), &it.disk);
        assert_eq!(read_all(&journal, 0), all);
        journal.close().await;
    });
}

/// Nobody who is alone is kept waiting for others: of many commits one after the other the quickest takes no more than the
/// way to the writer and back.
/// Two threads that hand a commit to each other take a tenth of it.
const QUICK: Duration = Duration::from_micros(500);

#[test]
fn a_single_commit_waits_for_nobody() {
    let runtime = Tokio::new_current_thread().enable_time().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mut it = Standing::open(options(dir.path())).await;
        let (mut quickest, start) = (Duration::MAX, Instant::now());
        // Where others have the processors, each thread waits for its turn; not each time, for long.
        while quickest >= QUICK && start.elapsed() < Duration::from_secs(20) {
            let begun = Instant::now();
            it.fixture.transaction(1, "alone").await;
            quickest = quickest.min(begun.elapsed());
        }
        println!("a commit of one row to a disk that costs nothing: {quickest:?}");
        assert!(quickest < QUICK, "{quickest:?}");
    });
}

//! The journal under test, driven so that a seed gives the same calls of the disk again: nothing of tokio's clock
//! runs by itself, and who waits for the writer parks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{
    self, Compression, Journal, Options, Read, Spill, State, StreamPosition, Sync,
};
use rowcast_engine::record::Builder;
use rowcast_engine::schema::Schema;
use rowcast_engine::{Lsn, Result};
use tokio::runtime::{Builder as Tokio, Runtime};

use super::expect::{Expected, Past, Unit, seen_in};
use super::history::{as_notes, first_stream};
use crate::disk::{ANY, FakeDisk, Fault, Ill, OTHERS};
use crate::random::Random;
use crate::support::{table, unlocked};

const FOREVER: Duration = Duration::from_secs(1_000_000);

/// How one life of the journal is set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) always: bool,
    /// `Sync::Interval` that syncs at each tick.
    short: bool,
    segment_bytes: u64,
    ahead_bytes: usize,
    cache_bytes: usize,
    pub(super) max_size: Option<u64>,
    pub(super) ages: bool,
    pub(super) hold: Option<u64>,
    pub(super) compression: Compression,
}

impl Setup {
    fn random(random: &mut Random, highest: u64) -> Self {
        let segment_bytes = random.one_of(&[1000, 4000, 10_000, 60_000]);
        let always = random.chance(140);
        Self {
            always,
            short: random.chance(128),
            segment_bytes,
            ahead_bytes: random.one_of(&[0, 2000, 10_000, 256 << 10]),
            cache_bytes: random.one_of(&[1, 3000, 20_000, 1 << 20]),
            // With an interval nobody could tell what was shown before it went: the sink has to have it first.
            max_size: (always && random.chance(80)).then(|| segment_bytes * (2 + random.below(4))),
            ages: random.chance(60),
            hold: (!always || random.chance(128)).then(|| highest.saturating_sub(random.below(300))),
            compression: if random.chance(100) { Compression::Zstd } else { Compression::None },
        }
    }

    fn options(&self, world: &World) -> Options {
        let mut options = Options::new(world.dir.path());
        options.sync = match (self.always, self.short) {
            (true, _) => Sync::Always,
            (false, true) => Sync::Interval(Duration::ZERO),
            (false, false) => Sync::Interval(FOREVER),
        };
        (options.segment_bytes, options.cache_bytes) = (self.segment_bytes, self.cache_bytes);
        options.ahead_bytes = self.ahead_bytes;
        options.max_size = Some(self.max_size.unwrap_or(u64::MAX));
        // Nobody moves the sink while the writer would wait for it; `yielding.rs` is about that.
        options.stalled_after = Duration::ZERO;
        options.retention = if self.ages { Duration::ZERO } else { FOREVER };
        options.holds = self.hold.map(|id| ("sink".to_owned(), id)).into_iter().collect::<BTreeMap<_, _>>();
        (options.seen, options.compression) = (world.seen, self.compression);
        options
    }
}

pub(super) struct OpenSpill {
    pub(super) spill: Spill,
    pub(super) builder: Builder,
    pub(super) unit: Unit,
}

pub(super) struct Life {
    pub(super) journal: Journal,
    pub(super) ingests: Vec<Ingest>,
    pub(super) setup: Setup,
    pub(super) spills: Vec<OpenSpill>,
    pub(super) tables: Vec<Arc<Schema>>,
    /// Up to where events have been read.
    pub(super) read: u64,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) disk: FakeDisk,
    pub(super) past: Past,
    pub(super) life: Option<Life>,
    pub(super) lsn: u64,
    pub(super) tag: u64,
    pub(super) log: Vec<String>,
    pub(super) steps: u64,
    /// Says each step at once, for one that does not end.
    aloud: bool,
    dir: tempfile::TempDir,
    ticks: Runtime,
    waits: Runtime,
    seen: u64,
    /// Calls of the disk that had failed when this step began.
    pub(super) failed_before: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            disk: FakeDisk::default(),
            past: Past::default(),
            life: None,
            lsn: 1000,
            tag: 0,
            log: Vec::new(),
            steps: 0,
            failed_before: 0,
            aloud: std::env::var_os("ROWCAST_SEED").is_some(),
            dir: tempfile::tempdir().unwrap(),
            ticks: Tokio::new_current_thread().enable_time().start_paused(true).build().unwrap(),
            waits: Tokio::new_current_thread().build().unwrap(),
            // Half of the time the clock is behind the numbers, as one that was set back.
            seen: if random.chance(128) { 4_000_000_000_000_000 } else { 0 },
            random,
        }
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
        if self.aloud {
            println!("{}", self.log[self.log.len() - 1]);
        }
    }

    pub(super) fn last_steps(&self) -> String {
        self.log[self.log.len().saturating_sub(150)..].join("\n")
    }

    pub(super) fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("the journal is open")
    }

    /// Waits without letting tokio's clock run.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.waits.block_on(future)
    }

    /// Opens the journal, on a disk that may be ill at first, and compares what is there.
    pub(super) fn open(&mut self) {
        let mut ill = self.random.chance(100);
        loop {
            if ill {
                let fault = self.opening_fault();
                self.note(format!("  open with {fault:?}"));
                self.disk.plan(Some(fault));
            }
            let setup = Setup::random(&mut self.random, self.past.highest);
            self.note(format!("  open {setup:?}"));
            unlocked(self.dir.path());
            let before = self.disk.failed();
            self.failed_before = before;
            let opened = {
                let _inside = self.ticks.enter();
                journal::open(setup.options(self), Arc::new(self.disk.clone()))
            };
            let failed = self.disk.failed() > before;
            self.disk.plan(None);
            match opened {
                Ok(journal) if !self.disk.is_dead() => return self.opened(journal, setup),
                Ok(journal) => drop(journal),
                Err(error) if failed => self.note(format!("  refused: {error}")),
                Err(error) => panic!("the journal does not open: {error}"),
            }
            if self.disk.is_dead() {
                self.disk = self.disk.after_death(&mut self.random);
            } else if self.random.chance(40) {
                self.disk = self.disk.after_power_cut(&mut self.random);
            }
            ill = ill && self.random.chance(128);
        }
    }

    fn opening_fault(&mut self) -> Fault {
        let ill = self.random.one_of(&[Ill::Broken, Ill::Full, Ill::Power, Ill::Kill]);
        let times = self.random.one_of(&[1, u32::MAX]);
        let calls = if ill == Ill::Full { crate::disk::CREATE | crate::disk::WRITE } else { ANY };
        Fault { calls: calls | OTHERS, after: self.random.below(30) as u32, ill, times, waits: u32::MAX }
    }

    fn opened(&mut self, journal: Journal, setup: Setup) {
        self.seen = 0;
        // It opens on a full disk too, and retention makes room then.
        self.wait(journal.state().wait_for(|state| !matches!(state, State::Full(_)))).unwrap();
        let retention = setup.ages || setup.max_size.is_some();
        self.past.retention |= retention;
        let found = read_to_head(&journal, 0);
        let (stored, tx_end) = (journal.position(), journal.last_tx_end().0);
        let spill = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("spill-");
        // A disk that refuses to remove it keeps it until the next opening.
        let left = self.disk.failed() == self.failed_before && self.disk.files().keys().any(spill);
        assert!(!left, "an unfinished transaction has left its file");
        let (first, last) = (found.first().map(|(id, _)| *id), found.last().map(|(id, _)| *id));
        let (position, birth) = (stored.lsn.0, stored.slot_birth.0);
        self.note(format!(
            "  found {} events, {first:?} to {last:?}, position {position} of {birth}",
            found.len()
        ));
        self.past.reopened(&found, &stored, tx_end);
        self.past.retention = retention;
        assert_eq!(journal.newest(), found.last().map_or(journal.newest(), |(id, _)| *id));
        if self.random.chance(100) {
            self.check(&found);
        }
        self.lsn = if position == 0 { 1000 } else { position };
        let ingests = (0..4).map(|_| Ingest::new(journal.clone())).collect();
        let read = journal.newest();
        let mut tables = journal.schemas();
        tables.sort_by_key(|table| table.id);
        self.life = Some(Life { journal, ingests, setup, spills: Vec::new(), tables, read });
        self.agree_on_history();
        if self.random.chance(24) {
            self.begin_history(None);
        }
        self.identify();
    }

    /// Who only looks sees the same.
    fn check(&self, found: &[(u64, Expected)]) {
        let report = journal::check(self.dir.path(), &self.disk).unwrap();
        let ends = (found.first().map_or(0, |(id, _)| *id), found.last().map_or(0, |(id, _)| *id));
        assert_eq!((report.events, report.oldest, report.newest), (found.len() as u64, ends.0, ends.1));
        assert_eq!((report.unfinished, report.missing), (0, None), "what retention took is not missed");
    }

    /// As capture does when it connects.
    pub(super) fn identify(&mut self) {
        let stored = self.life().journal.position();
        let whose = if stored.slot.is_empty() { first_stream(stored) } else { stored };
        let timeline = whose.timeline + u32::from(self.random.chance(60));
        let moved = self.random.below(2);
        self.lsn += moved;
        // Of one that says no other position nobody can tell whether it is there.
        let note = if moved > 0 { self.some_note() } else { None };
        let position = StreamPosition { lsn: Lsn(self.lsn), timeline, ..whose };
        let group = self.past.units.len();
        self.past.units.push(Unit { end: self.lsn, group, note: note.clone(), ..Unit::default() });
        let ingest = self.life().ingests[0].clone();
        let done = self.wait(ingest.identify(position.clone(), &as_notes(&note)));
        if self.accept(done).is_some() {
            assert_eq!(ingest.journal().position(), position);
            self.past.sure = self.past.sure.max(group + 1);
        }
        self.settle();
    }

    /// Whether the disk has failed in this step, or the journal for good.
    fn is_ill(&mut self) -> bool {
        self.disk.failed() > self.failed_before || self.disk.is_dead() || self.has_failed()
    }

    /// An error is right only when the disk has failed.
    pub(super) fn accept<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if self.is_ill() => {
                self.note(format!("  {error}"));
                None
            }
            Err(error) => panic!("the disk is well, and yet: {error}"),
        }
    }

    /// Waits until all that was handed over is shown (and durable, with sync = always), or nothing more comes.
    pub(super) fn settle(&mut self) {
        let journal = self.life().journal.clone();
        let (mut head, mut durable, mut state) = (journal.head(), journal.durable(), journal.state());
        loop {
            head.borrow_and_update();
            let failed = matches!(*state.borrow_and_update(), State::Failed(_));
            let lsn = durable.borrow_and_update().0;
            self.catch_up();
            let awaited = self.past.reached(self.past.units.len());
            let durable_enough = !self.life().setup.always || lsn >= awaited;
            if self.past.skipping && !failed && durable_enough && self.life().read >= journal.newest() {
                self.past.skip_to(self.past.units.len());
            }
            // The writer does not mind every failure, but nothing can be read any more.
            let over = failed || self.disk.is_dead();
            if over || (self.past.all_shown() && durable_enough) {
                break;
            }
            self.wait(async {
                tokio::select! {
                    _ = head.changed() => {}
                    _ = durable.changed() => {}
                    _ = state.changed() => {}
                }
            });
        }
        if self.life().setup.always {
            let seen = self.past.units[..self.past.shown.0].iter().rposition(|unit| !unit.events.is_empty());
            self.past.sure = self.past.sure.max(seen.map_or(0, |at| at + 1));
        }
        self.past.confirm(journal.position());
        self.look_at_oldest();
    }

    fn catch_up(&mut self) {
        let life = self.life.as_mut().expect("the journal is open");
        loop {
            match life.journal.read(life.read) {
                Ok(Read::Batches(batches)) => {
                    for batch in batches {
                        let newest = life.journal.newest();
                        assert!(batch.last() <= newest, "event {} is above the head, {newest}", batch.last());
                        for (id, event) in seen_in(&batch, life.read) {
                            self.past.show(id, &event);
                        }
                        life.read = batch.last();
                    }
                }
                Ok(Read::AtHead) => return,
                Ok(Read::Gone(gone)) => {
                    let setup = &life.setup;
                    assert!(setup.always && (setup.ages || setup.max_size.is_some()), "{gone:?} {setup:?}");
                    (self.past.skipping, life.read) = (true, gone.to);
                }
                Err(error) => {
                    let after = life.read;
                    assert!(self.is_ill(), "cannot read on after {after}: {error}");
                    return;
                }
            }
        }
    }

    /// What retention took, it was allowed to take: whole units, the oldest first.
    pub(super) fn look_at_oldest(&mut self) {
        let life = self.life.as_ref().expect("the journal is open");
        let oldest = life.journal.oldest();
        if oldest <= self.past.oldest || self.past.shown.0 == 0 {
            return;
        }
        let setup = &life.setup;
        let gone = self.past.held().filter(|unit| unit.first < oldest);
        for unit in gone {
            assert!(
                unit.last() < oldest,
                "a unit is gone in part: {} to {}, {oldest}",
                unit.first,
                unit.last()
            );
            let aged = setup.ages && setup.hold.is_none_or(|hold| unit.last() <= hold);
            assert!(aged || setup.max_size.is_some(), "event {} had to stay: {setup:?}", unit.first);
        }
        self.past.oldest = oldest;
    }

    /// Ends a life that no step has ended.
    pub(super) fn over(&mut self) {
        if self.life.is_some() {
            self.crash();
        }
    }

    /// Lets go of the journal without closing it; its thread ends.
    pub(super) fn let_go(&mut self) {
        self.life = None;
        unlocked(self.dir.path());
    }

    /// Has the writer look at ages and intervals, as once a second.
    pub(super) fn tick(&mut self) {
        self.ticks.block_on(async {
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        });
    }

    pub(super) fn table(&mut self) -> Arc<Schema> {
        let fresh = self.life().tables.is_empty() || self.random.chance(12);
        if fresh {
            let number = self.random.below(12);
            let mut schema = table(&format!("t{number}"));
            if self.random.chance(100) {
                schema.inserts_only = true;
            }
            let schema = self.life().journal.register(schema).unwrap();
            self.life().tables.push(Arc::clone(&schema));
            return schema;
        }
        let known = self.life().tables.len();
        let at = self.random.index(known);
        Arc::clone(&self.life().tables[at])
    }
}

pub(super) fn read_to_head(journal: &Journal, mut after: u64) -> Vec<(u64, Expected)> {
    let mut found = Vec::new();
    loop {
        match journal.read(after).unwrap_or_else(|error| panic!("cannot read on after {after}: {error}")) {
            Read::AtHead => return found,
            Read::Gone(gone) => {
                assert!(found.is_empty() && gone.from == after + 1 && gone.to >= gone.from, "{gone:?}");
                after = gone.to;
            }
            Read::Batches(batches) => {
                for batch in batches {
                    let new = seen_in(&batch, after);
                    assert!(!new.is_empty(), "what is read is new");
                    found.extend(new);
                    after = batch.last();
                }
            }
        }
    }
}

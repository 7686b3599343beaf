//! The rules of snapshots beside a stream, tried out on the real [`Tracker`]: random transactions, whose commit is
//! decoded before it is seen, delivered and read in any order, with crashes of the reader. At the end the consumer's
//! table equals the database's, no value unknown. With any of the rules left out, it does not for long.
//!
//! What it carries on is the explicit search of all interleavings of two and three transactions that the rules come
//! from; here they are longer, and the code is the program's.

#[path = "../../../../engine/tests/campaign.rs"]
mod campaign;
mod changes;
mod standby;
mod told;
mod whole;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::record::Tuple;

use super::rows::Rows;
use super::told::Form;
use super::tracker::{Read, Tracker, Verdict};
use super::visible::{Commit, Visible};
use campaign::{Outcome, guard};
use changes::{Change, KEYS, initial, transactions};
use standby::{Standby, UNASKED};
use told::{behind_the_old, key_of, moved, raw, row_of};
pub(super) use told::{chunk, schema};

/// Of a life, on an average at least.
const STEPS: u64 = 100;

pub(super) const TABLE: u32 = 7;
pub(super) const KEY: &[u16] = &[0];

/// A row: one value that every event carries, and one that only some do.
type Row = (u32, u32);
type Table = BTreeMap<u8, Row>;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Transactions that were streamed before a window are not reckoned with.
    Ring,
    /// Nor are those that were streamed before a crash.
    RingRestart,
    /// Rows are written before the stream has passed their position.
    Wait,
    /// Of a row that goes, or gets another key, nobody notes the key that it had.
    OldKey,
    /// Newer events do not replace rows.
    Supersede,
    Truncate,
    /// Keys that wait to be read again are forgotten in a crash.
    AgainDurable,
    Again,
    /// Of a key that a row is moved to is thought that the row had been told, also where not all have been.
    AllRead,
    /// What a standby's snapshot says of ids is believed.
    Positions,
    /// A standby is asked for its position behind the snapshot, and what is in doubt is taken for seen.
    Before,
    /// Rows are written where the stream has come to a standby's position, and not beyond.
    Beyond,
    /// A standby that begins further back than what was streamed before is not waited for.
    CaughtUp,
}

struct Transaction {
    changes: Vec<Change>,
    /// 0 not begun, 1 holds its locks, 2 has its commit record, 3 is visible.
    state: u8,
}

#[derive(Default)]
struct Durable {
    cursor: Option<u8>,
    at_end: bool,
    again: BTreeSet<Box<[u8]>>,
    delivered: usize,
}

struct Chunk {
    window: u64,
    visible: Visible,
    due: Lsn,
    /// Up to where a standby had received the log.
    received: Lsn,
    rows: Rows,
    last: Option<u8>,
    at_end: bool,
    asked: Vec<Box<[u8]>>,
}

struct World {
    random: StdRng,
    without: Without,
    initial: Table,
    transactions: Vec<Transaction>,
    order: Vec<usize>,
    delivered: usize,
    consumer: BTreeMap<u8, (u32, Option<u32>)>,
    tracker: Tracker,
    durable: Durable,
    done: bool,
    window: Option<u64>,
    chunk: Option<Chunk>,
    crashes: u32,
    /// Read from, in place of the primary.
    standby: Option<Standby>,
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let initial = initial(&mut random).into_iter().map(|key| (key, (1, 1))).collect();
        let transactions = transactions(&mut random);
        let transactions =
            transactions.into_iter().map(|changes| Transaction { changes, state: 0 }).collect();
        let mut world = Self {
            random,
            without,
            initial,
            transactions,
            order: Vec::new(),
            delivered: 0,
            consumer: BTreeMap::new(),
            tracker: Tracker::default(),
            durable: Durable::default(),
            done: false,
            window: None,
            chunk: None,
            crashes: 0,
            standby: None,
        };
        world.start();
        world
    }

    /// As after a start of the program.
    fn start(&mut self) {
        self.tracker = match self.without {
            Without::CaughtUp => Tracker::default(),
            _ => Tracker::behind(start_of(self.delivered)),
        };
        self.give_up();
        if self.without != Without::RingRestart && self.standby.is_none() {
            let visible = self.seen();
            let streamed = (0..self.delivered).map(|at| self.commit(at));
            let unseen: Vec<Commit> = streamed.filter(|commit| !visible.sees(*commit)).collect();
            self.tracker.seed(&unseen);
        }
        self.tracker.watch();
        let mut again = self.durable.again.clone();
        if self.without == Without::AgainDurable {
            again.clear();
        } else {
            for at in self.durable.delivered..self.delivered {
                for (op, raw, _) in self.events(at) {
                    again.extend(moved(op, &raw));
                }
            }
        }
        self.tracker.begin(TABLE);
        self.tracker.read_again(TABLE, again);
        self.tracker.describe(&schema());
    }

    /// What is under way is not there any more.
    fn give_up(&mut self) {
        if let (Some(window), true) = (self.window, self.tracker.is_watching()) {
            self.tracker.close(TABLE, window);
        }
        (self.window, self.chunk) = (None, None);
        if let Some(standby) = &mut self.standby {
            standby.before = None;
        }
    }

    /// As the stream names the one that was the n-th to commit.
    fn commit(&self, at: usize) -> Commit {
        Commit { xid: xid(self.order[at]), at: start_of(at) }
    }

    /// The table with these transactions in it.
    fn table(&self, order: impl Iterator<Item = usize>) -> Table {
        let mut table = self.initial.clone();
        order.for_each(|at| self.apply(&mut table, at, |_, _| {}));
        table
    }

    fn apply(&self, table: &mut Table, at: usize, mut tell: impl FnMut(&Table, Change)) {
        for (number, change) in (0..).zip(&self.transactions[at].changes) {
            let new = u32::try_from(at).unwrap() * 10 + number + 10;
            let before = table.clone();
            match *change {
                Change::Insert(key) => _ = table.entry(key).or_insert((new, new)),
                Change::Update(key) => _ = table.get_mut(&key).map(|row| row.0 = new),
                Change::Rewrite(key) => _ = table.get_mut(&key).map(|row| *row = (new, new)),
                Change::Delete(key) => _ = table.remove(&key),
                Change::Move(from, to) if !table.contains_key(&to) => {
                    if let Some(row) = table.remove(&from) {
                        table.insert(to, (new, row.1));
                    }
                }
                Change::Move(..) => {}
                Change::Truncate => table.clear(),
            }
            if before != *table {
                tell(table, *change);
            }
        }
    }

    /// What the stream says of the n-th transaction.
    fn events(&self, at: usize) -> Vec<(Op, Vec<u8>, Change)> {
        let mut table = self.table(self.order[..at].iter().copied());
        let mut events = Vec::new();
        self.apply(&mut table, self.order[at], |table, change| {
            let row = |key: u8, whole: bool| Some((table[&key].0, whole.then(|| table[&key].1)));
            events.push(match change {
                Change::Insert(key) => (Op::Insert, raw(b'N', key, row(key, true)), change),
                Change::Update(key) => (Op::Update, raw(b'N', key, row(key, false)), change),
                Change::Rewrite(key) => (Op::Update, raw(b'N', key, row(key, true)), change),
                Change::Delete(key) => (Op::Delete, raw(b'K', key, None), change),
                Change::Move(from, to) => {
                    let tuples = [raw(b'K', from, None), raw(b'N', to, row(to, false))].concat();
                    (Op::Update, tuples, change)
                }
                Change::Truncate => (Op::Truncate, Vec::new(), change),
            });
        });
        events
    }

    fn deliver(&mut self) {
        let id = self.commit(self.delivered);
        for (op, raw, change) in self.events(self.delivered) {
            match change {
                Change::Truncate if self.without == Without::Truncate => {}
                Change::Truncate => self.tracker.truncate(TABLE, id),
                Change::Delete(_) if self.without == Without::OldKey => {}
                Change::Move(..) if self.without == Without::OldKey => {
                    self.tracker.change(TABLE, id, op, behind_the_old(&raw));
                }
                _ => self.tracker.change(TABLE, id, op, &raw),
            }
            self.consume(op, &raw);
        }
        if self.without != Without::Ring {
            self.tracker.delivered(id);
        }
        self.delivered += 1;
    }

    fn consume(&mut self, op: Op, raw: &[u8]) {
        if op == Op::Truncate {
            return self.consumer.clear();
        }
        let (mut rest, mut before) = (raw, None);
        while let Some((tag, after)) = rest.split_first() {
            let (tuple, after) = Tuple::split(after).unwrap();
            rest = after;
            let (key, value, large) = row_of(tuple);
            if *tag == b'K' {
                before = self.consumer.remove(&key);
            } else {
                let old = self.consumer.remove(&key).or(before);
                self.consumer.insert(key, (value.unwrap(), large.or(old.and_then(|old| old.1))));
            }
        }
    }

    fn passed(&self) -> Lsn {
        passed(self.delivered, self.transactions.len())
    }

    fn seen(&self) -> Visible {
        seen(self.transactions.iter().map(|transaction| transaction.state))
    }

    fn read(&mut self, window: u64) {
        let again: Vec<Box<[u8]>> = self.tracker.again(TABLE).map(Box::from).collect();
        let table = match &self.standby {
            Some(standby) => self.table(self.order[..standby.shown].iter().copied()),
            None => self.table(self.order.iter().copied().filter(|at| self.transactions[*at].state == 3)),
        };
        let asked =
            if self.durable.at_end || self.random.random_range(0..3) == 0 { again } else { Vec::new() };
        let wants = |key: u8| match (asked.is_empty(), self.durable.cursor) {
            (false, _) => asked.contains(&key_of(key)),
            (true, cursor) => cursor.is_none_or(|cursor| key > cursor),
        };
        let wanted: Vec<(u8, Row)> =
            table.iter().filter(|(key, _)| wants(**key)).map(|(key, row)| (*key, *row)).collect();
        let limit = if asked.is_empty() { self.random.random_range(1..3) } else { wanted.len() };
        let mut rows = Rows::default();
        for (key, (value, large)) in wanted.iter().take(limit) {
            rows.push(format!("{key}\t{value}\t{large}\n").as_bytes(), 3).unwrap();
        }
        let chunk = Chunk {
            window,
            visible: if self.standby.is_some() { self.seen_by_standby() } else { self.seen() },
            due: if self.standby.is_some() { UNASKED } else { start_of(self.order.len()) },
            received: self.received(),
            rows,
            last: wanted.iter().take(limit).map(|(key, _)| *key).next_back(),
            at_end: wanted.len() <= limit,
            asked,
        };
        self.chunk = Some(chunk);
    }

    fn settle(&mut self, chunk: &Chunk) {
        let read = Read {
            relation: TABLE,
            window: chunk.window,
            visible: &chunk.visible,
            schema: 1,
            form: Form::of(&schema()),
            key: KEY,
            rows: &chunk.rows,
            asked: &chunk.asked,
            all_read: self.durable.at_end
                || (chunk.asked.is_empty() && chunk.at_end)
                || self.without == Without::AllRead,
        };
        let mut kept = Vec::new();
        let verdict = self.tracker.settle(&read, |row| kept.push(row.to_vec()));
        if verdict != Verdict::Written {
            // Read again in the same window.
            assert_eq!(verdict, Verdict::Unseen);
            self.window = Some(chunk.window);
            return;
        }
        if self.without == Without::Supersede {
            kept = chunk.rows.iter().map(<[u8]>::to_vec).collect();
        }
        for row in kept {
            let (key, value, large) = row_of(Tuple::split(&row).unwrap().0);
            self.consumer.insert(key, (value.unwrap(), large));
        }
        if chunk.asked.is_empty() {
            self.durable.cursor = chunk.last.or(self.durable.cursor);
            self.durable.at_end = chunk.at_end;
        }
        self.durable.again = self.tracker.again(TABLE).map(Box::from).collect();
        self.durable.delivered = self.delivered;
        let left = !self.durable.again.is_empty() && self.without != Without::Again;
        self.done = self.durable.at_end && !left;
        if self.done {
            self.tracker.end(TABLE);
        }
    }

    /// Something that could happen now; false when nothing can any more.
    fn step(&mut self) -> bool {
        if self.standby.is_some() && self.random.random_range(0..3) == 0 {
            self.replay();
        }
        let at = self.random.random_range(0..self.transactions.len());
        match self.random.random_range(0..11) {
            0..4 => self.advance(at),
            4..6 if self.delivered < self.deliverable() => self.deliver(),
            6..9 if !self.done => self.snapshot(),
            9 if !self.done && self.crashes < 3 && self.random.random_range(0..4) == 0 => {
                self.crashes += 1;
                self.start();
            }
            10 => self.tracker.forget(&self.seen_by_all()),
            _ => {}
        }
        !(self.done
            && self.delivered == self.transactions.len()
            && self.transactions.iter().all(|transaction| transaction.state == 3))
    }

    /// One that touches what another holds has to wait for it.
    fn advance(&mut self, at: usize) {
        let blocked = (0..self.transactions.len()).any(|other| {
            let holds = other != at && matches!(self.transactions[other].state, 1 | 2);
            holds
                && !touched(&self.transactions[at].changes)
                    .is_disjoint(&touched(&self.transactions[other].changes))
        });
        let transaction = &mut self.transactions[at];
        match transaction.state {
            0 if blocked => return,
            1 => self.order.push(at),
            3 => return,
            _ => {}
        }
        transaction.state += 1;
    }

    fn snapshot(&mut self) {
        match (self.window, self.chunk.take()) {
            (_, Some(mut chunk)) if chunk.due == UNASKED => {
                self.ask_behind(&mut chunk);
                self.chunk = Some(chunk);
            }
            (_, Some(chunk)) if self.passed() >= chunk.due || self.without == Without::Wait => {
                self.window = None;
                self.settle(&chunk);
            }
            (_, Some(chunk)) => self.chunk = Some(chunk),
            (Some(_), None) if self.ask_before() => {}
            (Some(window), None) => self.read(window),
            (None, None) => self.window = self.tracker.open(TABLE),
        }
    }
}

/// The keys that it takes for itself.
fn touched(changes: &[Change]) -> BTreeSet<u8> {
    let of = |change: &Change| match *change {
        Change::Insert(key) | Change::Update(key) | Change::Rewrite(key) | Change::Delete(key) => vec![key],
        Change::Move(from, to) => vec![from, to],
        Change::Truncate => (0..KEYS).collect(),
    };
    changes.iter().flat_map(of).collect()
}

/// How far the stream has come with so many delivered of so many; at the end other records come along.
fn passed(delivered: usize, all: usize) -> Lsn {
    Lsn(start_of(delivered).0 + u64::from(delivered == all))
}

/// What a primary's snapshot sees of transactions in these states, as the server reckons: what is in progress beyond the
/// newest completed one is in no list.
fn seen(states: impl Iterator<Item = u8>) -> Visible {
    let states: Vec<u8> = states.collect();
    let xmax = states.iter().rposition(|state| *state == 3).map_or(0, |at| at + 1);
    let running: Vec<String> = (0..xmax).filter(|at| states[*at] < 3).map(|at| xid(at).to_string()).collect();
    let xmin = running.first().cloned().unwrap_or_else(|| xid(xmax).to_string());
    format!("{xmin}:{}:{}", xid(xmax), running.join(",")).parse().unwrap()
}

fn xid(at: usize) -> u32 {
    100 + u32::try_from(at).unwrap()
}

/// Where the record of the n-th commit starts, and the one before ends.
fn start_of(at: usize) -> Lsn {
    Lsn(10 * at as u64)
}

/// One life, its steps; or what is wrong at its end.
fn live(seed: u64, without: Without) -> Outcome {
    live_in(World::new(seed, without), seed)
}

fn live_in(mut world: World, seed: u64) -> Outcome {
    let mut steps = 0;
    while world.step() {
        steps += 1;
        assert!(steps < 100_000, "seed {seed}: it does not end");
    }
    let expected: BTreeMap<u8, (u32, Option<u32>)> = world
        .table(world.order.iter().copied())
        .into_iter()
        .map(|(key, (value, large))| (key, (value, Some(large))))
        .collect();
    if world.consumer == expected {
        return Ok(steps);
    }
    Err(format!("seed {seed}: the consumer has {:?}, the table {expected:?}", world.consumer))
}

#[test]
fn the_consumer_has_the_table_at_the_end() {
    campaign::run(30_000, STEPS, |seed| guard(seed, || live(seed, Without::Nothing), String::new)?);
}

#[test]
fn no_rule_can_be_left_out() {
    for without in [
        Without::Ring,
        Without::RingRestart,
        Without::Wait,
        Without::OldKey,
        Without::Supersede,
        Without::Truncate,
        Without::AgainDurable,
        Without::Again,
        Without::AllRead,
    ] {
        assert!((0..60_000).any(|seed| live(seed, without).is_err()), "{without:?} changes nothing");
    }
}

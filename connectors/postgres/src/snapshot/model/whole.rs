//! The same of a table whose rows nothing tells apart: they are counted. Who begins with an empty table where the snapshot is
//! wanted, and follows, has as many of each as the table at the end.

mod counted;

use super::*;
use crate::snapshot::moment::beyond;
use crate::snapshot::told::{Shape, Told};
use crate::snapshot::tracker::{Changes, Flaw, Opened, ReadWhole};
use counted::{Counts, Did, Transaction, VALUES, count, did, follow, push, said, tell, touches, value_of};

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    None,
    /// A snapshot that does not see what was streamed before is taken for good.
    Ring,
    /// What was streamed before a crash is not reckoned with.
    RingRestart,
    /// Rows are written before the stream has passed their position.
    Wait,
    /// What the snapshot does not see is not added to its rows.
    Unseen,
    /// What it does see is added, too.
    Seen,
    /// Rows that are gone stay.
    Removed,
    /// A table that was emptied stays as it was.
    Emptied,
    /// On a standby, what nobody knows of is taken for not seen.
    Doubt,
    /// On a standby, rows are written where the stream has come to the position, and not beyond.
    Beyond,
    /// What the consumer has is not taken from the rows.
    Subtraction,
    /// What he had before the stream began to be noted is not.
    Journal,
    /// Where the journal ends and the stream begins, a transaction counts twice.
    Seam,
}

struct Piece {
    opened: Opened,
    visible: Visible,
    due: Lsn,
    /// Those that he had are left out.
    rows: Rows,
    /// Those, unless memory does not hold them.
    left_out: Option<Rows>,
    all: Counts,
}

/// Commits that a standby has applied, as its position says, and as its snapshots show.
#[derive(Clone, Copy, Default)]
struct Replay {
    position: usize,
    shown: usize,
    /// The position that was asked for before a snapshot.
    before: Option<usize>,
}

struct World {
    random: StdRng,
    left: Left,
    initial: Counts,
    transactions: Vec<Transaction>,
    order: Vec<usize>,
    delivered: usize,
    /// When the snapshot was wanted so much had been delivered.
    since: Option<usize>,
    consumer: Counts,
    tracker: Tracker,
    /// What the journal said where the stream began to be noted.
    told: Option<Told>,
    opened: Option<Opened>,
    /// Updates and deletes are published.
    all_is_told: bool,
    piece: Option<Piece>,
    done: bool,
    crashes: u32,
    standby: Option<Replay>,
}

impl World {
    fn new(seed: u64, left: Left, standby: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let all_is_told = left != Left::None || random.random_range(0..4) > 0;
        let initial = (0..VALUES).map(|value| (value, random.random_range(0..3))).collect();
        let transactions = (0..random.random_range(2..8))
            .map(|_| Transaction {
                did: (0..random.random_range(1..4)).map(|_| did(&mut random)).collect(),
                state: 0,
            })
            .collect();
        Self {
            random,
            left,
            initial,
            transactions,
            order: Vec::new(),
            delivered: 0,
            since: None,
            consumer: Counts::new(),
            tracker: Tracker::default(),
            told: None,
            opened: None,
            all_is_told,
            piece: None,
            done: false,
            crashes: 0,
            standby: standby.then(Replay::default),
        }
    }

    /// As after a start of the program: all of it begins anew, but what is wanted.
    fn start(&mut self) {
        self.tracker = Tracker::behind(start_of(self.delivered));
        (self.opened, self.piece) = (None, None);
        self.tracker.describe(&schema());
        let Some(since) = self.since else { return };
        if self.left != Left::RingRestart && self.standby.is_none() {
            let visible = self.seen();
            let streamed = (0..self.delivered).map(|at| self.commit(at));
            let unseen: Vec<Commit> = streamed.filter(|commit| !visible.sees(*commit)).collect();
            self.tracker.seed(&unseen);
        }
        self.tracker.watch();
        self.tracker.begin_whole(TABLE);
        let twice = usize::from(self.left == Left::Seam && since < self.delivered);
        let mut told = Told::default();
        for at in (since..self.delivered).chain(self.delivered - twice..self.delivered) {
            self.events(at).into_iter().for_each(|did| tell(&mut told, did));
        }
        told.shape = Some(Shape::of(&schema())).filter(|_| !told.is_empty());
        self.told = Some(if self.left == Left::Journal { Told::default() } else { told });
    }

    /// What the stream says of a transaction.
    fn events(&self, at: usize) -> Vec<Did> {
        let mut events = Vec::new();
        let mut before = self.table(self.order[..at].iter().copied());
        self.apply(&mut before, self.order[at], |did| events.push(did));
        events.retain(|did| self.all_is_told || matches!(did, Did::Insert(_) | Did::Empty));
        events
    }

    fn commit(&self, at: usize) -> Commit {
        Commit { xid: xid(self.order[at]), at: start_of(at) }
    }

    fn table(&self, order: impl Iterator<Item = usize>) -> Counts {
        let mut table = self.initial.clone();
        order.for_each(|at| self.apply(&mut table, at, |_| {}));
        table
    }

    fn apply(&self, table: &mut Counts, at: usize, mut tell: impl FnMut(Did)) {
        for did in &self.transactions[at].did {
            let has = |value: u8| table.get(&value).is_some_and(|count| *count > 0);
            if matches!(*did, Did::Delete(old) | Did::Update(old, _) if !has(old)) {
                continue;
            }
            count(table, *did);
            tell(*did);
        }
    }

    fn deliver(&mut self) {
        let id = self.commit(self.delivered);
        self.tracker.arrives(id);
        for did in self.events(self.delivered) {
            if self.since.is_some() {
                follow(&mut self.consumer, did);
            }
            let keeps = self.left == Left::Removed;
            match did {
                Did::Empty if self.left == Left::Emptied => {}
                Did::Empty => self.tracker.truncate(TABLE, id),
                Did::Insert(new) => self.tracker.change(TABLE, id, Op::Insert, &said(b'N', new)),
                Did::Update(_, new) if keeps => self.tracker.change(TABLE, id, Op::Insert, &said(b'N', new)),
                Did::Update(old, new) => {
                    let raw = [said(b'O', old), said(b'N', new)].concat();
                    self.tracker.change(TABLE, id, Op::Update, &raw);
                }
                Did::Delete(_) if keeps => {}
                Did::Delete(old) => self.tracker.change(TABLE, id, Op::Delete, &said(b'O', old)),
            }
        }
        self.tracker.delivered(id);
        self.delivered += 1;
    }

    fn passed(&self) -> Lsn {
        passed(self.delivered, self.transactions.len())
    }

    fn seen(&self) -> Visible {
        seen(self.transactions.iter().map(|transaction| transaction.state))
    }

    fn read(&mut self, mut opened: Opened) {
        let (all, visible) = match &mut self.standby {
            Some(standby) => {
                let (before, shown) = (standby.before.take().unwrap(), standby.shown);
                let completed = &self.order[..shown];
                let xmax = completed.iter().max().map_or(0, |at| at + 1);
                let xmin = (0..xmax).find(|at| !completed.contains(at)).unwrap_or(xmax);
                let ids: Visible = format!("{}:{}:", xid(xmin), xid(xmax)).parse().unwrap();
                (self.table(self.order[..shown].iter().copied()), ids.on_standby(start_of(before)))
            }
            None => {
                let shown = self.order.iter().copied().filter(|at| self.transactions[*at].state == 3);
                (self.table(shown), self.seen())
            }
        };
        if opened.is_unseen_by(&visible) && self.left != Left::Ring {
            return self.tracker.close_whole(TABLE, opened.window, opened.told);
        }
        let (mut rows, mut left_out) = (Rows::default(), Rows::default());
        for (value, count) in &all {
            for _ in 0..*count {
                rows.push(format!("{value}\n").as_bytes(), 1).unwrap();
                if opened.told.meet(rows.iter().next_back().unwrap()) {
                    push(&mut left_out, rows.iter().next_back().unwrap());
                    rows.pop();
                }
            }
        }
        let due = if self.standby.is_some() { UNASKED } else { start_of(self.order.len()) };
        let left_out = Some(left_out).filter(|_| self.random.random());
        let piece = Piece { opened, visible, due, rows, left_out, all };
        if self.standby.is_none() {
            self.know(&piece, due);
        }
        self.piece = Some(piece);
    }

    fn know(&mut self, piece: &Piece, behind: Lsn) {
        let visible = match self.left {
            Left::Seen => "0:0:".parse().unwrap(),
            Left::Unseen => "900000:900000:".parse().unwrap(),
            _ => piece.visible.clone(),
        };
        // As if nothing lay between.
        let behind = if self.left == Left::Doubt { Lsn::ZERO } else { behind };
        self.tracker.know(TABLE, piece.opened.window, &visible, behind);
    }

    fn settle(&mut self, piece: Piece) {
        let Piece { opened: Opened { window, told, .. }, visible, rows, left_out, all, .. } = piece;
        let visible = &visible;
        let exact = self.all_is_told && self.left == Left::None;
        let read = ReadWhole {
            relation: TABLE,
            window,
            visible,
            shape: Shape::of(&schema()),
            told: &told,
            left_out: left_out.as_ref(),
            exact,
        };
        let changes = match self.tracker.settle_whole(&read) {
            Ok(changes) => changes,
            Err(flaw) => {
                assert!(matches!(flaw, Flaw::Changed | Flaw::Doubt) || self.left != Left::None, "{flaw:?}");
                return self.tracker.close_whole(TABLE, window, told);
            }
        };
        let before = self.consumer.clone();
        if self.left == Left::Subtraction {
            let now = self.table(self.order[..self.delivered].iter().copied());
            for (value, count) in now {
                *self.consumer.entry(value).or_insert(0) += count;
            }
        } else {
            self.write(changes, (&rows, left_out.as_ref()), exact);
        }
        if self.left == Left::None && !self.all_is_told {
            self.compare(&before, (all, visible));
        }
        self.tracker.end(TABLE);
        self.done = true;
    }

    fn write(&mut self, changes: Changes, (rows, left_out): (&Rows, Option<&Rows>), exact: bool) {
        // Some are in a file already, the last one never.
        let mut rest = Rows::default();
        let filed = self.random.random_range(0..=rows.len().saturating_sub(1));
        rows.iter().skip(filed).for_each(|row| push(&mut rest, row));
        if !changes.emptied {
            let in_file = rows.iter().take(filed);
            in_file.for_each(|row| count(&mut self.consumer, Did::Insert(value_of(row))));
        }
        let current = changes.apply(&rest, left_out);
        if filed > 0 {
            assert!(current.excess == 0 || !exact);
            current.gone.iter().for_each(|row| count(&mut self.consumer, Did::Delete(value_of(row))));
        } else {
            assert!(current.gone.is_empty() && current.excess == 0 || !exact, "there is no such row");
        }
        let rows = current.kept.into_iter().chain(current.added.iter().map(|row| &**row));
        rows.for_each(|row| count(&mut self.consumer, Did::Insert(value_of(row))));
    }

    /// Where only what is added is told, he has what the table has and what he had, and nothing beside it.
    fn compare(&self, before: &Counts, (mut table, visible): (Counts, &Visible)) {
        for at in 0..self.delivered {
            if !visible.sees(self.commit(at)) {
                self.events(at).into_iter().for_each(|did| count(&mut table, did));
            }
        }
        for value in 0..VALUES {
            let of = |counts: &Counts| counts.get(&value).copied().unwrap_or(0);
            let (is, had, has) = (of(&table), of(before), of(&self.consumer));
            assert!(is <= has && has <= is.max(had), "{value}: {is} in the table, {had} told, then {has}");
        }
    }

    fn snapshot(&mut self) {
        if self.since.is_none() {
            self.since = Some(self.delivered);
            return self.start();
        }
        if let Some(told) = self.told.take() {
            assert!(self.tracker.tell(TABLE, told).is_ok());
            return;
        }
        match (self.opened.take(), self.piece.take()) {
            (_, Some(mut piece)) if piece.due == UNASKED => {
                let replayed = start_of(self.standby.map_or(0, |standby| standby.position));
                piece.due = if self.left == Left::Beyond { replayed } else { beyond(replayed, false, None) };
                self.know(&piece, replayed);
                self.piece = Some(piece);
            }
            (_, Some(piece)) if self.passed() >= piece.due || self.left == Left::Wait => self.settle(piece),
            (_, Some(piece)) => self.piece = Some(piece),
            (Some(opened), None) => match &mut self.standby {
                Some(standby) if standby.before.is_none() => {
                    standby.before = Some(standby.position);
                    self.opened = Some(opened);
                }
                _ => self.read(opened),
            },
            (None, None) => self.opened = self.tracker.open_whole(TABLE).map(Result::unwrap),
        }
    }

    fn replay(&mut self) {
        let committed = self.order.len();
        let Some(standby) = &mut self.standby else { return };
        if standby.shown > standby.position {
            standby.position += 1;
        } else if standby.shown < committed {
            standby.shown += 1;
        }
    }

    /// Something that could happen now; false when nothing can any more.
    fn step(&mut self) -> bool {
        if self.random.random_range(0..3) == 0 {
            self.replay();
        }
        let deliverable = self.standby.map_or(self.order.len(), |standby| standby.position);
        let at = self.random.random_range(0..self.transactions.len());
        match self.random.random_range(0..10) {
            0..4 => self.advance(at),
            4..6 if self.delivered < deliverable => self.deliver(),
            6..9 if !self.done => self.snapshot(),
            9 if !self.done
                && self.since.is_some()
                && self.crashes < 3
                && self.random.random_range(0..4) == 0 =>
            {
                self.crashes += 1;
                if let Some(standby) = &mut self.standby {
                    standby.before = None;
                }
                self.start();
            }
            _ => {}
        }
        !(self.done
            && self.delivered == self.transactions.len()
            && self.transactions.iter().all(|transaction| transaction.state == 3))
    }

    /// One that touches what another holds has to wait for it. Rows that are alike may come side by side.
    fn advance(&mut self, at: usize) {
        let mine = touches(&self.transactions[at]);
        let blocked = self.transactions.iter().enumerate().any(|(other, transaction)| {
            let theirs = touches(transaction);
            other != at
                && matches!(transaction.state, 1 | 2)
                && (!mine.0.is_disjoint(&theirs.1) || !mine.1.is_disjoint(&theirs.0))
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
}

/// One life, its steps; or what is wrong at its end.
fn live(seed: u64, left: Left, standby: bool) -> Outcome {
    let mut world = World::new(seed, left, standby);
    let mut steps = 0;
    while world.step() {
        steps += 1;
        assert!(steps < 100_000, "seed {seed}: it does not end");
    }
    let some = |counts: &Counts| -> Counts {
        counts.iter().filter(|(_, count)| **count != 0).map(|(value, count)| (*value, *count)).collect()
    };
    let (has, is) = (some(&world.consumer), some(&world.table(world.order.iter().copied())));
    if has == is || !world.all_is_told {
        return Ok(steps);
    }
    Err(format!("seed {seed}: the consumer has {has:?}, the table {is:?}"))
}

#[test]
fn the_consumer_has_as_many_rows_of_each_kind() {
    campaign::run(10_000, STEPS, |seed| {
        let both = || Ok(live(seed, Left::None, false)? + live(seed, Left::None, true)?);
        guard(seed, both, String::new)?
    });
}

#[test]
fn no_rule_of_such_a_table_can_be_left_out() {
    for (left, standby) in [
        (Left::Ring, false),
        (Left::RingRestart, false),
        (Left::Wait, false),
        (Left::Unseen, false),
        (Left::Seen, false),
        (Left::Removed, false),
        (Left::Emptied, false),
        (Left::Doubt, true),
        (Left::Beyond, true),
        (Left::Subtraction, false),
        (Left::Journal, false),
        (Left::Seam, false),
    ] {
        assert!((0..60_000).any(|seed| live(seed, left, standby).is_err()), "{left:?} changes nothing");
    }
}

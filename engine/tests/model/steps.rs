//! What can happen to an open journal.

use std::pin::Pin;
use std::task::Poll;

use rowcast_engine::event::Op;
use rowcast_engine::journal::{Compression, Read, State};
use rowcast_engine::record::Builder;
use rowcast_engine::{Lsn, Result};

use super::expect::{Expected, Unit, digest};
use super::world::{OpenSpill, World, read_to_head};
use crate::disk::{ANY, CHANGING, COMPRESSOR, CREATE, Fault, Ill, OTHERS, RENAME, SYNC, SYNC_DIR, WRITE};

pub(super) type Reply = Pin<Box<dyn Future<Output = Result<u64>>>>;

impl World {
    /// One step; false when this life is over.
    pub(super) fn step(&mut self) -> bool {
        self.failed_before = self.disk.failed();
        match self.random.below(32) {
            0..=15 => self.group(),
            16 | 17 => self.spill_on(),
            18 => self.let_tick(),
            19 => self.move_hold(),
            20 => self.reconnect(),
            21..=25 => self.read_somewhere(),
            26 if self.random.chance(60) => self.seek_position(),
            26 => self.seek(),
            27 => self.transactions(),
            28 => self.fault(),
            29 if self.random.chance(60) => self.stay_full(),
            30 if self.random.chance(128) => return self.end(),
            31 if self.random.chance(160) => return self.another_history(),
            _ => self.group(),
        }
        self.goes_on()
    }

    /// Whether the life does; it is over when the disk or the journal is.
    pub(super) fn goes_on(&mut self) -> bool {
        let over = self.disk.is_dead() || self.has_failed();
        if over {
            self.crash();
        }
        !over
    }

    pub(super) fn has_failed(&mut self) -> bool {
        self.life.as_ref().is_some_and(|life| matches!(*life.journal.state().borrow(), State::Failed(_)))
    }

    /// Several things handed over at once: the writer waits until all are there.
    fn group(&mut self) {
        let count = if self.random.chance(128) { 1 } else { 2 + self.random.below(4) };
        self.note(format!("group of {count}"));
        let mut replies: Vec<(Reply, usize)> = Vec::new();
        let (mut ingests, mut adopted) = (0, false);
        self.disk.hold(count > 1);
        for _ in 0..count {
            let group = self.past.units.len();
            match self.random.below(16) {
                0 | 1 => replies.extend(self.publish()),
                2 => replies.extend(self.gap()),
                3 if self.advance(ingests) => ingests += 1,
                4..=6 if self.adopt(ingests) => (ingests, adopted) = (ingests + 1, true),
                _ => {
                    self.append(ingests);
                    ingests += 1;
                }
            }
            self.past.units[group..].iter_mut().for_each(|unit| unit.group = group);
        }
        // A position alone is seen only by what comes after it.
        if !self.life().setup.always && self.past.units.last().is_some_and(|unit| unit.events.is_empty()) {
            self.append(ingests);
        }
        self.disk.hold(false);
        let away = self.hear(replies);
        self.settle();
        if adopted || away {
            // The writer goes on for a while after showing it, or saying so: it starts a segment.
            self.nudge();
        }
    }

    /// What becomes of those who wait for an answer. Whether one of them was turned away.
    pub(super) fn hear(&mut self, replies: Vec<(Reply, usize)>) -> bool {
        let mut away = false;
        for (reply, at) in replies {
            let answer = self.wait(reply);
            if self.turned_away(&answer, at) {
                away = true;
            } else if let Some(id) = self.accept(answer) {
                self.past.sure = self.past.sure.max(at + 1);
                self.past.units[at].promised = id;
            }
        }
        away
    }

    /// Capture waits until all is durable, and here time does not pass: somebody asks for it.
    fn reconnect(&mut self) {
        self.note("reconnect");
        self.nudge();
        self.identify();
    }

    /// A custom event, durable when this returns; the writer waits for the next command then.
    pub(super) fn nudge(&mut self) {
        let published = self.publish().map(|(reply, at)| (self.wait(reply), at));
        let taken = published.filter(|(answer, at)| !self.turned_away(answer, *at));
        // On a full disk nobody is heard but who may wait.
        let taken = taken.or_else(|| self.gap().map(|(reply, at)| (self.wait(reply), at)));
        if let Some((answer, at)) = taken
            && self.accept(answer).is_some()
        {
            self.past.sure = self.past.sure.max(at + 1);
        }
        self.settle();
    }

    /// Whether the one who published was told that nothing is stored, for want of room: then nothing may be.
    fn turned_away(&mut self, answer: &Result<u64>, at: usize) -> bool {
        let away = answer.as_ref().is_err_and(|error| error.to_string().contains("takes no events now"))
            && !self.has_failed();
        if away {
            self.note("  turned away");
            self.past.units[at].events.clear();
        }
        away
    }

    fn room(&mut self, ingest: usize) -> Option<rowcast_engine::ingest::Room> {
        let ingest = self.life().ingests[ingest % 4].clone();
        let room = self.wait(ingest.room());
        self.accept(room)
    }

    fn append(&mut self, ingest: usize) {
        let mut builder = Builder::new();
        let mut units = Vec::new();
        let large = self.random.chance(2);
        for _ in 0..1 + self.random.below(3) {
            let rows = if self.random.chance(30) { self.random.below(40) } else { 1 + self.random.below(4) };
            // One without events leaves its position, whatever comes next.
            let rows = if self.random.chance(24) { 0 } else { rows.max(1) };
            units.push(self.transaction(&mut builder, if large { rows.min(3) } else { rows }, large));
            if self.random.chance(if large { 128 } else { 40 }) {
                units.extend(self.chunk(&mut builder, large));
            }
            if self.random.chance(20) {
                // Aborted: nothing of it may be seen.
                let mut unit = self.begin(&mut builder);
                self.change(&mut builder, &mut unit, 10);
                builder.abort();
            }
        }
        // A position alone is seen only by what comes after it.
        if !self.life().setup.always && units.last().is_some_and(|unit| unit.events.is_empty()) {
            units.push(self.transaction(&mut builder, 1, false));
        }
        self.note(format!("  append {} transactions, large: {large}, to {}", units.len(), self.lsn));
        if large && self.disk.is_well() && self.random.chance(128) {
            // Between two writes, or in the midst of one that has several parts of a transaction.
            let (after, ill) =
                (self.random.below(3) as u32, self.random.one_of(&[Ill::Broken, Ill::Power, Ill::Kill]));
            self.disk.plan(Some(Fault { calls: WRITE | OTHERS, after, ill, times: 1, waits: 0 }));
        }
        let Some(room) = self.room(ingest) else { return };
        let lsn = Lsn(self.lsn);
        room.append(&self.life().journal.clone(), builder.take(), lsn);
        self.past.units.extend(units);
    }

    fn advance(&mut self, ingest: usize) -> bool {
        let Some(room) = self.room(ingest) else { return false };
        self.lsn += 1 + self.random.below(50);
        self.note(format!("  advance to {}", self.lsn));
        room.advance(&self.life().journal.clone(), Lsn(self.lsn)).unwrap();
        self.past.units.push(Unit { end: self.lsn, ..Unit::default() });
        true
    }

    pub(super) fn local(&mut self, op: Op, channel: &str, texts: &[String], at: i64) -> usize {
        let event = |(seq, text): (usize, &String)| Expected {
            seq: seq as u32,
            last: seq + 1 == texts.len(),
            end: 0,
            xid: 0,
            at,
            op: op as u8,
            channel: digest(channel.as_bytes()),
            content: digest(text.as_bytes()),
            snapshot: None,
            addressed: false,
        };
        let events = texts.iter().enumerate().map(event).collect();
        self.past.units.push(Unit { events, ..Unit::default() });
        self.past.units.len() - 1
    }

    /// Sends until the journal's queue has it; the reply is waited for later.
    pub(super) fn send(mut reply: Reply) -> Reply {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match reply.as_mut().poll(&mut context) {
            Poll::Pending => reply,
            Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
        }
    }

    pub(super) fn publish(&mut self) -> Option<(Reply, usize)> {
        if *self.life().journal.state().borrow() != State::Open {
            return None;
        }
        self.tag += 1;
        let texts: Vec<_> = (0..=self.random.below(3)).map(|at| format!("\"p{}-{at}\"", self.tag)).collect();
        let at = 1_700_000_000_000_000 + self.tag as i64 * 100;
        let (journal, sent) = (self.life().journal.clone(), texts.clone());
        let reply = Self::send(Box::pin(async move {
            let events: Vec<_> = sent.iter().map(|text| ("custom.two", text.as_bytes())).collect();
            journal.publish(&events, at).await
        }));
        self.note(format!("  publish {}", texts.len()));
        let unit = self.local(Op::Message, "custom.two", &texts, at);
        Some((reply, unit))
    }

    fn gap(&mut self) -> Option<(Reply, usize)> {
        self.tag += 1;
        let at = 1_700_000_000_000_000 + self.tag as i64 * 100;
        let text = format!("gap {}", self.tag);
        let (journal, detail) = (self.life().journal.clone(), text.clone());
        let reply =
            Self::send(Box::pin(async move { journal.record_gap("", "source_lost", &detail, at).await }));
        self.note("  gap");
        let unit = self.local(Op::Gap, "", &[text], at);
        Some((reply, unit))
    }

    /// Goes on with the spilled transactions: a new one, more of one, or one that is given up.
    fn spill_on(&mut self) {
        if self.life().spills.len() < 3 && self.random.chance(150) {
            let spill = self.life().journal.spill();
            let Some(spill) = self.accept(spill) else { return };
            let mut builder = Builder::new();
            let unit = self.begin(&mut builder);
            self.note(format!("spill {}", self.tag));
            self.life().spills.push(OpenSpill { spill, builder, unit });
        }
        if self.life().spills.is_empty() {
            return;
        }
        let open = self.life().spills.len();
        let at = self.random.index(open);
        let mut open = self.life().spills.swap_remove(at);
        if self.random.chance(30) {
            self.note("spill given up");
            return;
        }
        let (rows, bytes) =
            if self.random.chance(16) { (3, 500_000) } else { (1 + self.random.below(5), 200) };
        for _ in 0..rows {
            self.change(&mut open.builder, &mut open.unit, bytes);
        }
        self.note(format!("spill has {rows} more rows"));
        let written = open.spill.write(open.builder.take_open_parts());
        if self.accept(written).is_some() {
            self.life().spills.push(open);
        }
    }

    /// The commit of a spilled transaction.
    fn adopt(&mut self, ingest: usize) -> bool {
        let Some(mut open) = self.life().spills.pop() else { return false };
        if open.unit.events.len() < 2 {
            return false;
        }
        let committed = open.unit.events[0].at;
        let end = self.commit(&mut open.unit);
        self.note(format!("  adopt {} events at {end}", open.unit.events.len()));
        // The writer may be held, this thread is not.
        let written = open.spill.write(open.builder.take_tail(end));
        if self.accept(written).is_none() {
            return false;
        }
        let Some(room) = self.room(ingest) else { return false };
        room.adopt(&self.life().journal.clone(), open.spill, end, committed);
        self.past.units.push(open.unit);
        true
    }

    fn let_tick(&mut self) {
        let short = self.random.chance(40);
        self.note(format!("tick, short of room: {short}"));
        if short {
            self.disk.run_short();
        }
        self.tick();
        self.append(0);
        self.settle();
        self.look_at_confirmable();
    }

    fn move_hold(&mut self) {
        let read = self.past.highest.saturating_sub(self.random.below(100));
        let life = self.life();
        if life.setup.hold.is_some_and(|hold| hold < read) {
            life.journal.hold_above("sink", read);
            life.setup.hold = Some(read);
            self.note(format!("sink has {read}"));
        }
    }

    /// A number to start from: of any event ever seen, or one beside it.
    fn somewhere(&mut self) -> u64 {
        let seen = self.past.shown.0;
        let unit = if seen == 0 { None } else { self.past.units.get(self.random.index(seen)) };
        let first = unit.map_or(0, |unit| unit.first);
        (first + self.random.below(4)).saturating_sub(1)
    }

    fn read_somewhere(&mut self) {
        let after = self.somewhere();
        let little = self.random.chance(128);
        self.note(format!("read after {after}, little: {little}"));
        let count = 1 + self.random.index(60);
        let expected = self.past.after(after, count);
        let journal = self.life().journal.clone();
        let read = if little { journal.read_little(after) } else { journal.read(after) };
        let Some(read) = self.accept(read) else { return };
        match read {
            Read::AtHead => assert_eq!(expected, [], "read after {after} says that nothing is there"),
            Read::Gone(gone) => {
                assert!(gone.from == after + 1 && gone.to < journal.oldest(), "{gone:?}");
                // All that is missing, and nothing that is held: what is next is the first one held.
                let next = self.past.after_ever(gone.to, 1);
                assert_eq!(next.first(), expected.first(), "{gone:?}");
                assert!(after < self.past.oldest, "{gone:?}, but {} is held", self.past.oldest);
            }
            Read::Batches(batches) => {
                // What is gone from the disk may still be in memory.
                let expected = self.past.after_ever(after, count);
                let mut found = Vec::new();
                let mut at = after;
                for batch in batches {
                    found.extend(super::expect::seen_in(&batch, at));
                    at = batch.last();
                }
                let same = found.len().min(expected.len());
                assert_eq!(found[..same], expected[..same], "read after {after}");
                assert!(same > 0, "read after {after}");
            }
        }
    }

    fn seek(&mut self) {
        let journal = self.life().journal.clone();
        let held: Vec<_> =
            self.past.held().flat_map(|u| (0..u.events.len() as u64).map(|at| u.first + at)).collect();
        let count = self.random.index(held.len() + 3);
        self.note(format!("seek the last {count}"));
        let above = held.iter().filter(|id| **id > journal.seek_last(count as u64)).count();
        assert_eq!(above, count.min(held.len()), "the last {count}");
        assert!(held.first().is_none_or(|first| journal.seek_earliest() + 1 == *first));
        let units: Vec<_> = self.past.held().cloned().collect();
        if units.is_empty() {
            return;
        }
        let time = units[self.random.index(units.len())].events[0].at;
        self.note(format!("seek time {time}"));
        let found = journal.seek_time(time);
        let Some(found) = self.accept(found) else { return };
        let first = units.iter().find(|unit| unit.events[0].at >= time).expect("there is one");
        assert!(found < first.first, "time {time} is at {}, found {found}", first.first);
        if self.past.oldest == self.past.first_ever() {
            let start =
                self.past.units[first.group..].iter().find(|unit| unit.first > 0).map_or(0, |u| u.first);
            assert!(found + 1 >= start, "time {time} is at {start}, found {found}");
        }
    }

    /// Something that is going to happen to the disk.
    fn fault(&mut self) {
        let ill = self.random.one_of(&[Ill::Broken, Ill::Full, Ill::Full, Ill::Power, Ill::Power, Ill::Kill]);
        let compresses = self.life().setup.compression == Compression::Zstd && self.random.chance(128);
        let calls = match ill {
            Ill::Full => CREATE | WRITE | RENAME,
            _ if compresses => self.random.one_of(&[ANY, SYNC, SYNC_DIR, WRITE, CREATE, RENAME]),
            _ => self.random.one_of(&[CHANGING, SYNC, SYNC_DIR, WRITE, CREATE, RENAME]),
        };
        let calls = calls | if compresses { COMPRESSOR } else { OTHERS };
        let times = if ill == Ill::Full { u32::MAX } else { self.random.one_of(&[1, 2, u32::MAX]) };
        let fault = Fault {
            calls,
            after: self.random.below(40) as u32,
            ill,
            times,
            waits: 1 + self.random.below(3) as u32,
        };
        self.note(format!("planned: {fault:?}"));
        self.disk.plan(Some(fault));
    }

    /// The disk is full until somebody makes room, or until the journal is closed.
    fn stay_full(&mut self) {
        self.note("full");
        let calls = CREATE | WRITE | OTHERS;
        let full = Fault { calls, after: 0, ill: Ill::Full, times: u32::MAX, waits: u32::MAX };
        self.disk.plan(Some(full));
        // What was written ahead is room for some.
        let told = loop {
            self.append(0);
            match self.shown_or_not() {
                State::Open => self.settle(),
                told => break told,
            }
        };
        assert!(matches!(told, State::Full(_)), "{told:?}");
        // Retention makes room meanwhile, where it may.
        if !self.past.retention {
            self.read_somewhere();
        }
        let journal = self.life().journal.clone();
        let refused = self.wait(journal.publish(&[("custom.two", b"1")], 1)).unwrap_err();
        assert!(refused.to_string().contains("takes no events now"), "{refused}");
        if self.random.chance(60) {
            self.note("closed while full");
            self.wait(journal.close());
            return;
        }
        self.disk.plan(None);
        self.settle();
        assert_eq!(*journal.state().borrow(), State::Open, "there is room again");
    }

    /// How the journal is once what was handed over is durable, or cannot be.
    fn shown_or_not(&mut self) -> State {
        let end = Lsn(self.lsn);
        let (mut durable, mut state) = (self.life().journal.durable(), self.life().journal.state());
        self.wait(async {
            tokio::select! {
                biased;
                _ = state.wait_for(|state| *state != State::Open) => {}
                _ = durable.wait_for(|lsn| *lsn >= end) => {}
            }
        });
        state.borrow().clone()
    }

    /// The end of a life: closed, killed, or the power cut.
    pub(super) fn end(&mut self) -> bool {
        self.disk.plan(None);
        if self.random.chance(100) {
            self.note("closed");
            let journal = self.life().journal.clone();
            self.wait(journal.close());
            self.past.confirm(journal.position());
            self.past.sure = self.past.units.len();
            let read = read_to_head(&journal, self.past.oldest.saturating_sub(1));
            assert_eq!(read, self.past.after(0, usize::MAX), "a closed journal can be read");
            if self.random.chance(128) {
                self.disk = self.disk.after_power_cut(&mut self.random);
            }
            // One that had failed a moment before keeps its lock as long as somebody reads from it.
            drop(journal);
            self.let_go();
            return false;
        }
        self.crash();
        false
    }

    pub(super) fn crash(&mut self) {
        // What had been confirmed to the source by then.
        let journal = self.life().journal.clone();
        self.past.confirm(journal.position());
        drop(journal);
        let dead = self.disk.is_dead();
        let old = self.disk.clone();
        if dead {
            self.note("dead");
            self.disk = old.after_death(&mut self.random);
        } else if self.random.chance(160) {
            self.note("power cut");
            self.disk = old.after_power_cut(&mut self.random);
        } else {
            self.note("killed");
            self.disk = old.after_kill();
        }
        self.let_go();
    }
}

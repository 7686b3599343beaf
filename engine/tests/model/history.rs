//! Where the source is another one than it was: a history ends, and another one begins behind a gap, wherever its
//! positions lie. Numbers go on; of positions only those of one history can be compared.
//!
//! Each history of the model has a slot of its own birth, which tells whose a position is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::{State, StreamPosition};
use tokio::runtime::Builder as Tokio;

use super::expect::{Past, Unit};
use super::steps::Reply;
use super::world::World;
use crate::disk::{CHANGING, CREATE, Fault, Ill, OTHERS, RENAME, SYNC, SYNC_DIR, WRITE};

type Note = Option<(&'static str, String)>;

/// Whose stream it is before any history has ended.
pub(super) fn first_stream(stored: StreamPosition) -> StreamPosition {
    StreamPosition { system: 7, slot: "rowcast".into(), ..stored }
}

pub(super) fn as_notes(note: &Note) -> Vec<(&str, &[u8])> {
    note.iter().map(|(name, json)| (*name, json.as_bytes())).collect()
}

impl Past {
    /// The unit with which the history begins that goes on at `at`.
    pub(super) fn begun(&self, at: usize) -> usize {
        self.units[..at].iter().rposition(|unit| unit.begins.is_some()).unwrap_or(0)
    }

    /// The position of the stream after the units before `at`.
    pub(super) fn reached(&self, at: usize) -> u64 {
        self.units[self.begun(at)..at].iter().map(|unit| unit.end).max().unwrap_or(0)
    }

    /// The units of the history that this position is of.
    pub(super) fn history_of(&self, stored: &StreamPosition) -> Range<usize> {
        let begins = |at: &usize| self.units[*at].begins.is_some();
        let born =
            |unit: &Unit| unit.begins.as_ref().is_some_and(|begins| begins.slot_birth == stored.slot_birth);
        let found = self.units.iter().position(born);
        // The first one has no beginning, and is empty where the very first thing was to begin another.
        assert!(found.is_some() || stored.slot_birth == Lsn::ZERO, "a position of no history: {stored:?}");
        let behind = found.map_or(0, |at| at + 1);
        found.unwrap_or(0)..(behind..self.units.len()).find(begins).unwrap_or(self.units.len())
    }

    /// Everything up to this position has been confirmed, and all of the histories before its own.
    pub(super) fn confirm(&mut self, stored: StreamPosition) {
        let (history, lsn) = (self.history_of(&stored), stored.lsn.0);
        let mut before = self.stored.lsn.0;
        if stored.slot_birth != self.stored.slot_birth {
            let known = self.history_of(&self.stored);
            assert!(history.start >= known.end, "{:?} was confirmed, and now {stored:?}", self.stored);
            self.sure = self.sure.max(history.start + 1);
            before = self.units[history.start].end;
        }
        assert!(self.sure <= history.end, "a later history was promised, and yet: {stored:?}");
        assert!(lsn >= before, "the position goes back from {before} to {lsn}");
        self.stored = stored;
        let of_it = |sure: usize| &self.units[sure..history.end];
        while let Some(at) = of_it(self.sure).iter().position(|u| u.end > before && u.end <= lsn) {
            self.sure += at + 1;
        }
    }

    /// What is stored of the stream is of the history that the units before `at` end with, all of it.
    pub(super) fn agree_on_identity(&self, at: usize, stored: &StreamPosition) {
        let begun = self.units[..at].iter().rev().find_map(|unit| unit.begins.clone());
        if begun.is_none() && self.stored.slot.is_empty() && stored.slot.is_empty() {
            return;
        }
        let whose = |position: &StreamPosition| (position.system, position.slot.clone(), position.slot_birth);
        let begun = begun.unwrap_or_else(|| first_stream(StreamPosition::default()));
        assert_eq!(whose(stored), whose(&begun), "whose stream it is");
        let goes_on = stored.slot_birth == self.stored.slot_birth;
        let timeline = if goes_on { self.stored.timeline } else { begun.timeline };
        assert!(stored.timeline >= timeline, "timeline {timeline} was stored: {stored:?}");
    }

    /// What has been noted so far, and not taken back.
    pub(super) fn notes(&self) -> BTreeMap<String, Arc<[u8]>> {
        let mut notes = BTreeMap::new();
        for (name, json) in self.units.iter().filter_map(|unit| unit.note.clone()) {
            notes.insert(name.to_owned(), json.into_bytes().into());
        }
        notes.retain(|_, json: &mut Arc<[u8]>| !json.is_empty());
        notes
    }

    /// The transactions above `lsn` that the newest history has, or shares with those before it.
    fn shared_above(&self, lsn: u64) -> Vec<&Unit> {
        let (mut found, mut until) = (Vec::new(), u64::MAX);
        for unit in self.units[..self.shown.0].iter().rev() {
            if unit.is_transaction() && unit.end > lsn && unit.end <= until {
                found.push(unit);
            }
            until = unit.begins.as_ref().map_or(until, |begins| until.min(begins.lsn.0));
        }
        found.reverse();
        found
    }

    fn holds(&self, unit: &Unit) -> bool {
        !unit.skipped && unit.first >= self.oldest
    }

    /// Those that are held of the transactions above a position: where they end, whose they are, and when.
    fn transactions_above(&self, lsn: u64) -> Vec<(u64, u32, i64)> {
        let held = self.shared_above(lsn).into_iter().filter(|unit| self.holds(unit));
        held.map(|unit| (unit.end, unit.events[0].xid, unit.events[0].at)).collect()
    }
}

impl World {
    /// A history ends in the midst of what others do. False when the life is over.
    pub(super) fn another_history(&mut self) -> bool {
        let fault = self.random.chance(96).then(|| self.fault_in_it());
        let begun = self.begin_history(fault) && !self.disk.is_dead() && !self.has_failed();
        match self.random.below(4) {
            _ if !begun => {}
            0 => return self.end(),
            1 => {}
            _ => self.identify(),
        }
        self.goes_on()
    }

    fn fault_in_it(&mut self) -> Fault {
        let ill = self.random.one_of(&[Ill::Broken, Ill::Full, Ill::Power, Ill::Power, Ill::Kill]);
        let calls = match ill {
            Ill::Full => CREATE | WRITE | RENAME,
            _ => self.random.one_of(&[CHANGING, CHANGING, CHANGING, SYNC, SYNC_DIR, RENAME]),
        };
        let times = if ill == Ill::Full { u32::MAX } else { 1 };
        let few = if calls == CHANGING { 16 } else { 3 };
        let (after, waits) = (self.random.below(few) as u32, 1 + self.random.below(3) as u32);
        Fault { calls: calls | OTHERS, after, ill, times, waits }
    }

    /// As capture does when it goes on behind a gap. What it had not written whole is let go before, or a moment later.
    /// False when the disk has made nothing of it.
    pub(super) fn begin_history(&mut self, fault: Option<Fault>) -> bool {
        let ingest = self.life().ingests[0].clone();
        let settled = self.wait(ingest.settled());
        if self.accept(settled).is_none() {
            return false;
        }
        if self.random.chance(128) {
            self.life().spills.clear();
        }
        if fault.is_some() && self.disk.is_well() {
            self.disk.plan(fault);
        }
        let position = self.another_stream();
        self.note(format!("history at {} of {}, {fault:?}", position.lsn.0, position.slot_birth.0));
        // Others publish beside it.
        self.disk.hold(true);
        let mut replies: Vec<_> = (0..self.random.below(3)).filter_map(|_| self.publish()).collect();
        let (reply, begun) = self.hand_over(ingest, position.clone());
        replies.push((reply, begun));
        replies.extend((0..self.random.below(3)).filter_map(|_| self.publish()));
        self.disk.hold(false);
        let away = self.hear(replies);
        self.settle();
        let gap = self.past.units[begun].promised;
        if gap > 0 {
            self.has_begun(gap, &position);
        }
        if away {
            self.nudge();
        }
        self.life().spills.clear();
        gap > 0
    }

    fn hand_over(&mut self, ingest: Ingest, position: StreamPosition) -> (Reply, usize) {
        self.tag += 1;
        let note = self.some_note();
        let (detail, at) = (format!("gap {}", self.tag), 1_700_000_000_000_000 + self.tag as i64 * 100);
        let (sent, notes, text) = (position.clone(), note.clone(), detail.clone());
        let reply = Self::send(Box::pin(async move {
            ingest.begin_history(sent, ("source_lost", &text), at, &as_notes(&notes)).await
        }));
        let begun = self.local(Op::Gap, "", &[detail], at);
        let unit = &mut self.past.units[begun];
        (unit.end, unit.begins, unit.note) = (position.lsn.0, Some(position), note);
        (reply, begun)
    }

    fn has_begun(&mut self, gap: u64, position: &StreamPosition) {
        self.lsn = position.lsn.0;
        let ingest = self.life().ingests[0].clone();
        let journal = ingest.journal();
        assert_eq!((&journal.position(), *journal.durable().borrow()), (position, position.lsn));
        assert_eq!((journal.last_tx_end(), journal.seek_history()), (Lsn::ZERO, gap));
        assert_eq!(journal.notes(), self.past.notes());
        let settled = self.wait(async {
            tokio::select! {
                biased;
                _ = ingest.settled() => true,
                () = std::future::ready(()) => false,
            }
        });
        assert!(settled, "a position of the history before is waited for");
    }

    /// Below, at or above where the stream stands, or where a transaction ends that both histories have.
    fn another_stream(&mut self) -> StreamPosition {
        let lsn = match self.random.below(4) {
            0 => 1 + self.random.below(self.lsn),
            1 => self.lsn + self.random.below(500),
            _ => self.some_position().max(1),
        };
        self.tag += 1;
        StreamPosition {
            lsn: Lsn(lsn),
            system: 7 + self.random.below(3),
            timeline: self.random.below(4) as u32,
            slot: self.random.one_of(&["rowcast", "another"]).into(),
            slot_birth: Lsn(self.tag),
            ..self.life().journal.position()
        }
    }

    pub(super) fn some_note(&mut self) -> Note {
        let json = if self.random.chance(60) { String::new() } else { self.tag.to_string() };
        let name = self.random.one_of(&["wanted", "published"]);
        self.random.chance(128).then_some((name, json))
    }

    /// Where the history begins that was found, and what is noted.
    pub(super) fn agree_on_history(&self) {
        let journal = &self.life.as_ref().expect("the journal is open").journal;
        let begun = self.past.held().rev().find(|unit| unit.begins.is_some());
        assert_eq!(journal.seek_history(), begun.map_or(0, |unit| unit.first));
        assert_eq!(journal.notes(), self.past.notes());
    }

    /// Where the stream has been, in this history or one before, or near it.
    fn some_position(&mut self) -> u64 {
        let units = self.past.units.len();
        let end = if units == 0 { self.lsn } else { self.past.units[self.random.index(units)].end };
        match self.random.below(4) {
            0 => self.random.below(self.lsn + 10),
            1 => self.lsn.saturating_sub(self.random.below(500)),
            2 => end,
            _ => (end + self.random.below(20)).saturating_sub(10),
        }
    }

    pub(super) fn transactions(&mut self) {
        let journal = self.life().journal.clone();
        let lsn = self.some_position();
        self.note(format!("transactions above {lsn}"));
        let gone = self.past.shared_above(lsn).into_iter().filter(|unit| !self.past.holds(unit)).count();
        assert!(gone == 0 || !journal.holds_all_above(Lsn(lsn)), "{gone} above {lsn} are gone");
        let found = journal.transactions_above(Lsn(lsn), 1000);
        let Some(found) = self.accept(found) else { return };
        let found: Vec<_> = found.iter().map(|tx| (tx.end_lsn.0, tx.xid, tx.committed)).collect();
        // The writer may be at it: retention takes the oldest before, meanwhile, or behind.
        let most = self.past.transactions_above(lsn);
        self.look_at_oldest();
        let least = self.past.transactions_above(lsn);
        assert!(most.len() < 1000 && most.ends_with(&found), "above {lsn}: {found:?}, of {most:?}");
        assert!(found.ends_with(&least), "transactions above {lsn}: {found:?}, at least {least:?}");
    }

    /// A position is looked for in the newest history alone.
    pub(super) fn seek_position(&mut self) {
        let journal = self.life().journal.clone();
        let lsn = self.some_position();
        self.note(format!("seek position {lsn}"));
        let found = journal.seek_lsn(Lsn(lsn));
        let Some(found) = self.accept(found) else { return };
        let newest = self.past.begun(self.past.shown.0);
        let next = self.past.held_from(newest).find(|unit| unit.is_transaction() && unit.end > lsn);
        assert!(next.is_none_or(|unit| found < unit.first), "position {lsn}: found {found}, {next:?}");
        let oldest = self.past.held_from(newest).next();
        assert!(oldest.is_none_or(|unit| unit.first <= found + 1), "position {lsn}: found {found}");
    }

    /// What the source may forget once the sink has it, too: what that has of an earlier history says nothing of this one.
    pub(super) fn look_at_confirmable(&mut self) {
        let life = self.life();
        let (journal, hold) = (life.journal.clone(), life.setup.hold);
        let (Some(hold), State::Open) = (hold, journal.state().borrow().clone()) else { return };
        let ingest = life.ingests[0].clone().required(vec!["sink".to_owned()]);
        // Its own, so that nobody watches any more, and has the journal, when this is over.
        let watching = Tokio::new_current_thread().build().unwrap();
        let told = watching.block_on(async {
            let told = ingest.confirmable(Lsn::ZERO);
            tokio::task::yield_now().await;
            told.borrow().0
        });
        let stored = journal.position().lsn.0;
        assert!(told <= stored && (hold < journal.newest() || told == stored), "{told} of {stored}");
        let begun = self.past.begun(self.past.shown.0);
        let lacks = |(at, unit): (usize, &Unit)| {
            let counts = at < begun || (unit.is_transaction() && unit.end <= told);
            counts && !unit.events.is_empty() && !unit.skipped && unit.last() > hold
        };
        let lacking =
            self.past.units[..self.past.shown.0].iter().enumerate().filter(|unit| lacks(*unit)).count();
        assert!(told == 0 || lacking == 0, "the sink has {hold}, {told} is told, {lacking} are missing");
    }
}

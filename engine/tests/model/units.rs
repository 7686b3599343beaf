//! Transactions and chunks: what is handed over, and what is expected of it.

use rowcast_engine::Lsn;
use rowcast_engine::event::{Marks, Op, Snapshot};
use rowcast_engine::journal::StreamPosition;
use rowcast_engine::record::{Builder, TxStart};

use super::expect::{Expected, Unit, digest};
use super::world::World;
use crate::support::insert;

impl World {
    /// One transaction, whole.
    pub(super) fn transaction(&mut self, builder: &mut Builder, rows: u64, large: bool) -> Unit {
        let mut unit = self.begin(builder);
        for _ in 0..rows {
            let bytes = if large { 500_000 } else { self.random.one_of(&[3, 30, 300, 1500]) };
            self.change(builder, &mut unit, bytes);
        }
        let end = self.commit(&mut unit);
        builder.commit(end);
        unit
    }

    /// Begins a transaction; its end is known when it commits.
    pub(super) fn begin(&mut self, builder: &mut Builder) -> Unit {
        self.tag += 1;
        // One commit in ten is earlier than the one before.
        let back = if self.random.chance(26) { 5000 } else { 0 };
        let at = 1_700_000_000_000_000 + self.tag as i64 * 100 - back;
        builder.begin(TxStart {
            xid: self.tag as u32,
            final_lsn: Lsn(self.lsn),
            previous_end_lsn: Lsn::ZERO,
            committed: at,
            origin: self.random.one_of(&["", "elsewhere"]),
        });
        let event = Expected {
            seq: 0,
            last: false,
            end: 0,
            xid: self.tag as u32,
            at,
            op: 0,
            channel: 0,
            content: 0,
            snapshot: None,
            addressed: false,
        };
        Unit { events: vec![event], ..Unit::default() }
    }

    /// Adds a change to the transaction of `unit`, whose first entry is what all its events have in common.
    pub(super) fn change(&mut self, builder: &mut Builder, unit: &mut Unit, bytes: usize) {
        let common = unit.events[0];
        let seq = unit.events.len() as u32 - 1;
        let text = format!("{}-{seq}-{}", self.tag, "x".repeat(bytes));
        let content = digest(text.as_bytes());
        let (op, channel, content) = match self.random.below(12) {
            0 => {
                builder.message("custom.one", Lsn(self.lsn), format!("\"{text}\"").as_bytes());
                (Op::Message, digest(b"custom.one"), digest(format!("\"{text}\"").as_bytes()))
            }
            1 => {
                let table = self.table();
                builder.truncate(table.id, Lsn(self.lsn), true, false);
                (Op::Truncate, digest(table.channel.as_bytes()), table.columns.len() as u32)
            }
            row => {
                let table = self.table();
                let op = [Op::Insert, Op::Insert, Op::Insert, Op::Read][row as usize % 4];
                builder.change(table.id, op, Lsn(self.lsn), &insert(u64::from(seq), &text));
                (op, digest(table.channel.as_bytes()), content)
            }
        };
        unit.events.push(Expected { seq, op: op as u8, channel, content, ..common });
    }

    /// Rows that a snapshot read, and now and then how far the stream has come, beside them.
    pub(super) fn chunk(&mut self, builder: &mut Builder, large: bool) -> Vec<Unit> {
        self.tag += 1;
        let (at, xid) = (1_700_000_000_000_000 + self.tag as i64 * 100, self.tag as u32);
        // Where the stream has been, or has yet to come to: it is nothing to the stream.
        let lsn = Lsn(self.lsn / 2 + self.random.below(self.lsn));
        let sinks = if self.random.chance(30) { vec!["b".to_owned()] } else { Vec::new() };
        let addressed = !sinks.is_empty();
        builder.begin_snapshot_for(&sinks, at, lsn, xid);
        let mut events = Vec::new();
        let rows = if large { 4 } else { 1 + self.random.below(5) as u32 };
        for seq in 0..rows {
            let table = self.table();
            let text = format!("{}-{seq}-{}", self.tag, "x".repeat(if large { 400_000 } else { 20 }));
            let marks =
                self.random.one_of(&[Marks::NONE, Marks::FIRST | Marks::FIRST_IN_TABLE, Marks::AD_HOC]);
            builder.read(table.id, lsn, marks, &insert(u64::from(seq), &text)[1..]);
            let (op, channel) = (Op::Read as u8, digest(table.channel.as_bytes()));
            let (content, snapshot) = (digest(text.as_bytes()), Some(Snapshot { marks, xid }));
            let last = seq + 1 == rows;
            events.push(Expected {
                seq,
                last,
                end: 0,
                xid: 0,
                at,
                op,
                channel,
                content,
                snapshot,
                addressed,
            });
        }
        builder.commit(lsn);
        let mut units = vec![Unit { events, ..Unit::default() }];
        if self.random.chance(80) {
            self.lsn += 1 + self.random.below(50);
            let position = StreamPosition { lsn: Lsn(self.lsn), ..self.life().journal.position() };
            builder.position(position.lsn, &serde_json::to_vec(&position).unwrap());
            units.push(Unit { end: self.lsn, ..Unit::default() });
        }
        units
    }

    /// Ends the list of a transaction's events.
    pub(super) fn commit(&mut self, unit: &mut Unit) -> Lsn {
        self.lsn += 10 + self.random.below(90);
        unit.events.remove(0);
        unit.events.iter_mut().for_each(|event| event.end = self.lsn);
        if let Some(last) = unit.events.last_mut() {
            last.last = true;
        }
        unit.end = self.lsn;
        Lsn(self.lsn)
    }
}

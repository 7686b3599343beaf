//! Tables that are to be read because a transaction says so: it asks for them, or it has brought them.

use rowcast_engine::Result;
use rowcast_engine::event::Micros;

use super::{Assembly, NEW_TABLE, PARTLY, outside};
use crate::capture::custom;
use crate::snapshot::job::{Job, Since, Wish};

impl Assembly {
    /// The open transaction asks for a table's rows. Gives why it may not.
    pub(super) fn wish(&mut self, job: Job) -> Result<Option<&'static str>> {
        let open = self.open.as_mut().ok_or_else(outside)?;
        if open.repeated {
            return Ok(None);
        }
        Ok(self.wanted.take_in(0, job, &self.status).err())
    }

    /// A table is captured from this transaction on, and had rows before.
    pub(super) fn gap(&mut self, channel: &str) -> Result<()> {
        let open = self.open.as_mut().ok_or_else(outside)?;
        // What was made of it, an event or a note, is a matter of the configuration of then.
        if open.repeated {
            return Ok(());
        }
        let taken =
            new_table(self.reads_new_tables, channel).map(|job| self.wanted.take_in(0, job, &self.status));
        if taken != Some(Ok(())) {
            self.builder.gap(channel, NEW_TABLE, PARTLY);
        }
        Ok(())
    }

    /// Notes what a transaction in a file of its own has asked for. It goes before the file becomes a part of the
    /// journal: after a crash in between the transaction comes again, and with it what it asks for; the other way round
    /// that would be forgotten.
    pub(in crate::capture) fn note_late(&mut self) -> Result<()> {
        for (name, json) in self.wanted_tables(self.committed)? {
            self.builder.note(&name, &json);
        }
        Ok(())
    }

    /// What is noted of the tables that are to be read. Each wish has a note of its own: one that took the place of
    /// another, or of a reading that is under way, would have its rows forgotten.
    pub(super) fn wanted_tables(&mut self, committed: Micros) -> Result<Vec<(String, Vec<u8>)>> {
        let snapshot = u64::try_from(committed).unwrap_or(0);
        let jobs = self.late.drain(..).zip(0..);
        let jobs = jobs.map(|(job, number)| match job.since {
            Since::Commit(at) => Job { snapshot, wish: Some(Wish { at, number }), ..job },
            Since::Unknown | Since::Event(_) => Job { snapshot, ..job },
        });
        jobs.map(|job| Ok((job.note(), job.json()?))).collect()
    }
}

/// That the rows of a new table are read, where `reads` says so.
pub(super) fn new_table(reads: bool, channel: &str) -> Option<Job> {
    let (schema, table) = custom::names(channel).filter(|_| reads)?;
    Some(Job { schema, table, ..Job::default() })
}

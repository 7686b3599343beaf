//! What is to be read of a table, and how far that has come. Kept as a note of the journal, in the same batch as the rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use rowcast_engine::event::Micros;
use rowcast_engine::journal::Journal;
use rowcast_engine::{Error, Lsn, Result};
use serde::{Deserialize, Serialize};

/// Before the channel in the name of a note.
const PREFIX: &str = "snapshot ";

/// The note that wants all captured tables, before they have been listed.
pub(crate) const ALL: &str = "snapshots";

/// That all captured tables are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The snapshot's number: when it was wanted, microseconds since 1970.
    pub(crate) snapshot: u64,
}

/// Before the name of a sink in that of a note.
const TAKEN_UP: &str = "rows for ";

/// Which wish of a sink for the rows that are there has been taken up: its tables are jobs, or have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenUp {
    /// The moment of the wish.
    pub(crate) wish: Micros,
}

/// Where somebody begins with an empty table who follows its events, and has all of it when a snapshot has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Since {
    /// At several places, or it was wanted by an earlier version of rowcast.
    #[default]
    Unknown,
    /// Behind this event.
    Event(u64),
    /// Behind the transactions that end up to here: with the one that has asked for it.
    Commit(Lsn),
}

/// Which wish it was that a transaction of the log had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// Where its commit record begins.
    pub(crate) at: Lsn,
    /// Its place among those of the transaction.
    pub(crate) number: u32,
}

/// One table of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Job {
    /// The snapshot that it is a part of: when it was wanted, microseconds since 1970.
    pub(crate) snapshot: u64,
    /// It was asked for while the stream went on; else it is the initial one.
    pub(crate) ad_hoc: bool,
    /// The sinks that it is read for alone; none: for everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sinks: Vec<String>,
    /// Its place among the tables of the snapshot, from 0.
    pub(crate) place: u32,
    /// It had no row to be read when the snapshot began: it goes before those that had.
    pub(crate) rowless: bool,
    /// It had no key when the snapshot was wanted: it goes before those that have one, so that what comes since stays little.
    pub(crate) keyless: bool,
    /// Where it was wanted.
    pub(crate) since: Since,
    /// There may be several of a table, beside what else is read of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wish: Option<Wish>,
    pub(crate) schema: String,
    pub(crate) table: String,
    /// An SQL condition that the rows meet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) condition: Option<String>,
    /// It waits until somebody lets it go on.
    pub(crate) paused: bool,
    /// Where it stands.
    pub(crate) progress: Progress,
}

/// How far it has come. All of it is void when the table, its key or the history is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// `pg_class.oid`.
    pub(crate) relation: u32,
    /// Names of the key's columns.
    pub(crate) key: Vec<String>,
    /// What their order depends on. Where it is empty, the note is of an earlier version of rowcast.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) order: String,
    /// The slot's birth: another one begins another history.
    pub(crate) history: Lsn,
    /// Transactions that end above this were streamed after the newest chunk.
    pub(crate) lsn: Lsn,
    /// The key up to which everything has been read; none before the first chunk.
    pub(crate) cursor: Option<Vec<String>>,
    /// The cursor is at the end; only keys to be read again are left.
    pub(crate) at_end: bool,
    /// Keys to be read again: they have values that no event carried.
    pub(crate) again: Vec<Vec<String>>,
    /// Rows written so far.
    pub(crate) rows: u64,
    /// Rows that the table is thought to have.
    pub(crate) estimate: u64,
    /// Of a table that is read in one piece: how often that has gone on for a while.
    pub(crate) readings: u32,
}

impl Job {
    /// The name of its note.
    pub(crate) fn note(&self) -> String {
        let channel = self.channel();
        match self.wish {
            Some(Wish { at, number }) => format!("{PREFIX}{channel} wished at {at} {number}"),
            None => note_of(&channel, &self.sinks),
        }
    }

    /// Bytes of its condition.
    pub(crate) fn condition_bytes(&self) -> usize {
        self.condition.as_ref().map_or(0, String::len)
    }

    pub(crate) fn channel(&self) -> String {
        rowcast_engine::schema::Schema::channel_of(&self.schema, &self.table)
    }

    pub(crate) fn json(&self) -> Result<Vec<u8>> {
        json(self)
    }

    /// The snapshot that a noted job is a part of.
    pub(crate) fn snapshot_of(noted: &[u8]) -> Option<u64> {
        #[derive(Deserialize)]
        struct Of {
            snapshot: u64,
        }
        serde_json::from_slice(noted).ok().map(|Of { snapshot }| snapshot)
    }

    /// Whether what is noted under its name is of another snapshot.
    pub(crate) fn is_another(&self, noted: &[u8]) -> bool {
        Self::snapshot_of(noted).is_some_and(|snapshot| snapshot != self.snapshot)
    }
}

/// Each has its own: a table can be wanted for everybody, and for some sinks.
pub(crate) fn note_of(channel: &str, sinks: &[String]) -> String {
    match sinks {
        [] => format!("{PREFIX}{channel}"),
        sinks => format!("{PREFIX}{channel} for {}", sinks.join(" ")),
    }
}

/// Whether a note of this name is a job.
pub(crate) fn is_job(note: &str) -> bool {
    note.starts_with(PREFIX)
}

/// The note that says which wish of a sink has been taken up.
pub(crate) fn taken_up_note(sink: &str) -> String {
    format!("{TAKEN_UP}{sink}")
}

pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::failed("Cannot write a snapshot's state").because(error))
}

/// What is wanted, by the name of its note.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) all: Option<Wanted>,
    pub(crate) tables: BTreeMap<String, Job>,
    /// The moments of the wishes that have been taken up, by sink.
    pub(crate) taken_up: BTreeMap<String, Micros>,
}

impl Jobs {
    /// From the journal's notes.
    ///
    /// # Errors
    ///
    /// When one is of another version.
    pub(crate) fn read(notes: &BTreeMap<String, Arc<[u8]>>) -> Result<Self> {
        Known::default().read(notes)
    }
}

/// Jobs as they were read last: with thousands of tables few have changed since.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<String, (Arc<[u8]>, Job)>);

impl Known {
    /// From the journal's notes.
    ///
    /// # Errors
    ///
    /// When one is of another version.
    pub(crate) fn read(&mut self, notes: &BTreeMap<String, Arc<[u8]>>) -> Result<Jobs> {
        let unread = |error| {
            Error::journal(
                "A snapshot's state in the journal cannot be read, it is of another version of rowcast",
            )
            .because(error)
        };
        let mut jobs = Jobs::default();
        self.0.retain(|name, _| notes.contains_key(name));
        for (name, json) in notes {
            if name == ALL {
                jobs.all = Some(serde_json::from_slice(json).map_err(unread)?);
            } else if let Some(sink) = name.strip_prefix(TAKEN_UP) {
                let TakenUp { wish } = serde_json::from_slice(json).map_err(unread)?;
                jobs.taken_up.insert(sink.to_owned(), wish);
            } else if is_job(name) {
                jobs.tables.insert(name.clone(), self.job(name, json).map_err(unread)?);
            }
        }
        Ok(jobs)
    }

    /// Whether there was a note of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn job(&mut self, name: &str, json: &Arc<[u8]>) -> serde_json::Result<Job> {
        if let Some((known, job)) = self.0.get(name)
            && Arc::ptr_eq(known, json)
        {
            return Ok(job.clone());
        }
        let job: Job = serde_json::from_slice(json)?;
        self.0.insert(name.to_owned(), (Arc::clone(json), job.clone()));
        Ok(job)
    }
}

/// Stores the note of a job, or removes it where there is no JSON, unless another snapshot of the table is wanted by now:
/// written over, that would be forgotten.
pub(crate) async fn note_unless_replaced(journal: &Journal, job: &Job, json: &[u8]) -> Result<()> {
    let name = job.note();
    if journal.note_named(&name).is_some_and(|noted| job.is_another(&noted)) {
        return Ok(());
    }
    journal.note(&[(&name, json)]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_back_as_it_was_noted() {
        let job = Job {
            snapshot: 7,
            schema: "public".to_owned(),
            table: "Order".to_owned(),
            progress: Progress { cursor: Some(vec!["1".to_owned()]), rows: 5, ..Progress::default() },
            ..Job::default()
        };
        let mut notes = BTreeMap::from([("other".to_owned(), Arc::from(&b"?"[..]))]);
        assert!(Jobs::read(&notes).unwrap().tables.is_empty());
        notes.insert(job.note(), job.json().unwrap().into());
        notes.insert(ALL.to_owned(), json(&Wanted { snapshot: 9 }).unwrap().into());
        let jobs = Jobs::read(&notes).unwrap();
        assert_eq!(jobs.tables["snapshot public.\"Order\""], job);
        assert_eq!(jobs.all, Some(Wanted { snapshot: 9 }));
        let alone = Job { sinks: vec!["a".to_owned(), "b".to_owned()], ..job };
        notes.insert(alone.note(), alone.json().unwrap().into());
        notes.insert(taken_up_note("a"), json(&TakenUp { wish: 5 }).unwrap().into());
        let jobs = Jobs::read(&notes).unwrap();
        assert_eq!((jobs.tables.len(), &jobs.tables["snapshot public.\"Order\" for a b"]), (2, &alone));
        assert_eq!(jobs.taken_up, BTreeMap::from([("a".to_owned(), 5)]));
        notes.insert(note_of("public.x", &[]), b"[".as_slice().into());
        assert!(Jobs::read(&notes).is_err());
    }

    #[test]
    fn what_has_changed_since_is_read_again() {
        let job = |rows| {
            let progress = Progress { rows, ..Progress::default() };
            Job { schema: "public".to_owned(), table: "t".to_owned(), progress, ..Job::default() }
        };
        let mut notes = BTreeMap::new();
        let mut known = Known::default();
        for rows in [1, 1, 2] {
            notes.insert(job(rows).note(), job(rows).json().unwrap().into());
            assert_eq!(known.read(&notes).unwrap().tables[&job(rows).note()], job(rows));
            assert_eq!(known.read(&notes).unwrap().tables[&job(rows).note()], job(rows));
        }
        notes.clear();
        assert!(known.read(&notes).unwrap().tables.is_empty() && known.0.is_empty());
    }
}

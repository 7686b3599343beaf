//! What is left of a snapshot whose program has died: what the next start goes on from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Options, open};
use serde_json::Value;

use crate::support::process::Directory;

/// How many keys have to wait: one may be read in passing.
const WAITING: usize = 5;

/// What remains of a table some of whose keys wait to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Rows behind the cursor, and those keys.
    Rows,
    /// Those keys.
    Keys,
}

/// The tables that are not done, by channel, as the journal's notes have them.
#[derive(Clone, Default)]
pub(super) struct Left(BTreeMap<String, Value>);

impl Left {
    /// By a program that keeps its data there. A copy is opened: opening mends a journal.
    pub(super) async fn by(data: &Path) -> Self {
        let copy = Directory::new("left");
        for file in std::fs::read_dir(data.join("journal")).expect("a journal").flatten() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
        }
        let journal = open(Options::new(copy.path()), Arc::new(RealDisk)).expect("a sound journal");
        let notes = journal.notes();
        journal.close().await;
        let table = |(name, note): (String, Arc<[u8]>)| {
            let channel = name.strip_prefix("snapshot ")?.to_owned();
            Some((channel, serde_json::from_slice(&note).expect("JSON")))
        };
        Self(notes.into_iter().filter_map(table).collect())
    }

    /// The numbers of the snapshots that they are of.
    fn snapshots(&self) -> BTreeSet<u64> {
        self.0.values().map(|table| table["snapshot"].as_u64().expect("a number")).collect()
    }

    /// The tables.
    pub(super) fn channels(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Rows that had been read of a table; none when it was done.
    pub(super) fn rows(&self, channel: &str) -> Option<u64> {
        self.0.get(channel)?["progress"]["rows"].as_u64()
    }

    /// Whether some table had been read in part, up to a key with others behind it.
    pub(super) fn is_midway(&self) -> bool {
        let is = |progress: &Value| progress["rows"].as_u64() > Some(0) && progress["at_end"] == false;
        self.0.values().any(|table| is(&table["progress"]))
    }

    /// Keys that waited to be read again.
    pub(super) fn again(&self) -> usize {
        self.0.values().map(again).sum()
    }

    /// Which table is read next, where one is read at a time, and what remains of it, if keys wait.
    pub(super) fn waiting(&self) -> Option<(&str, Rest)> {
        // Those that had no rows go first, and are done with one chunk.
        let turn = |(_, table): &(&String, &Value)| (table["rowless"] == false, table["place"].as_u64());
        let (channel, table) = self.0.iter().min_by_key(turn)?;
        let rest = if table["progress"]["at_end"] == true { Rest::Keys } else { Rest::Rows };
        (again(table) >= WAITING).then_some((channel.as_str(), rest))
    }

    /// Whether more has been read than was at an earlier death.
    pub(super) fn is_further_than(&self, before: &Self) -> bool {
        let rows = |left: &Self| -> Vec<Value> {
            left.0.values().map(|table| table["progress"]["rows"].clone()).collect()
        };
        rows(self) != rows(before)
    }

    /// Asserts that it is of one snapshot, the same as at the first death.
    pub(super) fn assert_is_of(&self, first: &Self) {
        assert_eq!(self.snapshots().len(), 1, "{self}");
        assert_eq!(self.snapshots(), first.snapshots(), "{self}");
    }

    /// Asserts that no table is further back than at the death before, nor there again: what is read twice would make up
    /// for what was lost.
    pub(super) fn assert_goes_on_from(&self, before: &Self) {
        for channel in self.channels() {
            let (now, was) = (self.rows(channel), before.rows(channel));
            assert!(was.is_some(), "{channel} was done");
            assert!(now >= was, "{channel} had {was:?} rows, and has {now:?}");
        }
    }
}

fn again(table: &Value) -> usize {
    table["progress"]["again"].as_array().map_or(0, Vec::len)
}

impl fmt::Display for Left {
    /// `7 tables, public.numbers 2000 of 12001 rows, 3 again`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tables", self.0.len())?;
        let begun = self.0.iter().map(|(channel, table)| (channel, table, &table["progress"]));
        for (channel, table, progress) in begun.filter(|(.., progress)| progress["rows"] != 0) {
            let (rows, estimate, again) = (&progress["rows"], &progress["estimate"], again(table));
            write!(f, ", {channel} {rows} of {estimate} rows, {again} again")?;
        }
        Ok(())
    }
}

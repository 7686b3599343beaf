//! What the journal knows of transactions that were streamed before a snapshot began, or since its newest chunk.

use std::collections::BTreeSet;

use rowcast_engine::event::{Body, Old, Op};
use rowcast_engine::journal::{Journal, Read};
use rowcast_engine::record::Value;
use rowcast_engine::{Error, Lsn, Result};

use super::rows::key_bytes;
use super::visible::{Commit, Visible};

/// How far back a transaction may have been streamed that is still invisible to others, in bytes of the server's log: its
/// commit waits for a standby all the while.
const BACK: u64 = 4 << 30;

/// Transactions that are looked at for it.
const LOOKED_AT: usize = 2_000_000;

/// Where no transaction older than the newest completed one is in progress, only one that came since can be invisible:
/// it was streamed no further back than this.
const NEAR: u64 = 64 << 20;

/// The transactions that have been streamed and are not seen by a snapshot. Those beyond its `xmax` count too: that
/// stands behind the newest transaction that is completed, and one that waits for a standby is not. Reads the disk.
///
/// None at a standby: each chunk is compared with the position up to which was streamed.
pub(super) async fn streamed(journal: &Journal, visible: Visible) -> Result<Vec<Commit>> {
    if visible.replayed().is_some() {
        return Ok(Vec::new());
    }
    let journal = journal.clone();
    let look = move || -> Result<Vec<Commit>> {
        let back = if visible.running().next().is_some() { BACK } else { NEAR };
        let position = journal.position().lsn;
        let from = Lsn(position.0.saturating_sub(back));
        let stored = journal.transactions_above(from, LOOKED_AT)?;
        // A primary's snapshots go by the id alone.
        let commit = |xid| Commit { xid, at: position };
        let commits = stored.iter().map(|stored| commit(stored.xid));
        let mut unseen: Vec<Commit> = commits.filter(|commit| !visible.sees(*commit)).collect();
        // More than can be looked at: all that are in progress may have been.
        if stored.len() >= LOOKED_AT {
            unseen.extend(visible.running().map(commit));
        }
        Ok(unseen)
    };
    on_its_own(look).await
}

/// The keys that rows of a table were moved to since `lsn` by events that lack values: they have to be read again.
/// `None` when the journal does not hold all of that any more.
pub(super) async fn moved(journal: &Journal, channel: &str, lsn: Lsn) -> Result<Option<BTreeSet<Box<[u8]>>>> {
    let (journal, channel) = (journal.clone(), channel.to_owned());
    on_its_own(move || {
        if !journal.holds_all_above(lsn) {
            return Ok(None);
        }
        let mut after = journal.seek_lsn(lsn)?;
        let mut found = BTreeSet::new();
        loop {
            let batches = match journal.read(after)? {
                Read::AtHead => return Ok(Some(found)),
                Read::Gone(_) => return Ok(None),
                Read::Batches(batches) => batches,
            };
            for batch in batches {
                after = after.max(batch.last());
                for event in batch.events_where(|of, op| of == channel && op == Op::Update) {
                    let Body::Row { schema, old: Some(Old::Key(old)), new: Some(new) } = event.body else {
                        continue;
                    };
                    let lacks = new.values().any(|value| value == Value::Unchanged);
                    let key = key_bytes(new, &schema.key);
                    if lacks && key != key_bytes(old, &schema.key) {
                        found.extend(key);
                    }
                }
            }
        }
    })
    .await
}

async fn on_its_own<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("Reading the journal was broken off").because(error))?
}

//! All transactions that are sent before they end, whose pieces come in turns; and what they may take together.

use std::collections::HashMap;

use metrics::{counter, gauge};
use rowcast_engine::journal::Journal;
use rowcast_engine::{Error, Result};

use super::assembly::Step;
use super::spill::MAX_OPEN;
use super::streamed::Streamed;

/// All of them together hold no more events in memory than one large transaction: above it, the one that holds most is
/// written to its file.
const MAX_HELD: usize = MAX_OPEN;

/// While that is written so much more may come; then reading waits.
const MAX_WAITING: usize = 2 * MAX_HELD;

/// Files that are open at the same time, of the 1,024 that a process may have by default.
const MAX_FILES: usize = 200;

/// What stays in memory of descriptions and subtransactions, 12 bytes of each. The server needs some hundred for each.
const MAX_KEPT: usize = 32 << 20;

/// Each takes some kilobytes even when little has come of it.
const MAX_OPEN_AT_ONCE: usize = 2000;

/// The transactions that are open.
#[derive(Default)]
pub(super) struct Streams {
    open: HashMap<u32, Box<Streamed>>,
    /// The one in whose piece the stream is; it is not among the others then.
    within: Option<Box<Streamed>>,
    /// Bytes that the others hold.
    others: usize,
    /// Bytes that stay in memory of the others.
    others_kept: usize,
    /// The one that is being written; it may be gone already.
    writing: Option<u32>,
    given_up: bool,
}

impl Streams {
    pub(super) fn is_within(&self) -> bool {
        self.within.is_some()
    }

    pub(super) fn within(&mut self) -> Option<&mut Streamed> {
        self.within.as_deref_mut()
    }

    /// Whether they have to be sent whole from now on.
    pub(super) fn given_up(&self) -> bool {
        self.given_up
    }

    /// A piece begins.
    pub(super) fn start(&mut self, xid: u32, first: bool) -> Result<()> {
        let known = self.remove(xid);
        let streamed = match known {
            Some(known) if !first => known,
            None if !first => return Err(unknown(xid)),
            // One of that number that the server has forgotten is void.
            _ if self.open.len() >= MAX_OPEN_AT_ONCE => {
                return Err(self.give_up(&format!("more than {MAX_OPEN_AT_ONCE} of them are open")));
            }
            _ => Box::new(Streamed::new(xid)),
        };
        self.within = Some(streamed);
        self.show();
        Ok(())
    }

    /// It ends.
    pub(super) fn stop(&mut self) -> Result<()> {
        if let Some(streamed) = self.within.take() {
            self.others += streamed.held();
            self.others_kept += streamed.kept();
            self.open.insert(streamed.xid, streamed);
        }
        self.within_bounds()
    }

    /// One was rolled back, or a part of it.
    pub(super) fn abort(&mut self, xid: u32, subxid: u32) -> Result<Step> {
        let Some(mut streamed) = self.remove(xid) else {
            // Nothing of it was sent.
            return Ok(Step::Next);
        };
        if subxid == xid {
            counter!("rowcast_source_streamed_aborted_total").increment(1);
            self.show();
            return Ok(Step::Next);
        }
        streamed.undo(subxid);
        self.within = Some(streamed);
        self.stop()?;
        Ok(Step::Next)
    }

    /// One that has committed. What may have been rolled back matters only now: mostly all of it is in the end.
    pub(super) fn peek(&mut self, xid: u32) -> Result<&Streamed> {
        if self.open.get(&xid).is_some_and(|streamed| streamed.is_unsure()) {
            return Err(self.give_up("a message may belong to a savepoint that was rolled back, or not"));
        }
        self.open.get(&xid).map(|streamed| &**streamed).ok_or_else(|| unknown(xid))
    }

    /// Takes one out: it has committed.
    pub(super) fn take(&mut self, xid: u32) -> Result<Box<Streamed>> {
        let streamed = self.remove(xid).ok_or_else(|| unknown(xid))?;
        counter!("rowcast_source_streamed_transactions_total").increment(1);
        self.show();
        Ok(streamed)
    }

    fn remove(&mut self, xid: u32) -> Option<Box<Streamed>> {
        let streamed = self.open.remove(&xid)?;
        self.others -= streamed.held();
        self.others_kept -= streamed.kept();
        Some(streamed)
    }

    fn show(&self) {
        let open = self.open.len() + usize::from(self.within.is_some());
        gauge!("rowcast_source_streamed_open").set(u32::try_from(open).unwrap_or(u32::MAX));
    }

    fn held(&self) -> usize {
        self.others + self.within.as_ref().map_or(0, |streamed| streamed.held())
    }

    /// Whether more of them may be read.
    pub(super) fn has_room(&self) -> bool {
        self.held() < MAX_WAITING
    }

    /// Whether what cannot be written to a file has its bounds.
    pub(super) fn within_bounds(&mut self) -> Result<()> {
        let kept = self.others_kept + self.within.as_ref().map_or(0, |streamed| streamed.kept());
        if kept > MAX_KEPT {
            return Err(
                self.give_up("they have too many subtransactions, tables or wishes to be kept in memory")
            );
        }
        Ok(())
    }

    /// The connection ends, and the next one asks for whole transactions.
    pub(super) fn give_up(&mut self, why: &str) -> Error {
        self.given_up = true;
        counter!("rowcast_source_streaming_given_up_total").increment(1);
        Error::transient(format!(
            "Transactions are no more sent before they commit (source.streaming), up to the next start: {why}"
        ))
    }

    /// A type has changed that open transactions may have described.
    pub(super) fn doubt_descriptions(&mut self) {
        self.all().for_each(|streamed| streamed.doubt_descriptions());
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Box<Streamed>> {
        self.open.values_mut().chain(&mut self.within)
    }

    /// Starts to write the one that holds most, when all of them hold too much and none is being written.
    pub(super) fn relieve(&mut self, journal: &Journal) -> Result<()> {
        if self.held() < MAX_HELD || self.is_writing() {
            return Ok(());
        }
        let files = self.all().filter(|streamed| streamed.file.is_there()).count();
        let Some(largest) = self.all().max_by_key(|streamed| streamed.held()) else { return Ok(()) };
        if !largest.file.is_there() && files >= MAX_FILES {
            return Err(self.give_up(&format!("more than {MAX_FILES} of them are large")));
        }
        let before = largest.held();
        let parts = largest.builder.take_open();
        largest.file.start(journal, parts)?;
        let (xid, freed) = (largest.xid, before - largest.held());
        self.writing = Some(xid);
        if self.within.as_ref().is_none_or(|within| within.xid != xid) {
            self.others -= freed;
        }
        Ok(())
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Waits until nothing is being written. Cancel safe.
    pub(super) async fn written(&mut self) -> Result<()> {
        let Some(xid) = self.writing else { return Ok(()) };
        if let Some(streamed) = self.all().find(|streamed| streamed.xid == xid) {
            streamed.file.written().await?;
        }
        self.writing = None;
        Ok(())
    }
}

fn unknown(xid: u32) -> Error {
    Error::failed(format!("The replication stream goes on with transaction {xid}, which it has not begun"))
        .hint(super::assembly::REPORT)
}

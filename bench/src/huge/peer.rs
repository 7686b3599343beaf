//! pg_recvlogical, which only looks for the small ones in what it is sent.

use std::io::Read;
use std::process::ChildStdout;

use memchr::memmem::Finder;
use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Bench, LOOK, PUBLICATION};
use crate::backlog;
use crate::process::Process;

/// One read.
const CHUNK: usize = 64 << 10;

impl Bench<'_> {
    pub(super) async fn peer(&self, slot: &str, arrivals: mpsc::Sender<(u64, Instant)>) -> Result<Process> {
        let create = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        backlog::execute(self.client, &create).await?;
        let oid = "select 'small'::regclass::oid";
        let failed = |error| Error::failed("Cannot look up the table").because(error);
        let oid: u32 = self.client.query_one(oid, &[]).await.map_err(failed)?.get(0);
        let mut drain = self.server.recvlogical(self.route, slot, PUBLICATION);
        drain.args(["--file", "-"]);
        let (process, output) = Process::piped(&mut drain, Signal::INT, &self.place.path("peer.log"))?;
        std::thread::spawn(move || look(output, oid, &arrivals));
        while backlog::walsender(self.client, slot).await?.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(process)
    }
}

/// Notes when each insert into the table comes, whose only column is its key, until there is no more.
fn look(mut output: ChildStdout, oid: u32, arrivals: &mpsc::Sender<(u64, Instant)>) {
    // Insert, relation, a new tuple of one column, as text.
    let insert = [&b"I"[..], &oid.to_be_bytes(), b"N\0\x01t"].concat();
    let finder = Finder::new(&insert);
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    while let Ok(read @ 1..) = output.read(&mut chunk) {
        let now = Instant::now();
        bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
        let mut at = 0;
        while let Some(found) = finder.find(bytes.get(at..).unwrap_or_default()) {
            let Some(id) = text_at(&bytes, at + found + insert.len()) else { break };
            at += found + insert.len();
            if id.is_some_and(|id| arrivals.blocking_send((id, now)).is_err()) {
                return;
            }
        }
        // What may have come in part: a message is short.
        let kept = bytes.len().saturating_sub(insert.len() + 4 + 20).max(at);
        bytes.drain(..kept);
    }
}

/// The number that stands there as a text with its length; `None` when it is not whole yet.
fn text_at(bytes: &[u8], at: usize) -> Option<Option<u64>> {
    let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
    let text = bytes.get(at + 4..at + 4 + length)?;
    Some(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()))
}

//! What the readers of tables and the stream say to each other.
//!
//! The readers have connections and a thread of their own; the stream writes what they have read where it belongs. All
//! of it is void when the connection of the stream ends: the journal has what is needed to go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use rowcast_engine::event::Micros;
use rowcast_engine::journal::Journal;
use rowcast_engine::schema::Schema;
use rowcast_engine::{Lsn, answered};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::group::Filed;
use super::job::Job;
use super::rows::Rows;
use super::told::Told;
use super::tracker::{Flaw, Opened};
use super::visible::{Commit, Visible};

/// Orders that may wait: a chunk and a window for each of a few tables.
pub(crate) const ORDERS: usize = 16;

/// What a reader wants of the stream.
#[derive(Debug)]
pub(crate) enum Order {
    /// To note what is streamed from here on, between two transactions; answered with the end of the one before. What
    /// came up to there stands in the journal once that is durable.
    Watch(oneshot::Sender<Lsn>),
    /// To reckon with transactions that were streamed before.
    Seed(Vec<Commit>),
    /// That every snapshot which is taken from here on sees this, and nobody need remember it.
    Seen(Visible),
    /// To look after a table from here on; answered likewise.
    Begin(u32, oneshot::Sender<Lsn>),
    /// To look after a table that is read in one piece; answered likewise.
    BeginWhole(u32, oneshot::Sender<Lsn>),
    /// These keys of a table wait to be read again, too.
    Again(u32, BTreeSet<Box<[u8]>>),
    /// To open a window; answered with its number.
    Open(u32, oneshot::Sender<Option<u64>>),
    /// What a consumer of such a table had where it began to be looked after.
    Tell(u32, Box<Told>, oneshot::Sender<Result<(), Flaw>>),
    /// To open the window of a table that is read in one piece.
    OpenWhole(u32, oneshot::Sender<Option<Result<Opened, Flaw>>>),
    /// What the snapshot of that window sees, and the position asked behind it.
    Know(u32, u64, Visible, Lsn),
    /// To say whether a snapshot that was taken in that window is of use, as soon as the stream has come so far.
    Judge(Box<Taken>, oneshot::Sender<bool>),
    /// To close one whose chunk there is none.
    Close(u32, u64),
    /// To close that of a table that is read in one piece.
    CloseWhole(u32, u64, Box<Told>),
    /// To write a chunk as soon as the stream has come so far as it is due.
    Write(Box<Ready>, oneshot::Sender<Written>),
    /// To ask the server how far it has sent: a chunk waits, and the server has nothing else to send.
    Ask,
    /// To forget a table.
    End(u32),
    /// Nobody reads any more.
    Rest,
    /// All that was wanted has been read, and nothing else is.
    Done,
}

/// A snapshot of a table that is read in one piece, before a row is.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) relation: u32,
    pub(crate) due: Lsn,
}

/// A chunk to be written.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) relation: u32,
    pub(crate) window: u64,
    pub(crate) visible: Visible,
    /// A position of the moment when it was read.
    pub(crate) lsn: Lsn,
    /// All that it saw has been taken in when the stream has come here.
    pub(crate) due: Lsn,
    pub(crate) at: Micros,
    pub(crate) schema: Arc<Schema>,
    pub(crate) rows: Rows,
    /// The keys that were read again.
    pub(crate) asked: Vec<Box<[u8]>>,
    /// It is all of a table whose rows nothing tells apart.
    pub(crate) whole: Option<Whole>,
    /// As it stands once the chunk is written, but for rows and keys.
    pub(crate) job: Job,
    /// Its first row is the first of the whole snapshot.
    pub(crate) first: bool,
    /// Its part of what all chunks may take; given back when it is written.
    pub(crate) memory: OwnedSemaphorePermit,
}

/// What belongs to all rows of a table.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Rows that stand before the others, and are in a file.
    pub(crate) filed: Option<Filed>,
    /// What a consumer had, and what of that was met in the table.
    pub(crate) told: Told,
    /// The latter, where memory holds it.
    pub(crate) left_out: Option<Rows>,
    /// All that is done to the table is published.
    pub(crate) exact: bool,
}

/// What became of a chunk.
#[derive(Debug)]
pub(crate) enum Written {
    /// It is on its way to the disk: the job as it stands now, and as its note says it; `None` when it is done.
    Yes(Option<(Box<Job>, Arc<[u8]>)>, u64),
    /// It has to be read again.
    Repeat(Why),
    /// The table has to be read from its beginning.
    Void,
    /// A key that waits to be read again is no text by which it could be asked for.
    NoText,
    /// All rows of a table are of no use.
    Flawed(Flaw),
}

/// Why a chunk has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A transaction that was streamed is not visible yet.
    Unseen,
    /// The table has changed.
    Changed,
    /// Too much has changed meanwhile.
    TooMuch,
}

/// The way to the stream.
pub(crate) type Orders = mpsc::Sender<Order>;

/// What can be said of it: the stream is gone, and this reader is about to be.
#[derive(Debug)]
pub(crate) struct Gone;

/// Asks the stream.
pub(crate) async fn ask<T>(
    orders: &Orders,
    order: impl FnOnce(oneshot::Sender<T>) -> Order,
) -> Result<T, Gone> {
    let (sender, answer) = oneshot::channel();
    orders.send(order(sender)).await.map_err(|_| Gone)?;
    answered(orders, answer).await.ok_or(Gone)
}

/// Asks the stream to begin something, and waits until all that it had taken in before stands in the journal: what is
/// looked up there then has no hole before what is noted from here on. Gives where that ends.
pub(crate) async fn begin(
    orders: &Orders,
    journal: &Journal,
    order: impl FnOnce(oneshot::Sender<Lsn>) -> Order,
) -> Result<Lsn, Gone> {
    let before = ask(orders, order).await?;
    let reached = journal.durable().wait_for(|durable| *durable >= before).await.map(drop);
    reached.map(|()| before).map_err(|_| Gone)
}

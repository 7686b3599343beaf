//! The way in: a source's transactions go to the journal through here.

mod unfinished;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::abort::{self, Point};
use crate::confirm;
use crate::error::{Error, Result};
use crate::event::Micros;
use crate::journal::{
    Append, Command, Journal, RowsEnd, Spill, State, StreamPosition, TxEnd, encode_position, gone,
};
use crate::lsn::Lsn;
use crate::record::{Builder, Part};

pub use unfinished::{recast_spill, settle_spill};

/// Groups of one source on their way: one being written, one waiting. More would only be memory; fewer would let
/// the disk wait for the socket.
const IN_FLIGHT: usize = 2;

/// Hands transactions to the journal.
#[derive(Clone, Debug)]
pub struct Ingest {
    journal: Journal,
    permits: Arc<Semaphore>,
    /// Push doors that must have a change before the source may forget it.
    required: Arc<[String]>,
    /// For a while it may forget what they lack.
    waived: Arc<watch::Sender<bool>>,
}

/// Room for one group.
#[derive(Debug)]
pub struct Room {
    slot: mpsc::OwnedPermit<Command>,
    permit: OwnedSemaphorePermit,
}

impl Ingest {
    /// The way into a journal.
    pub fn new(journal: Journal) -> Self {
        let (permits, waived) = (Arc::new(Semaphore::new(IN_FLIGHT)), Arc::new(watch::Sender::new(false)));
        Self { journal, permits, required: Arc::default(), waived }
    }

    /// The source may forget only what these push doors have, too.
    pub fn required(self, sinks: Vec<String>) -> Self {
        Self { required: sinks.into(), ..self }
    }

    /// Watches up to where the source may be told that all is done, beginning with what it has been told.
    pub fn confirmable(&self, confirmed: Lsn) -> watch::Receiver<Lsn> {
        if self.required.is_empty() {
            return self.journal.durable();
        }
        let (required, waived) = (Arc::clone(&self.required), Arc::clone(&self.waived));
        confirm::watched(self.journal.clone(), required, waived, confirmed)
    }

    /// Whether the source may, for a while, forget what the journal has and push doors lack. Gives whether that is new.
    pub fn waive(&self, yes: bool) -> bool {
        self.waived.send_if_modified(|waived| std::mem::replace(waived, yes) != yes)
    }

    /// Those push doors that lack something without which the source may not forget it, and up to where in its log all of them
    /// have everything; `None` while that is not known.
    pub fn held(&self) -> (Vec<String>, Option<Lsn>) {
        (self.journal.lacking(&self.required), confirm::reached(&self.journal, &self.required))
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Waits until the writer can take another group. Cancel safe.
    pub async fn room(&self) -> Result<Room> {
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.permits).acquire_owned() => permit.map_err(|_| gone())?,
            // What was taken in before may never be written now, and keeps its permit.
            () = self.journal.commands.closed() => return Err(gone()),
        };
        let slot = self.journal.commands.clone().reserve_owned().await.map_err(|_| gone())?;
        Ok(Room { slot, permit })
    }

    /// Room for another group, if there is some now.
    pub fn try_room(&self) -> Option<Room> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let slot = self.journal.commands.clone().try_reserve_owned().ok()?;
        Some(Room { slot, permit })
    }

    /// Somebody waits for what was handed over to be durable: with `sync = "interval"` not until that is over.
    pub fn hasten(&self) {
        if self.journal.syncs_later() {
            // Behind so many others it is asked for again.
            let _ = self.journal.commands.try_send(Command::SyncNow);
        }
    }

    /// Waits until all that was handed over before is durable, so that the stored position is what a new connection
    /// has to go on from.
    pub async fn settled(&self) -> Result<()> {
        let (mut durable, mut state) = (self.journal.durable(), self.journal.state());
        let submitted = self.journal.shared.submitted();
        if self.journal.syncs_later() && *durable.borrow() < submitted {
            self.journal.commands.send(Command::SyncNow).await.map_err(|_| gone())?;
        }
        let failed = state.wait_for(|state| matches!(state, State::Failed(_)));
        tokio::select! {
            reached = durable.wait_for(|durable| *durable >= submitted) => reached.map(drop).map_err(|_| gone()),
            _ = failed => Err(gone()),
        }
    }

    /// Stores whose stream this is and where it stands, durably, before anything is confirmed to the source. The
    /// position must not lie below the stored one. The notes become durable with it.
    pub async fn identify(&self, position: StreamPosition, notes: &[(&str, &[u8])]) -> Result<()> {
        self.settled().await?;
        let mut builder = Builder::new();
        let highest = self.journal.shared.registry.highest();
        builder.position(position.lsn, &encode_position(&position, highest)?);
        for (name, json) in notes {
            builder.note(name, json);
        }
        let lsn = position.lsn;
        self.journal.shared.note_submitted(lsn);
        let identity = Some(Box::new(position));
        let append = Append { parts: builder.take(), lsn: Some(lsn), identity, ..Append::default() };
        self.journal.append(append).await?;
        self.settled().await
    }

    /// Ends the history that the journal has followed, and begins another one at `position`, which may lie below the
    /// stored one: with a gap of all channels, for this reason (for programs, and for people), and with these notes.
    /// Gives the gap's number.
    /// It is durable, or after a crash the old history is there as it was.
    pub async fn begin_history(
        &self,
        position: StreamPosition,
        (reason, detail): (&str, &str),
        at: Micros,
        notes: &[(&str, &[u8])],
    ) -> Result<u64> {
        self.settled().await?;
        self.journal.begin_history(position, (reason, detail), at, notes).await
    }

    /// Stores that nothing was to be captured up to `lsn`.
    pub async fn advance(&self, lsn: Lsn) -> Result<()> {
        let room = self.room().await?;
        room.advance(&self.journal, lsn)
    }
}

impl Room {
    /// Appends whole transactions; `lsn` is the stream's position after them, which is stored with them: the last one
    /// may have left nothing else behind.
    pub fn append(self, journal: &Journal, mut parts: Vec<Part>, lsn: Lsn) {
        let held = parts.iter().map(Part::lsn).fold(journal.shared.submitted(), Lsn::max);
        if lsn > held {
            parts.extend(Part::reaching(lsn));
        }
        journal.shared.note_submitted(lsn);
        self.send(parts, lsn);
    }

    /// Stores that nothing was to be captured up to `lsn`.
    pub fn advance(self, journal: &Journal, lsn: Lsn) -> Result<()> {
        let position = StreamPosition { lsn, ..journal.position() };
        let mut builder = Builder::new();
        builder.position(lsn, &encode_position(&position, journal.shared.registry.highest())?);
        journal.shared.note_submitted(lsn);
        self.send(builder.take(), lsn);
        Ok(())
    }

    /// Takes a huge transaction in, all of which is in `spill`.
    pub fn adopt(self, journal: &Journal, spill: Spill, end_lsn: Lsn, committed: Micros) {
        journal.shared.note_submitted(end_lsn);
        let end = TxEnd { end_lsn, committed };
        self.slot.send(Command::Adopt(Box::new(spill), end, Some(self.permit)));
    }

    /// Takes in rows that a snapshot read at this time, all of which are in `spill`; these notes go with them.
    /// The stream stands at `position` before and after them.
    pub fn adopt_rows(self, journal: &Journal, spill: Spill, (position, at): (Lsn, Micros), gone: &[String]) {
        journal.shared.note_submitted(position);
        let notes = gone.iter().map(|note| (note.clone(), Arc::from(&b""[..]))).collect();
        let end = RowsEnd { position, at, notes };
        self.slot.send(Command::AdoptRows(Box::new(spill), end, self.permit));
    }

    fn send(self, parts: Vec<Part>, lsn: Lsn) {
        let append = Append { parts, lsn: Some(lsn), permit: Some(self.permit), ..Append::default() };
        self.slot.send(Command::Append(append));
    }
}

/// Writes parts of a huge transaction without holding up the caller's task. The file comes back. On a full disk it
/// waits for room; dropped, it gives up and the file vanishes.
pub async fn spill_parts(spill: Spill, parts: Vec<Part>) -> Result<Spill> {
    on_its_own(spill, move |spill| spill.write(parts)).await
}

/// Likewise for the last parts: the file is durable when it comes back.
pub async fn finish_spill(spill: Spill, parts: Vec<Part>) -> Result<Spill> {
    on_its_own(spill, move |spill| {
        spill.write(parts)?;
        spill.sync()?;
        abort::point(Point::SpillSynced);
        Ok(())
    })
    .await
}

async fn on_its_own(
    mut spill: Spill,
    work: impl FnOnce(&mut Spill) -> Result<()> + Send + 'static,
) -> Result<Spill> {
    let _abandon = spill.on_behalf();
    tokio::task::spawn_blocking(move || work(&mut spill).map(|()| spill))
        .await
        .map_err(|error| Error::failed("The write of a large transaction was broken off").because(error))?
}

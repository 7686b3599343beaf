//! A round: what has arrived while the disk was busy is numbered together and is one write.
//!
//! Nothing of a round is in the file before all of it is taken, so that a full disk turns those away who need not
//! wait before anybody else's number depends on theirs.

use std::io::{self, IoSlice};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::journal::StreamPosition;
use crate::journal::rolling::is_full;
use crate::journal::room::no_room;
use crate::journal::writer::{Append, DISK_FULL, Writer};
use crate::lsn::Lsn;
use crate::record::{Builder, Header, Part, Tail, mark_early, seal_with};

/// What is written at once, in its order.
#[derive(Debug, Default)]
pub(super) struct Round {
    taken: Vec<Taken>,
    /// All of it, but for descriptions of tables.
    pub(super) bytes: usize,
    arrived: Option<Instant>,
    /// It brings descriptions of tables that the segment has not got.
    pub(super) describes: bool,
}

#[derive(Debug)]
struct Taken {
    append: Append,
    /// The number of its first event.
    first: u64,
}

impl Round {
    /// `arrived`: when it came, if it was the first.
    pub(super) fn push(&mut self, append: Append, bytes: usize, arrived: Option<Instant>) {
        self.arrived.get_or_insert_with(|| arrived.unwrap_or_else(Instant::now));
        self.bytes += bytes;
        self.taken.push(Taken { append, first: 0 });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The position of the stream after it.
    pub(super) fn lsn(&self) -> Option<Lsn> {
        self.taken.iter().rev().find_map(|taken| taken.append.lsn)
    }

    /// Whose stream it is after it, if that changes.
    pub(super) fn take_identity(&mut self) -> Option<Box<StreamPosition>> {
        self.taken.iter_mut().rev().find_map(|taken| taken.append.identity.take())
    }

    /// Whether somebody waits until it is durable.
    pub(super) fn is_awaited(&self) -> bool {
        self.taken.iter().any(|taken| taken.append.reply.is_some())
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.taken.iter().flat_map(|taken| &taken.append.parts)
    }

    pub(super) fn take_parts(&mut self) -> impl Iterator<Item = Part> {
        self.taken.iter_mut().flat_map(|taken| std::mem::take(&mut taken.append.parts))
    }

    /// Tells everybody the number of his first event. Gives the moment at which the first of them came.
    pub(super) fn answer(self) -> Option<Instant> {
        for Taken { append, first } in self.taken {
            drop(append.permit);
            if let Some(reply) = append.reply {
                // The one who asked may be gone.
                let _ = reply.send(Ok(first));
                abort::point(Point::ShowReplied);
            }
        }
        self.arrived
    }

    /// Those who need not wait for room, taken out of it.
    fn those_who_need_not_wait(&mut self) -> Vec<oneshot::Sender<Result<u64>>> {
        let gone = self.taken.extract_if(.., |taken| taken.append.claim.is_some());
        gone.filter_map(|taken| taken.append.reply).collect()
    }
}

impl Writer {
    /// Writes all of a round at once, and gives the headers of its batches. Waits for room as long as it takes; those
    /// who need not wait are turned away and no part of it any more.
    pub(super) fn write_round(&mut self, round: &mut Round) -> Result<Vec<Header>> {
        self.add_schemas(round);
        loop {
            let headers = self.seal_round(round)?;
            if headers.is_empty() {
                return Ok(headers);
            }
            self.look_whole()?;
            match self.write_sealed(round) {
                Ok(()) => {
                    let bytes = round.parts().map(|part| part.bytes.len() as u64).sum();
                    self.active.written += bytes;
                    self.next += headers.iter().map(|header| u64::from(header.events)).sum::<u64>();
                    abort::point(Point::AppendWritten);
                    self.write_ahead_of(bytes)?;
                    self.shared.say_roomy();
                    return Ok(headers);
                }
                Err(error) if is_full(&error) => self.make_do(round)?,
                Err(error) => return Err(self.broken("write to", error)),
            }
        }
    }

    /// A segment holds every schema version that its batches name, before the first batch that does. Before all that
    /// the round has: between two parts of a transaction they would end one that a crash has cut.
    fn add_schemas(&mut self, round: &mut Round) {
        let mut builder = Builder::new();
        for id in round.parts().flat_map(|part| &part.schemas) {
            if !self.active.schemas.contains(id) {
                if let Some(json) = self.shared.registry.json(*id) {
                    builder.schema(&json);
                }
                self.active.schemas.push(*id);
            }
        }
        let parts = builder.take();
        if !parts.is_empty() {
            round.describes = true;
            let append = Append { parts, ..Append::default() };
            round.taken.insert(0, Taken { append, first: 0 });
        }
    }

    fn seal_round(&self, round: &mut Round) -> Result<Vec<Header>> {
        let (mut at, mut next) = (self.active.written, self.next);
        let mut headers = Vec::with_capacity(round.parts().count());
        for Taken { append, first } in &mut round.taken {
            *first = next;
            for part in &mut append.parts {
                let header = self.seal(&mut part.bytes, part.tail, (at, next))?;
                at += part.bytes.len() as u64;
                next += u64::from(header.events);
                headers.push(header);
            }
        }
        Ok(headers)
    }

    /// Numbers a batch that is going to stand at this offset, with this number of its first event.
    pub(super) fn seal(
        &self,
        bytes: &mut [u8],
        tail: Option<Tail>,
        (at, first): (u64, u64),
    ) -> Result<Header> {
        mark_early(bytes, self.active.synced < at);
        seal_with(bytes, first - self.active.segment.header.base, tail);
        Header::parse(bytes).ok_or_else(|| Error::failed("Built a batch that cannot be read back"))
    }

    fn write_sealed(&self, round: &Round) -> Result<(), io::Error> {
        let mut slices: Vec<_> = round.parts().map(|part| IoSlice::new(&part.bytes)).collect();
        abort::ending(Point::AppendTorn, || {
            let bytes: Vec<u8> = round.parts().flat_map(|part| part.bytes.iter().copied()).collect();
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            let _ = self.active.file.write_at(half, self.active.written);
        });
        self.active.file.write_vectored_at(&mut slices, self.active.written)
    }

    /// The disk is full. Who need not wait for room is told so at once, and what was written of the round goes again,
    /// durably, so that not even a power cut brings it back; without such people there is nothing but to wait.
    fn make_do(&mut self, round: &mut Round) -> Result<()> {
        // Cutting it to what was written would make up for an end that is cut with zeros.
        self.look_at_file()?;
        let turned_away = round.those_who_need_not_wait();
        if turned_away.is_empty() {
            // What is shown does not wait for room.
            self.sync_now()?;
            return self.wait_for_room(DISK_FULL);
        }
        self.shared.say_full(DISK_FULL);
        self.cut_to_written()?;
        self.sync_file()?;
        abort::point(Point::FullCut);
        for reply in turned_away {
            // The one who asked may be gone.
            let _ = reply.send(Err(no_room(DISK_FULL)));
        }
        Ok(())
    }
}

//! What is left after a power cut, and after a kill.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::{Change, FakeDisk, Inode, NameChange, State, apply, write};
use crate::random::Random;

const SECTOR: usize = 512;

/// How much of what was not synced stays.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stays {
    /// Everything up to some sector, also within a write, as on a disk that writes in order.
    UpTo,
    /// Each sector and name for itself, so many times of 256.
    Any(u64),
}

impl Stays {
    fn random(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::Any(0),
            1 => Self::Any(256),
            2 | 3 => Self::UpTo,
            _ => Self::Any(random.below(256)),
        }
    }
}

impl FakeDisk {
    /// The disk as it is found after the power was cut now (or when it went).
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        self.state(|state| {
            let names = names_after(state, random);
            Self::holding(names.into_iter().map(|(path, ino)| {
                let inode = &state.inodes[&ino];
                let stays = Stays::random(random);
                (path, Inode::solid(inode.after_cut(stays, random)))
            }))
        })
    }

    /// The disk as the next process finds it, which comes after the death of this one, or its machine's.
    pub(crate) fn after_death(&self, random: &mut Random) -> Self {
        if self.state(|state| state.killed) { self.after_kill() } else { self.after_power_cut(random) }
    }

    /// The disk as it is found after the process was killed: what was written is there, and still not synced.
    pub(crate) fn after_kill(&self) -> Self {
        let disk = Self::default();
        self.state(|old| {
            disk.state(|new| {
                *new = State {
                    inodes: old.inodes.clone(),
                    names: old.names.clone(),
                    durable_names: old.durable_names.clone(),
                    pending_names: old.pending_names.clone(),
                    inodes_made: old.inodes_made,
                    ..State::default()
                }
            });
        });
        disk
    }

    fn holding(files: impl Iterator<Item = (PathBuf, Inode)>) -> Self {
        let mut state = State::default();
        for (path, inode) in files {
            state.inodes_made += 1;
            state.inodes.insert(state.inodes_made, inode);
            state.names.insert(path, state.inodes_made);
        }
        state.durable_names = state.names.clone();
        let disk = Self::default();
        disk.state(|new| *new = state);
        disk
    }
}

fn names_after(state: &State, random: &mut Random) -> BTreeMap<PathBuf, u64> {
    let mut names = state.durable_names.clone();
    let stays = Stays::random(random);
    let up_to = random.index(state.pending_names.len() + 1);
    for (at, change) in state.pending_names.iter().enumerate() {
        let there = match stays {
            Stays::UpTo => at < up_to,
            Stays::Any(of_256) => random.chance(of_256),
        };
        match change {
            _ if !there => continue,
            NameChange::Link(path, ino) => drop(names.insert(path.clone(), *ino)),
            NameChange::Unlink(path) => drop(names.remove(path)),
            NameChange::Move(from, to, ino) => {
                names.remove(from);
                names.insert(to.clone(), *ino);
            }
        }
    }
    names
}

impl Inode {
    fn solid(bytes: Vec<u8>) -> Self {
        Self { live: bytes.clone(), durable: bytes, pending: Vec::new() }
    }

    fn after_cut(&self, stays: Stays, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        // Sectors that missed a write have missed all later ones.
        let mut missed = HashSet::new();
        let up_to = random.index(self.pending.len() + 1);
        for (at, pending) in self.pending.iter().enumerate() {
            let kept = match stays {
                Stays::UpTo if at < up_to => 256,
                Stays::UpTo => 0,
                Stays::Any(of_256) => of_256,
            };
            match &pending.change {
                Change::Truncate(_) if random.chance(kept) => apply(&mut bytes, &pending.change),
                Change::Truncate(_) => {}
                Change::Write { offset, bytes: new } if matches!(stays, Stays::UpTo) && at == up_to => {
                    let end = *offset + random.index(new.len() + 1);
                    let kept = (end / SECTOR * SECTOR).saturating_sub(*offset);
                    if kept > 0 {
                        write(&mut bytes, *offset, &new[..kept]);
                    }
                }
                Change::Write { offset, bytes: new } => {
                    for (place, piece) in sectors(*offset, new) {
                        let there = random.chance(kept) && !missed.contains(&(place / SECTOR));
                        if there {
                            write(&mut bytes, place, piece);
                        } else if !pending.forgotten && missed.insert(place / SECTOR) && random.chance(16) {
                            write(&mut bytes, place, &piece[..random.index(piece.len())]);
                        }
                    }
                }
            }
        }
        if bytes.len() < self.live.len() && random.chance(64) {
            bytes.resize(self.live.len(), 0);
        }
        bytes
    }
}

/// A write in pieces that do not go over the border of a sector.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = SECTOR - offset % SECTOR;
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    let rest = rest.chunks(SECTOR).enumerate().map(move |(at, piece)| (offset + first + at * SECTOR, piece));
    std::iter::once((offset, head)).filter(|(_, piece)| !piece.is_empty()).chain(rest)
}

/// Whether something of what was forgotten may still come, once what was done later is durable: what has been written
/// again is not forgotten any more, and what has been cut off is gone.
pub(super) fn outlives(old: &mut Change, later: &Change) -> bool {
    let Change::Write { offset, bytes } = old else { return false };
    match later {
        Change::Truncate(length) => {
            bytes.truncate(length.saturating_sub(*offset));
            !bytes.is_empty()
        }
        Change::Write { offset: o, bytes: b } => *o >= *offset + bytes.len() || *offset >= o + b.len(),
    }
}

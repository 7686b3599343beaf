//! What the push doors still need. Retention asks here before a segment goes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::journal::disk::Disk;
use crate::journal::reader::Gone;
use crate::journal::refusal::is_out_of_files;
use crate::journal::segment::Segment;

/// The claim of one push door.
#[derive(Debug)]
struct Hold {
    /// It has everything up to here.
    above: u64,
    /// Since when that has not moved, though there was something to move to.
    since: Instant,
    /// Nobody works on it: it is stopped or paused.
    idle: bool,
    /// What has gone although it needed it.
    lost: Option<Gone>,
    /// Where its positions are kept, once it has said so.
    kept_in: Option<PathBuf>,
    /// No power cut brings back a position below this one.
    settled: u64,
    /// The lowest position since the last sync of that directory began.
    lowest: u64,
}

impl Hold {
    fn new(above: u64) -> Self {
        let (since, kept_in) = (Instant::now(), None);
        Self { above, since, idle: false, lost: None, kept_in, settled: 0, lowest: above }
    }

    /// The door is at another place.
    fn at(&self, id: u64) -> Self {
        let kept_in = self.kept_in.clone();
        Self { kept_in, settled: self.settled.min(id), lowest: self.lowest.min(id), ..Self::new(id) }
    }

    /// A power cut may bring back a position to which what lies up to `last` is news.
    fn may_fall_below(&self, last: u64) -> bool {
        self.kept_in.is_some() && self.settled < last && self.above >= last
    }

    /// What lies up to here it does not hold, or not any more.
    fn holds_above(&self) -> u64 {
        self.lost.map_or(self.above, |lost| lost.to.max(self.above))
    }
}

/// Who stands in the way of a segment's removal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody.
    Free,
    /// Only doors that stand still, by name.
    Stalled(Vec<String>),
    /// These doors are behind and moving.
    Moving(Vec<String>),
}

/// A door that may be waited for.
pub(super) struct WorkedOn {
    pub(super) door: String,
    /// It has everything up to here.
    pub(super) above: u64,
    /// It has not moved for long.
    pub(super) still: bool,
}

/// What one door has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The range of numbers, from the first event that the door does not have.
    pub(crate) gone: Gone,
    /// Events in it that were held until now.
    pub(crate) events: u64,
    /// It was stopped or paused, and not only stalled.
    pub(crate) idle: bool,
}

/// The claims of all push doors.
#[derive(Debug)]
pub(crate) struct Holds {
    doors: Mutex<BTreeMap<String, Hold>>,
    /// A door that has not moved for this long, though it is behind, stands still.
    stalled_after: Duration,
    /// Counts losses, so that a door can wait for its own.
    losses: watch::Sender<u64>,
    /// Changes whenever a door has moved.
    moves: watch::Sender<()>,
}

impl Holds {
    /// As known from the doors' stored positions.
    pub(crate) fn new(positions: &BTreeMap<String, u64>, stalled_after: Duration) -> Self {
        let doors = positions.iter().map(|(door, id)| (door.clone(), Hold::new(*id))).collect();
        let moves = watch::Sender::new(());
        Self { doors: Mutex::new(doors), stalled_after, losses: watch::Sender::new(0), moves }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Hold>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A door has everything up to `id`.
    pub(crate) fn moved(&self, door: &str, id: u64) {
        let mut doors = self.locked();
        match doors.get_mut(door) {
            // The same again is no movement.
            Some(hold) if hold.above == id => {}
            Some(hold) => {
                let lost = hold.lost.filter(|lost| lost.to > id);
                *hold = Hold { lost, idle: hold.idle, ..hold.at(id) };
            }
            None => _ = doors.insert(door.to_owned(), Hold::new(id)),
        }
        drop(doors);
        self.moves.send_replace(());
    }

    /// A door begins anew behind `id`, as if it had never stood still.
    pub(crate) fn begin(&self, door: &str, id: u64) {
        let mut doors = self.locked();
        let hold = doors.get(door).map_or_else(|| Hold::new(id), |hold| hold.at(id));
        doors.insert(door.to_owned(), hold);
        drop(doors);
        self.moves.send_replace(());
    }

    /// A door keeps its positions in this directory, each in the place of the one before.
    pub(crate) fn kept_in(&self, door: &str, dir: &Path) {
        if let Some(hold) = self.locked().get_mut(door) {
            hold.kept_in = Some(dir.to_owned());
        }
    }

    /// Before something goes that lies at or below `last`: makes durable that the doors which have it have it. A position is
    /// stored without that, often, and a power cut may bring the one before it back, to which what has gone is lost.
    pub(super) fn settle(&self, disk: &dyn Disk, last: u64) -> io::Result<()> {
        let mut doors = self.locked();
        let doubtful = doors.values().filter(|hold| hold.may_fall_below(last));
        let dirs: BTreeSet<PathBuf> = doubtful.filter_map(|hold| hold.kept_in.clone()).collect();
        let kept_there = |hold: &&mut Hold| hold.kept_in.as_ref().is_some_and(|dir| dirs.contains(dir));
        doors.values_mut().filter(kept_there).for_each(|hold| hold.lowest = hold.above);
        drop(doors);
        if dirs.is_empty() {
            return Ok(());
        }
        // A disk may take its time: doors move on meanwhile.
        dirs.iter().try_for_each(|dir| match disk.sync_dir(dir) {
            // Where there is none, none comes back.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Whoever meets it wants to remove a segment, with which nothing is wrong.
            Err(error) if !is_out_of_files(&error) => {
                let what =
                    format!("the positions of sinks in {} cannot be made durable: {error}", dir.display());
                Err(io::Error::new(error.kind(), what))
            }
            synced => synced,
        })?;
        let mut doors = self.locked();
        doors.values_mut().filter(kept_there).for_each(|hold| hold.settled = hold.lowest);
        Ok(())
    }

    /// Watches whether doors have moved.
    pub(crate) fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    /// Up to where all of these doors have everything; `None` when nothing is known of one of them, or for none.
    pub(crate) fn reached_by(&self, names: &[String]) -> Option<u64> {
        let doors = self.locked();
        let places = names.iter().map(|name| doors.get(name).map(|hold| hold.above));
        places.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Nobody works on a door any more, until it begins anew.
    pub(crate) fn idle(&self, door: &str) {
        if let Some(hold) = self.locked().get_mut(door) {
            hold.idle = true;
        }
    }

    /// Doors that have everything up to `newest` are not standing still, they wait.
    pub(crate) fn note_newest(&self, newest: u64) {
        let now = Instant::now();
        self.locked().values_mut().filter(|hold| hold.above >= newest).for_each(|hold| hold.since = now);
    }

    /// Who needs something that lies at or below `last`.
    pub(crate) fn claim_on(&self, last: u64) -> Claim {
        let doors = self.locked();
        let holders: Vec<_> = doors.iter().filter(|(_, hold)| hold.holds_above() < last).collect();
        let names =
            |holders: Vec<(&String, &Hold)>| holders.into_iter().map(|(door, _)| door.clone()).collect();
        if holders.is_empty() {
            return Claim::Free;
        }
        if holders.iter().all(|(_, hold)| self.is_still(hold)) {
            return Claim::Stalled(names(holders));
        }
        Claim::Moving(names(holders.into_iter().filter(|(_, hold)| !self.is_still(hold)).collect()))
    }

    fn is_still(&self, hold: &Hold) -> bool {
        hold.idle || hold.since.elapsed() >= self.stalled_after
    }

    /// The doors that somebody works on, or that are among these: of them none counts as one that does not move.
    pub(super) fn worked_on(&self, or: &[String]) -> Vec<WorkedOn> {
        let doors = self.locked();
        let worked_on = doors.iter().filter(|(door, hold)| !hold.idle || or.contains(door));
        let of = |(door, hold): (&String, &Hold)| WorkedOn {
            door: door.clone(),
            above: hold.holds_above(),
            still: self.is_still(hold) && !or.contains(door),
        };
        worked_on.map(of).collect()
    }

    /// A segment goes although this door needs it; `None` when the door has come by it meanwhile.
    pub(crate) fn lose(&self, door: &str, segment: &Segment) -> Option<Loss> {
        let (first, last) = (segment.header.base, segment.last());
        let mut doors = self.locked();
        let hold = doors.get_mut(door).filter(|hold| hold.holds_above() < last)?;
        let gone = Gone { from: hold.above + 1, to: last };
        let events = (last + 1).saturating_sub(first.max(hold.holds_above() + 1));
        hold.lost = Some(gone);
        let idle = hold.idle;
        drop(doors);
        self.losses.send_modify(|count| *count += 1);
        Some(Loss { gone, events, idle })
    }

    /// Waits until a door has lost something that ends above `beyond`. Cancel safe.
    pub(crate) async fn lost(&self, door: &str, beyond: u64) -> Gone {
        let mut losses = self.losses.subscribe();
        loop {
            losses.mark_unchanged();
            let lost = self.locked().get(door).and_then(|hold| hold.lost);
            if let Some(lost) = lost.filter(|lost| lost.to > beyond) {
                return lost;
            }
            if losses.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn holds(stalled_after: Duration) -> Holds {
        Holds::new(&BTreeMap::from([("a".to_owned(), 10), ("b".to_owned(), 20)]), stalled_after)
    }

    #[test]
    fn who_moves_is_waited_for_and_who_stands_still_is_not() {
        let holds = holds(LONG);
        assert_eq!(holds.claim_on(10), Claim::Free);
        assert_eq!(holds.claim_on(20), Claim::Moving(vec!["a".into()]));
        holds.idle("a");
        assert_eq!(holds.claim_on(20), Claim::Stalled(vec!["a".into()]));
        assert_eq!(holds.claim_on(21), Claim::Moving(vec!["b".into()]), "b is in the way alone");
        holds.begin("a", 15);
        assert_eq!(holds.claim_on(16), Claim::Moving(vec!["a".into()]));
        holds.moved("a", 16);
        assert_eq!(holds.claim_on(16), Claim::Free);
    }

    #[test]
    fn telling_the_same_position_again_is_no_movement() {
        let holds = holds(Duration::ZERO);
        holds.moved("a", 10);
        assert_eq!(holds.claim_on(20), Claim::Stalled(vec!["a".into()]));
        let patience = Duration::from_secs(10);
        let patient = self::holds(patience);
        patient.locked().get_mut("a").unwrap().since -= patience;
        patient.moved("a", 10);
        patient.note_newest(20);
        assert_eq!(patient.claim_on(15), Claim::Stalled(vec!["a".into()]));
        assert_eq!(patient.claim_on(30), Claim::Moving(vec!["b".into()]), "b had nothing to move to");
    }
}

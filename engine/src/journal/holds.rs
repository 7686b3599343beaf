//! What the push doors still need. Retention asks here before a segment goes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::journal::reader::Gone;
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
}

impl Hold {
    fn new(above: u64) -> Self {
        Self { above, since: Instant::now(), idle: false, lost: None }
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
                *hold = Hold { lost, idle: hold.idle, ..Hold::new(id) };
            }
            None => _ = doors.insert(door.to_owned(), Hold::new(id)),
        }
        drop(doors);
        self.moves.send_replace(());
    }

    /// A door begins anew behind `id`, as if it had never stood still.
    pub(crate) fn begin(&self, door: &str, id: u64) {
        self.locked().insert(door.to_owned(), Hold::new(id));
        self.moves.send_replace(());
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

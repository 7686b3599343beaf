//! How push doors begin that have no position, and which of them want the rows that are there.
//!
//! A door says once, when it runs, how it began; with `start = "snapshot"` that is its wish for the rows of all captured
//! tables. The source hears the wishes of all doors together, so that one reading serves those that begin at once, and
//! remembers beside the rows which wishes it has taken up. A wish is known by its moment: a door that begins anew, since
//! its position was removed, wishes anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::cursor::Started;
use crate::event::Micros;
use crate::journal::Journal;
use crate::sink::Start;
use crate::snapshots::Shown;
use crate::status::Status;

/// Where the journal was when the doors were opened, before the source brought anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: Micros,
    pub(crate) newest: u64,
    /// The journal has never followed a source.
    pub(crate) fresh: bool,
}

#[derive(Clone, Copy, Debug)]
enum Said {
    /// Nothing yet.
    Unsaid,
    /// How it began; nothing for one whose beginning is not known any more.
    Began(Option<Started>),
}

/// One of them, as far as it has said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginner {
    moment: Moment,
    said: Said,
    /// The source has taken its wish up.
    taken_up: bool,
}

/// All push doors by name; none before they are known.
pub(crate) type Shared = Arc<Mutex<Option<BTreeMap<String, Beginner>>>>;

/// How far the rows are that are read for one door alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Filling {
    /// Tables that are not done; none before they have been listed.
    pub tables: Vec<String>,
    /// Rows of them written so far.
    pub rows: u64,
    /// Rows that they are thought to have.
    pub estimate: u64,
    /// What one of them waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Moment {
    fn now(journal: &Journal) -> Self {
        let fresh = journal.position().slot.is_empty();
        Self { at: crate::journal::writer::now(), newest: journal.newest(), fresh }
    }

    /// Where a door begins, and how.
    pub(crate) fn begin(self, start: Start, journal: &Journal) -> Started {
        let id = match start {
            Start::Snapshot if !self.fresh => self.newest,
            Start::Latest => self.newest,
            Start::Snapshot | Start::Earliest => journal.seek_earliest(),
        };
        Started { how: start, id, at: self.at }
    }
}

impl Status {
    fn beginners(&self) -> MutexGuard<'_, Option<BTreeMap<String, Beginner>>> {
        self.beginners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beginner<T>(&self, name: &str, look: impl FnOnce(&mut Beginner) -> T) -> Option<T> {
        self.beginners().as_mut()?.get_mut(name).map(look)
    }

    /// These are all push doors, and they are about to run. To be said before the source runs.
    pub fn expect_sinks<'a>(&self, names: impl Iterator<Item = &'a String>, journal: &Journal) {
        let beginner = Beginner { moment: Moment::now(journal), said: Said::Unsaid, taken_up: false };
        *self.beginners() = Some(names.map(|name| (name.clone(), beginner)).collect());
    }

    /// The moment at which a door began to be expected.
    pub(crate) fn moment_of(&self, name: &str, journal: &Journal) -> Moment {
        self.beginner(name, |beginner| beginner.moment).unwrap_or_else(|| Moment::now(journal))
    }

    /// A door says how it began.
    pub fn sink_began(&self, name: &str, started: Option<Started>) {
        self.beginner(name, |beginner| beginner.said = Said::Began(started));
    }

    /// A door has ended. If it has said nothing, it has no wishes.
    pub fn sink_ended(&self, name: &str) {
        self.beginner(name, |beginner| {
            if matches!(beginner.said, Said::Unsaid) {
                beginner.said = Said::Began(None);
            }
        });
    }

    /// For the source: the push doors by name, each with how it began, if that was with a wish for the rows that are there.
    /// `None` while one has not said it.
    pub fn wishes(&self) -> Option<BTreeMap<String, Option<Started>>> {
        let wish = |(name, beginner): (&String, &Beginner)| match beginner.said {
            Said::Unsaid => None,
            Said::Began(started) => Some((name.clone(), started.filter(|began| began.wish().is_some()))),
        };
        self.beginners().iter().flatten().map(wish).collect()
    }

    /// For the source: whether it is known which push doors there are.
    pub fn knows_sinks(&self) -> bool {
        self.beginners().is_some()
    }

    /// For the source: the wish of a door has been taken up; what is not read yet stands among the snapshots.
    pub fn note_taken_up(&self, name: &str) {
        self.beginner(name, |beginner| beginner.taken_up = true);
    }

    /// How far the rows are that are read for a door alone; `None` when none are, or all have been read.
    pub fn filling(&self, name: &str) -> Option<Filling> {
        let waiting = |beginner: &mut Beginner| {
            let wishes = matches!(beginner.said, Said::Began(Some(started)) if started.wish().is_some());
            wishes && !beginner.taken_up
        };
        let waits = self.beginner(name, waiting) == Some(true);
        let of_it = |shown: &Shown| shown.sinks.iter().any(|sink| sink == name);
        let left: Vec<Shown> = self.unfinished_snapshots().into_iter().filter(of_it).collect();
        (waits || !left.is_empty()).then(|| Filling {
            rows: left.iter().map(|shown| shown.rows).sum(),
            estimate: left.iter().map(|shown| shown.estimate).sum(),
            reason: left.iter().find_map(|shown| shown.reason.clone()),
            tables: left.into_iter().map(|shown| shown.channel).collect(),
        })
    }
}

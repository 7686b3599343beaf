//! Why a history does not go on, for programs and for people.

use std::fmt;

use rowcast_engine::Error;
use rowcast_engine::journal::Broken;

use crate::setup::installation::ADOPT;

/// What readers are told as a gap's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The slot is gone, lost, or another one is named: the server does not send any more what comes next.
    SourceLost,
    /// The server's history is another one below the journal's position: it was restored from a backup.
    SourceRestored,
    /// The server was promoted from before the journal's position.
    Timeline,
    /// It is another database cluster.
    AnotherCluster,
    /// The slot was made anew.
    SlotRecreated,
    /// The slot stands beyond the journal's position.
    JournalBehind,
    /// The journal is empty, and its slot is not.
    JournalLost,
    /// The slot belongs to another installation.
    TakenOver,
}

/// All of them, by name.
pub(super) const REASONS: [Reason; 8] = [
    Reason::SourceLost,
    Reason::SourceRestored,
    Reason::Timeline,
    Reason::AnotherCluster,
    Reason::SlotRecreated,
    Reason::JournalBehind,
    Reason::JournalLost,
    Reason::TakenOver,
];

/// Has the gaps counted from zero on: who is told of an increase misses the first of a series that begins with it.
pub(super) fn count_gaps() {
    for reason in REASONS {
        metrics::counter!("rowcast_source_gaps_total", "reason" => reason.name()).increment(0);
    }
}

impl Reason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SourceLost => "source_lost",
            Self::SourceRestored => "source_restored",
            Self::Timeline => "timeline",
            Self::AnotherCluster => "another_cluster",
            Self::SlotRecreated => "slot_recreated",
            Self::JournalBehind => "journal_behind",
            Self::JournalLost => "journal_lost",
            Self::TakenOver => "taken_over",
        }
    }
}

/// A history that does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Break {
    /// A [`Reason`] by its name.
    pub(super) reason: String,
    /// With the positions.
    pub(super) detail: String,
    /// The slot is somebody else's.
    pub(super) foreign: bool,
    /// The slot is there, and what it sends is not what was to come: it has to be made anew.
    pub(super) renew: bool,
    /// The server may look sound again later although it is not: it has to be remembered.
    pub(super) lasting: bool,
    /// What mends the cause, beside adopting.
    pub(super) remedy: Option<String>,
}

impl Break {
    pub(super) fn new(reason: Reason, detail: String) -> Self {
        let lasting = reason == Reason::SourceRestored;
        let reason = reason.name().to_owned();
        Self { reason, detail, foreign: false, renew: false, lasting, remedy: None }
    }

    /// One that was remembered.
    pub(super) fn again(broken: &Broken) -> Self {
        let lost = broken.reason == Reason::SourceLost.name();
        let (reason, detail) = (broken.reason.clone(), broken.detail.clone());
        Self { reason, detail, foreign: false, renew: lost, lasting: true, remedy: None }
    }

    /// The server was to send what no publication names any more.
    pub(super) fn unpublished(name: &str) -> Self {
        let detail = format!(
            "The publication {name} was dropped while the stream needed it: changes since then are not sent, also \
             when it is made again"
        );
        Self { renew: true, lasting: true, ..Self::new(Reason::SourceLost, detail) }
    }

    /// Somebody wants another publication, which does not exist yet: the slot cannot show it what came before.
    pub(super) fn another_publication(name: &str) -> Self {
        let detail = format!("The stream is to read another publication, {name}, which is made now");
        Self { renew: true, ..Self::new(Reason::SourceLost, detail) }
    }

    /// As the error that stops capture.
    pub(super) fn error(self) -> Error {
        let hint = self.remedy.as_ref().map_or_else(|| ADOPT.to_owned(), |first| format!("{first}. {ADOPT}"));
        Error::refused("The history does not go on").because(self).hint(hint)
    }

    /// The break that an error is, if it is one.
    pub(super) fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Break {}

//! Why a history does not go on, for programs and for people.

use std::fmt;

use rowcast_engine::Error;

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

impl Reason {
    fn name(self) -> &'static str {
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
}

impl Break {
    pub(super) fn new(reason: Reason, detail: String) -> Self {
        Self { reason: reason.name().to_owned(), detail, foreign: false }
    }

    /// As the error that stops capture.
    pub(super) fn error(self) -> Error {
        Error::refused("The history does not go on").because(self).hint(ADOPT)
    }

    /// The break that an error is, if it is one.
    pub(super) fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// Whether the server may look sound again later although it is not: then it has to be remembered.
    pub(super) fn is_fleeting(&self) -> bool {
        self.reason == Reason::SourceRestored.name()
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Break {}

//! One error for the whole house: what was being done, what happened, and what to do next.

use std::error::Error as StdError;
use std::fmt;

/// Shorthand for results of the house.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller has to do about an error. The program's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wrong arguments or configuration (exit code 2).
    Usage,
    /// The source refuses, and asking again will not help: rights, wal_level, slot (exit code 3 before the
    /// first success).
    Refused,
    /// May pass by itself: a lost connection, a server starting up, a broker away. Retried with back-off.
    Transient,
    /// The journal refuses: damaged file, failed sync, second process (exit code 4).
    Journal,
    /// Anything else (exit code 1).
    Failed,
}

/// What the journal waited for when it was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// On the disk.
    Room,
    /// Fewer open ones.
    Files,
}

/// An error that a person can act on. `Display` is the whole chain on one line, without the hint.
pub struct Error {
    kind: Kind,
    what: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<String>,
    /// What was being done may have been done all the same.
    open: bool,
    /// It is no failure: the journal was told to end while it waited for this.
    awaited: Option<Awaited>,
}

impl Error {
    /// `what` says what was being done and what happened, capital first letter, no full stop at the end.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), cause: None, hint: None, open: false, awaited: None }
    }

    /// Wrong arguments or configuration.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// The source refuses for good.
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what)
    }

    /// May pass by itself.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Kind::Transient, what)
    }

    /// The journal refuses.
    pub fn journal(what: impl Into<String>) -> Self {
        Self::new(Kind::Journal, what)
    }

    /// Anything else.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    /// Attaches the cause; its text must not be in `what` already.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What to do next: the SQL, the flag, the command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What was being done may have been done all the same: whoever does it again may have it twice.
    #[must_use]
    pub fn or_done(mut self) -> Self {
        self.open = true;
        self
    }

    /// Whether what was being done may have been done all the same.
    pub fn may_be_done(&self) -> bool {
        self.open
    }

    /// It is no failure: the journal was told to end while it waited for this.
    #[must_use]
    pub(crate) fn while_waiting(mut self, awaited: Awaited) -> Self {
        self.awaited = Some(awaited);
        self
    }

    /// What the journal waited for when it was told to end, if that is what happened.
    pub(crate) fn awaited(&self) -> Option<Awaited> {
        self.awaited
    }

    /// What the caller has to do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The remedy, if one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause = self.cause.as_deref().map(|c| c as &dyn StdError);
        while let Some(c) = cause {
            write!(f, ": {c}")?;
            // Our own Display has printed the rest of its chain.
            cause = if c.is::<Error>() { None } else { c.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|c| c as _)
    }
}

//! A full disk, or a full journal: who waits for room, and who is turned away.
//!
//! Capture waits, be it on the writer's thread or in a huge transaction's own file: what it holds comes again from
//! nowhere else. Who publishes is turned away, so that a program can do something else meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::counter;

use crate::error::{Awaited, Error, Kind, Result};
use crate::journal::refusal::{FEWER_FILES, is_out_of_files};
use crate::journal::rolling::is_full;
use crate::journal::{Shared, State, retention};

/// How long to wait before trying again on a full disk.
pub(super) const FULL_RETRY: Duration = Duration::from_millis(500);

/// The right to decide on an append: the writer takes it before it writes, the one who asked before he goes away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether it was still there to take.
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Set when the one who asked for a write has gone: nobody waits for room on his behalf.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sets it when dropped.
    pub(crate) fn on_drop(&self) -> AbandonOnDrop {
        AbandonOnDrop(self.clone())
    }
}

/// See [`Abandoned::on_drop`].
#[derive(Debug)]
pub(crate) struct AbandonOnDrop(Abandoned);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// A huge transaction that waits for room beside the writer; the state is `Full` for as long as it is there.
#[derive(Debug)]
pub(crate) struct SpillWaits<'a>(&'a Shared);

impl<'a> SpillWaits<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        shared.spills_waiting.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for SpillWaits<'_> {
    fn drop(&mut self) {
        // The writer's next tick says that there is room again, if it finds some.
        self.0.spills_waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What capture waits for where no file can be opened.
pub(crate) const OUT_OF_FILES: &str =
    "too many files are open (raise ulimit -n, or lower http.max_connections)";

impl Shared {
    /// Says that capture pauses for want of room on the disk.
    pub(crate) fn say_full(&self, what: &str) {
        let dir = self.options.dir.display();
        self.say_paused("disk", &format!("{what} ({dir})"), "Make room on its file system");
    }

    /// Says that capture pauses, and for what; in the log once, unless everything has ended.
    pub(crate) fn say_paused(&self, reason: &'static str, what: &str, hint: &str) {
        let mut news = false;
        self.state.send_if_modified(|state| {
            news = *state == State::Open;
            let full = State::Full(what.to_owned());
            let other = *state != full && !matches!(state, State::Failed(_));
            if other {
                *state = full;
            }
            other
        });
        if news {
            tracing::warn!(hint, "Capture pauses, readers are served: {what}");
            counter!("rowcast_journal_pauses_total", "reason" => reason).increment(1);
        }
    }

    /// After a failed write or sync nothing more is taken: what the kernel holds is not known. Nor is it by one that was
    /// told to end while it waited for room, which is no failure.
    pub(crate) fn say_failed(&self, error: &Error) {
        match error.awaited() {
            Some(Awaited::Room) => {
                tracing::info!(
                    "The journal ends without room; what it has not taken of the source comes again"
                );
            }
            Some(Awaited::Files) => {
                tracing::info!(
                    "The journal ends while too many files are open; what it has not taken of the source comes again"
                );
            }
            None => {
                tracing::error!(%error, hint = error.remedy(), "The journal takes no more events until rowcast is started again");
            }
        }
        self.state.send_replace(State::Failed(error.to_string()));
    }

    /// Says that there is no room, makes some if it may, and waits a little. For the writer alone: it has a thread of
    /// its own and nothing else to do.
    pub(crate) fn wait_for_room(&self, what: &str) -> Result<()> {
        self.say_full(what);
        if self.closing.load(Ordering::Acquire) {
            let stopped = Error::journal("Stopped while waiting for room on the disk");
            return Err(stopped.while_waiting(Awaited::Room));
        }
        retention::apply(self);
        self.disk.pause(FULL_RETRY);
        Ok(())
    }

    /// The same where too many files are open.
    pub(crate) fn wait_for_files(&self) -> Result<()> {
        self.say_paused("files", OUT_OF_FILES, FEWER_FILES);
        if self.closing.load(Ordering::Acquire) {
            let stopped = Error::journal("Stopped while too many files were open");
            return Err(stopped.while_waiting(Awaited::Files));
        }
        self.disk.pause(FULL_RETRY);
        Ok(())
    }

    /// Waits a little where that helps: for room, or until others have closed files. `what`: what there is no room for.
    pub(crate) fn waits_out(&self, error: &io::Error, what: &str) -> Result<bool> {
        let waited = if is_full(error) {
            self.wait_for_room(what)
        } else if is_out_of_files(error) {
            self.wait_for_files()
        } else {
            return Ok(false);
        };
        waited.map(|()| true)
    }

    /// Says that capture goes on, unless a huge transaction still waits.
    pub(crate) fn say_roomy(&self) {
        let files = match &*self.state.borrow() {
            State::Full(what) if self.spills_waiting.load(Ordering::Acquire) == 0 => what == OUT_OF_FILES,
            _ => return,
        };
        if files {
            tracing::info!("Files can be opened again: capture goes on");
        } else {
            tracing::info!("There is room again: capture goes on");
        }
        self.state.send_replace(State::Open);
    }

    /// Turns away who can come again, when nothing can be taken.
    pub(crate) fn refuse_unless_open(&self) -> Result<()> {
        match &*self.state.borrow() {
            State::Open => Ok(()),
            State::Full(detail) => Err(no_room(detail)),
            State::Failed(detail) => Err(takes_none(detail).hint("Restart rowcast, and look at its log")),
        }
    }
}

/// Told to those who publish.
pub(crate) fn no_room(detail: &str) -> Error {
    takes_none(detail)
        .hint("Nothing was stored: try again in a while; `rowcast status` says whether it still waits")
}

/// Told to those whose events were being written when the writer ended.
pub(super) fn may_be_stored() -> Error {
    Error::journal("Whether it was stored is not known: the journal ended while it was being written")
        .hint("Restart rowcast, and look at its log; then look whether it is there before you send it again")
        .or_done()
}

fn takes_none(detail: &str) -> Error {
    Error::new(Kind::Transient, format!("The journal takes no events now: {detail}"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::journal::disk::RealDisk;
    use crate::journal::{Options, open};

    /// What the log has of an error by which the journal ends.
    fn said(shared: &Shared, error: &Error) -> String {
        let log = shared.options.dir.join("log");
        let writer = File::create(&log).unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, || shared.say_failed(error));
        assert_eq!(*shared.state.borrow(), State::Failed(error.to_string()));
        fs::read_to_string(log).unwrap()
    }

    #[tokio::test]
    async fn who_is_told_to_end_while_he_waits_has_not_failed() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap();
        let shared = &journal.shared;
        shared.closing.store(true, Ordering::Release);
        let without_room = shared.wait_for_room("there is none").unwrap_err();
        let told = said(shared, &without_room);
        assert!(told.contains(" INFO ") && told.contains("The journal ends without room"), "{told}");
        let without_files = shared.wait_for_files().unwrap_err();
        let told = said(shared, &without_files);
        assert!(told.contains(" INFO ") && told.contains("ends while too many files are open"), "{told}");
        // A failure in whatever words is one.
        for text in [without_room.to_string(), without_files.to_string(), "Cannot write".to_owned()] {
            let told = said(shared, &Error::journal(text));
            assert!(told.contains("ERROR") && told.contains("takes no more events"), "{told}");
        }
    }
}

//! Orders about tables that are being read.

use std::time::Duration;

use rowcast_engine::journal::State;
use rowcast_engine::snapshots::Command;
use rowcast_engine::{Error, Result};
use tokio::time::{Instant, timeout_at};

use super::Desk;
use crate::tables::Tables;

/// So long an order waits for readers whose rows are on their way: less than who gives it waits for an answer.
const QUIET_PATIENCE: Duration = Duration::from_secs(5);

impl Desk {
    /// Waits until nobody reads what is about to be changed: a chunk on its way brings its job as it was.
    ///
    /// # Errors
    ///
    /// When that takes too long. What was told to stop does so when it can, and goes on.
    pub(super) async fn quiet(&mut self, command: &Command) -> Result<()> {
        let (Command::Pause(patterns) | Command::Cancel(patterns)) = command else { return Ok(()) };
        let wanted = Tables::parse(patterns, &[])?;
        let jobs = self.jobs()?.tables;
        for (note, _) in jobs.iter().filter(|(_, job)| wanted.matches(&job.schema, &job.table)) {
            self.stops.remove(note).is_some().then(|| self.stopping.insert(note.clone()));
        }
        let deadline = Instant::now() + QUIET_PATIENCE;
        while !self.stopping.is_empty() {
            match timeout_at(deadline, self.reading.join_next()).await {
                Ok(Some(Ok((note, ended)))) => self.ended(&note, ended),
                Ok(Some(Err(_))) => {}
                Ok(None) => break,
                Err(_) => return Err(self.unquiet()),
            }
        }
        Ok(())
    }

    fn unquiet(&self) -> Error {
        let what = format!("Rows on their way have not arrived after {} s", QUIET_PATIENCE.as_secs());
        let error = Error::transient("The snapshot is not changed");
        match &*self.around.journal.state().borrow() {
            State::Full(detail) => {
                error.because(format!("{what}: {detail}")).hint("Make room, then say it again")
            }
            _ => error
                .because(what)
                .hint("Say it again; `rowcast status` says whether the stream stands still"),
        }
    }
}

//! Whether the catalog shows what a transaction has done.
//!
//! The server sends a transaction when it is in the log. Others see it microseconds later, or when the synchronous standby
//! has it that its commit waits for; until then it holds its locks.

use tokio::time::timeout;

use super::{CANNOT_READ, Catalog, READ_TIMEOUT};
use crate::setup::synchronous::COMMITS_WAIT;
use crate::snapshot::visible::{Commit, Visible};
use crate::wire::sql_error;
use rowcast_engine::{Error, Result};

/// Whether transactions are visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Yes,
    No,
    /// Their commits may wait for the reader of this slot.
    NotBeforeUs,
}

/// A standby sends nothing that it has not applied.
const SNAPSHOT: &str = "case when not pg_is_in_recovery() then pg_current_snapshot()::text end";

impl Catalog {
    /// Whether all of these are visible to whoever looks from now on. No table's lock is waited for.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked; the next call connects anew.
    pub(crate) async fn sees(&mut self, slot: &str, commits: &[Commit]) -> Result<Seen> {
        let session = self.take_session().await?;
        let sql = format!("select {SNAPSHOT}, {COMMITS_WAIT}");
        let row = timeout(READ_TIMEOUT, session.0.query_one(&sql, &[&slot])).await;
        let row = row.map_err(|_| too_long())?.map_err(|error| sql_error(CANNOT_READ, error))?;
        self.session = Some(session);
        let Some(text) = row.get::<_, Option<&str>>(0) else { return Ok(Seen::Yes) };
        let visible: Visible =
            text.parse().map_err(|_| Error::failed("The server's snapshot cannot be understood"))?;
        Ok(match (commits.iter().all(|commit| visible.sees(*commit)), row.get(1)) {
            (true, _) => Seen::Yes,
            (false, false) => Seen::No,
            (false, true) => Seen::NotBeforeUs,
        })
    }
}

pub(super) fn too_long() -> Error {
    Error::transient(format!("Reading the catalog took longer than {} s", READ_TIMEOUT.as_secs()))
}

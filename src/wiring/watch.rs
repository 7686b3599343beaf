//! Says in the log when the journal has failed. That it waits for room, and why, it says itself.

use rowcast_engine::journal::{Journal, State};
use tokio::task::JoinHandle;

/// Starts watching.
pub(crate) fn spawn(journal: Journal) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut state = journal.state();
        // An error means that the journal has been closed in order.
        if let Ok(failed) = state.wait_for(|state| matches!(state, State::Failed(_))).await
            && let State::Failed(detail) = &*failed
        {
            tracing::error!(
                hint = "Look after the disk, then restart rowcast",
                "The journal has failed and takes nothing more, readers are served: {detail}"
            );
        }
    })
}

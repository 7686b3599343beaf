//! Says in the log when the journal stops taking events, and when it takes them again.

use rowcast_engine::journal::{Journal, State};
use tokio::task::JoinHandle;

/// Starts watching.
pub(crate) fn spawn(journal: Journal) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut state = journal.state();
        let mut full = false;
        loop {
            let now = state.borrow_and_update().clone();
            match &now {
                State::Open if full => tracing::info!("The journal has room again, capture goes on"),
                State::Open => {}
                State::Full(detail) => tracing::warn!(
                    hint = "Make room on its file system, or lower journal.retention or journal.max_size",
                    "The journal waits for room, capture pauses, readers are served: {detail}"
                ),
                State::Failed(detail) => tracing::error!(
                    hint = "Look after the disk, then restart rowcast",
                    "The journal has failed and takes nothing more, readers are served: {detail}"
                ),
            }
            full = matches!(now, State::Full(_));
            if state.changed().await.is_err() {
                break;
            }
        }
    })
}

//! What capture waits for before it streams: told for as long as it lasts.

use std::future::Future;
use std::time::Duration;

use rowcast_engine::adoption::WAITING;
use rowcast_engine::status::Status;
use tokio::time::{Instant, sleep};

/// A step takes moments; after so long somebody may wonder.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Does it. For how long it may wait is decided where the waiting is done: at the login, at each answer.
pub(super) async fn during<T>(status: &Status, what: &str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut said = None;
    status.source(|source| said = source.reason.clone());
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(TOLD_AFTER) => {}
        }
        let text = format!("{what}: {} s so far", start.elapsed().as_secs());
        status.source(|source| {
            // Whoever waits for a person, or for room, or says better what is in the way, is left alone.
            if !matches!(source.state, WAITING | "paused") && source.reason == said {
                said = Some(text);
                source.reason.clone_from(&said);
            }
        });
    }
}

//! Waiting for things, and chance that can be run again.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Long enough for whatever should happen at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Asks again until the closure answers `Ok`; panics with its last `Err` after the deadline.
///
/// `what` ends the sentence "Waited … for".
pub(crate) async fn wait_for<T, F>(what: &str, deadline: Duration, mut ask: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let (start, mut last) = (Instant::now(), false);
    loop {
        let answer = match tokio::time::timeout(deadline, ask()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(answer)) => answer,
            Err(_) => String::from("the question itself hangs"),
        };
        // When the machine itself has stood still it is asked once more.
        assert!(!last, "Waited {deadline:?} for {what}; the last answer: {answer}");
        last = start.elapsed() >= deadline;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Gives up on a future after [`SOON`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("Waited {SOON:?} for {what}"),
    }
}

/// A source of chance whose seed is printed; `ROWCAST_TEST_SEED` runs the same again.
pub(crate) fn random(test: &str) -> StdRng {
    let seed = match std::env::var("ROWCAST_TEST_SEED") {
        Ok(seed) => seed.parse().expect("ROWCAST_TEST_SEED is a number"),
        Err(_) => rand::random::<u64>(),
    };
    println!("{test}: run again with ROWCAST_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

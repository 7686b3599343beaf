//! Runs seeds, a fixed number of them or for a time, and says which one failed.
//!
//! `ROWCAST_SEED=7` runs one again, `ROWCAST_FUZZ_SECONDS=600` runs new ones for so long; `make fuzz` does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// One seed takes a fraction of a second; this long on a busy machine means that somebody waits for ever.
const STUCK: Duration = Duration::from_secs(120);

/// What a seed did, or what was wrong.
pub(crate) type Outcome = Result<u64, String>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs the seeds from 0 on, or what the environment says. Each does `least` steps on an average: lives that end early
/// would show nothing.
pub(crate) fn run(seeds: u64, least: u64, one: fn(u64) -> Outcome) {
    if let Some(seed) = number("ROWCAST_SEED") {
        one(seed).unwrap_or_else(|failure| panic!("{failure}"));
    } else if let Some(seconds) = number("ROWCAST_FUZZ_SECONDS") {
        let (started, budget) = (Instant::now(), Duration::from_secs(seconds));
        let first = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() * 1_000_000;
        run_all(first, one, move |_| started.elapsed() < budget);
    } else {
        let steps = run_all(0, one, move |at| at < seeds);
        assert!(steps >= seeds * least, "{steps} steps in {seeds} seeds");
    }
}

/// The text of a panic, with what was done before it.
pub(crate) fn guard<T>(
    seed: u64,
    work: impl FnOnce() -> T,
    log: impl FnOnce() -> String,
) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("{}\nseed {seed}: {}\nagain with ROWCAST_SEED={seed}", log(), text.unwrap_or_default())
    })
}

/// On two threads, until `more` says that it is enough. Gives how many steps that were.
fn run_all(first: u64, one: fn(u64) -> Outcome, more: impl Fn(u64) -> bool + Send + Sync + 'static) -> u64 {
    let (next, more) = (Arc::new(AtomicU64::new(0)), Arc::new(more));
    let (send, results) = mpsc::sync_channel(16);
    for _ in 0..2 {
        let (next, more, send) = (Arc::clone(&next), Arc::clone(&more), send.clone());
        std::thread::spawn(move || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let told = more(at) && send.send((first + at, None)).is_ok();
                // Nobody listens any more when another seed has failed.
                if !told || send.send((first + at, Some(one(first + at)))).is_err() {
                    return;
                }
            }
        });
    }
    drop(send);
    let (mut seeds, mut steps, mut under_way) = (0, 0, Vec::new());
    loop {
        match results.recv_timeout(STUCK) {
            Ok((seed, None)) => under_way.push(seed),
            Ok((seed, Some(result))) => {
                under_way.retain(|other| *other != seed);
                steps += result.unwrap_or_else(|failure| panic!("{failure}"));
                seeds += 1;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("stuck in the seeds {under_way:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    println!("{seeds} seeds from {first} on, {steps} steps");
    steps
}

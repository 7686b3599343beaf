//! A thousand readers at the end, by the feed as the HTTP door uses it: each a task that waits for what comes next.
//!
//! The limit is a bare `tokio::sync::watch` with as many tasks waiting on it: to wake them is the least that can be
//! done. Beside it: what a commit takes while they are there, the writer's side of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowcast_engine::feed::{Feed, Filter, Framing, Next, Pattern, Subscription, ViewKey};
use rowcast_engine::record::Builder;
use rowcast_engine::stop;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use crate::paired::{Report, Rounds};
use crate::rows::Stream;

const READERS: usize = 1000;
const COMMITS: usize = 10;
const ROUNDS: usize = 60;

/// Counts who has been reached.
#[derive(Debug, Default)]
struct Reached {
    count: AtomicUsize,
    all: Notify,
}

impl Reached {
    fn one(&self) {
        if self.count.fetch_add(1, Ordering::AcqRel) + 1 == READERS {
            self.all.notify_one();
        }
    }

    async fn all(&self) {
        self.all.notified().await;
        self.count.store(0, Ordering::Release);
    }
}

pub(crate) fn run(dir: &Path, report: &mut Report) {
    let runtime = crate::runtime();
    let (_stopper, stop) = stop();
    let mut crowd = runtime.block_on(Place::open(&dir.join("crowd")));
    let mut alone = runtime.block_on(Place::open(&dir.join("alone")));
    let reached = Arc::new(Reached::default());
    let feed = runtime.block_on(async { Feed::new(crowd.stream.journal().clone(), stop) });
    for _ in 0..READERS {
        let filter = Filter::new(vec![Pattern::All], &[]);
        let key = ViewKey { filter, framing: Framing::Sse, options: Default::default() };
        let subscription = feed.subscribe(key, crowd.stream.journal().newest());
        runtime.spawn(read(subscription, Arc::clone(&reached)));
    }
    let bare = Bare::new(&runtime);
    let (mut woken, mut commits) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        let mut commit = Duration::ZERO;
        let everybody = || {
            let (all, mine) = runtime.block_on(crowd.commits(Some(&reached)));
            commit = mine;
            all
        };
        woken.round(everybody, || runtime.block_on(bare.wake()));
        commits.round(|| commit, || runtime.block_on(alone.commits(None)).1);
    }
    let count = (COMMITS * READERS) as f64;
    report.add("1,000 readers: commit to all", "1,000 tasks on a watch", woken, "readers", count);
    report.add("commit, 1,000 readers there", "commit, nobody there", commits, "commits", COMMITS as f64);
    runtime.block_on(crowd.stream.journal().close());
    runtime.block_on(alone.stream.journal().close());
}

async fn read(mut subscription: Subscription, reached: Arc<Reached>) {
    while let Ok(next @ (Next::Events(_) | Next::Schema(_))) = subscription.next().await {
        if let Next::Events(events) = next {
            // The door hands the shared bytes to its connection.
            std::hint::black_box(events.bytes());
            reached.one();
        }
    }
}

struct Place {
    stream: Stream,
}

impl Place {
    async fn open(dir: &Path) -> Self {
        Self { stream: crate::stream(dir, 1).await }
    }

    /// Commits of one row: how long until everybody has them, and how long until they are durable.
    async fn commits(&mut self, reached: Option<&Reached>) -> (Duration, Duration) {
        let (mut all, mut durable) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..COMMITS {
            let parts = self.stream.group(&mut Builder::new(), 1);
            let started = Instant::now();
            self.stream.append(parts, self.stream.lsn).await;
            durable += started.elapsed();
            if let Some(reached) = reached {
                reached.all().await;
                all += started.elapsed();
            }
        }
        (all, durable)
    }
}

/// Tasks that do nothing but wake.
struct Bare {
    number: watch::Sender<u64>,
    reached: Arc<Reached>,
}

impl Bare {
    fn new(runtime: &Runtime) -> Self {
        let (number, reached) = (watch::Sender::new(0), Arc::new(Reached::default()));
        for _ in 0..READERS {
            let (mut number, reached) = (number.subscribe(), Arc::clone(&reached));
            runtime.spawn(async move {
                while number.changed().await.is_ok() {
                    number.borrow_and_update();
                    reached.one();
                }
            });
        }
        Self { number, reached }
    }

    async fn wake(&self) -> Duration {
        let started = Instant::now();
        for _ in 0..COMMITS {
            self.number.send_modify(|number| *number += 1);
            self.reached.all().await;
        }
        started.elapsed()
    }
}

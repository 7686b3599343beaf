//! A subscription with a clock: what a client of an endless stream is told next.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use rowcast_engine::Result;
use rowcast_engine::feed::{Events, Next, Subscription};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::opening::Gap;

/// After this much silence a reader is told its position, also when everything was filtered away. Below the 60 s
/// after which nginx and load balancers cut idle connections, with room for two lost ones.
const SILENCE: Duration = Duration::from_secs(15);

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Events.
    Events(Events),
    /// A schema version, before its first event.
    Schema(Bytes),
    /// Retention has overtaken the reader.
    Gap(Gap),
    /// All that was there at the start has been given out.
    Synced(u64),
    /// Nothing for this reader up to here.
    Position(u64),
}

/// A place in the feed, and when it was last heard of.
#[derive(Debug)]
pub(crate) struct Reader {
    subscription: Subscription,
    /// The newest number at the start, until it is passed.
    replay_until: Option<u64>,
    last: Instant,
    /// Set anew only when it fires, not at each event.
    silence: Pin<Box<Sleep>>,
}

impl Reader {
    /// A reader whose replay ends at `newest`.
    pub(crate) fn new(subscription: Subscription, newest: u64) -> Self {
        let last = Instant::now();
        let silence = Box::pin(sleep_until(last + SILENCE));
        Self { subscription, replay_until: Some(newest), last, silence }
    }

    /// All up to this number has been given out or filtered away.
    pub(crate) fn position(&self) -> u64 {
        self.subscription.position()
    }

    /// Waits for what comes next. Cancel safe.
    pub(crate) async fn step(&mut self) -> Result<Step> {
        loop {
            if self.replay_until.is_some_and(|until| self.position() >= until) {
                return Ok(self.synced());
            }
            let replaying = self.replay_until.is_some();
            tokio::select! {
                biased;
                next = read(&mut self.subscription, replaying) => {
                    self.last = Instant::now();
                    return Ok(match next? {
                        Some(next) => next.into(),
                        None => self.synced(),
                    });
                }
                () = self.silence.as_mut() => {
                    let now = Instant::now();
                    if now >= self.last + SILENCE {
                        self.last = now;
                        self.silence.as_mut().reset(now + SILENCE);
                        return self.after_silence().await;
                    }
                    let due = self.last + SILENCE;
                    self.silence.as_mut().reset(due);
                }
            }
        }
    }

    /// What comes next, if it is there already.
    pub(crate) async fn at_once(&mut self) -> Result<Option<Step>> {
        Ok(self.subscription.try_next().await?.map(Step::from))
    }

    fn synced(&mut self) -> Step {
        self.replay_until = None;
        Step::Synced(self.position())
    }

    /// Looks how far the view has been evaluated without a match; behind a long stretch of other people's events
    /// it says how far it has come.
    async fn after_silence(&mut self) -> Result<Step> {
        const LOOK: Duration = Duration::from_millis(100);
        let look = tokio::time::timeout(LOOK, self.subscription.try_next()).await;
        Ok(match look {
            Ok(next) => next?.map_or_else(|| Step::Position(self.position()), Step::from),
            Err(_) => Step::Position(self.position()),
        })
    }
}

/// While there is something to replay, its end is told too.
async fn read(subscription: &mut Subscription, replaying: bool) -> Result<Option<Next>> {
    if replaying { subscription.try_next().await } else { subscription.next().await.map(Some) }
}

impl From<Next> for Step {
    fn from(next: Next) -> Self {
        match next {
            Next::Events(events) => Self::Events(events),
            Next::Schema(record) => Self::Schema(record),
            Next::Gap(gone) => Self::Gap(Gap { from: gone.from, to: gone.to, reason: "retention" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rowcast_engine::feed::{Feed, Filter, Framing, From, Pattern, ViewKey};
    use rowcast_engine::format::NativeOptions;
    use rowcast_engine::journal::disk::RealDisk;
    use rowcast_engine::journal::{Journal, Options, open};
    use rowcast_engine::stop;

    use super::*;

    fn reader(feed: &Feed, position: u64) -> Reader {
        let filter = Filter::new(vec![Pattern::Exact("a".to_owned())], &[]);
        let key = ViewKey { filter, framing: Framing::Ndjson, options: NativeOptions::default() };
        Reader::new(feed.subscribe(key, position), feed.journal().newest())
    }

    async fn publish(journal: &Journal, channel: &str) -> u64 {
        journal.publish(&[(channel, b"null")], 0).await.expect("an id")
    }

    /// With the clock paused, timers fire as soon as nothing else happens; also while the journal writes.
    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_the_position_past_what_was_filtered_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = Options::new(dir.path());
        options.min_free = 0;
        let journal = open(options, Arc::new(RealDisk)).expect("a journal");
        let (_stopper, stop) = stop();
        let feed = Feed::new(journal.clone(), stop);
        publish(&journal, "b").await;
        let start = feed.start(From::Earliest, &Filter::new(vec![Pattern::All], &[])).await.expect("a start");
        let mut reader = reader(&feed, start.position);
        let old = journal.newest();
        assert!(matches!(reader.step().await, Ok(Step::Synced(position)) if position == old));

        let new = publish(&journal, "b").await;
        let last = reader.last;
        assert!(matches!(reader.step().await, Ok(Step::Position(position)) if position == new));
        assert!(last.elapsed() >= SILENCE);

        let event = publish(&journal, "a").await;
        let Ok(Step::Events(events)) = reader.step().await else { panic!("no event") };
        assert_eq!(events.frames().first().map(|frame| frame.id), Some(event));
        let last = reader.last;
        assert!(matches!(reader.step().await, Ok(Step::Position(position)) if position == event));
        assert!(last.elapsed() >= SILENCE);
        assert_eq!(reader.position(), event);
    }
}

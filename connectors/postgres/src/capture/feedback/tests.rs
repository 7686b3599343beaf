//! What the server is told, and when: one by one, and whatever comes in whatever order.

use proptest::prelude::*;

use super::*;

fn feedback(timeout: u64) -> (watch::Sender<Lsn>, Feedback) {
    let (sender, receiver) = watch::channel(Lsn(10));
    (sender, Feedback::new(receiver, Lsn(5), Lsn(10), Duration::from_secs(timeout)))
}

#[test]
fn keeps_well_within_the_servers_patience() {
    assert_eq!(feedback(60).1.status_every, STATUS_EVERY);
    assert_eq!(feedback(5).1.status_every, Duration::from_secs(3));
    assert_eq!(feedback(5).1.silence, Duration::from_secs(10));
    assert_eq!(feedback(5).1.probe_after(), Duration::from_millis(2_500));
    assert_eq!(feedback(5).1.unusual(), Duration::from_secs(5));
    for timeout in [0, 60, 61, 120] {
        assert_eq!(feedback(timeout).1.silence, SILENCE_MAX, "{timeout}");
    }
    // It may be silent for half of that.
    assert_eq!(feedback(3600).1.silence, Duration::from_secs(1860));
    assert_eq!(feedback(3600).1.status_every, STATUS_EVERY);
}

#[test]
fn knows_when_the_server_waits() {
    let (sender, mut feedback) = feedback(60);
    assert!(!feedback.keepalive(Lsn(20), false));
    assert!(!feedback.keepalive(Lsn(10), true));
    assert!(feedback.keepalive(Lsn(20), true));
    assert_eq!(feedback.received, Lsn(20));
    sender.send_replace(Lsn(20));
    assert!(!feedback.keepalive(Lsn(20), true));
}

#[test]
fn tells_nothing_before_it_is_sure_of_the_server() {
    let (sender, mut feedback) = feedback(60);
    sender.send_replace(Lsn(20));
    assert_eq!(feedback.told(), Lsn(5));
    feedback.release(false);
    assert_eq!(feedback.told(), Lsn(5));
    feedback.release(true);
    assert_eq!((feedback.told(), feedback.asked), (Lsn(20), true));
}

#[tokio::test]
async fn wakes_when_the_disk_is_done() {
    let (sender, mut feedback) = feedback(0);
    feedback.release(true);
    feedback.submitted(Lsn(20));
    sender.send_replace(Lsn(20));
    let woken = tokio::time::timeout(Duration::from_secs(5), feedback.wake(None)).await;
    assert!(woken.is_ok());
}

/// What the server has confirmed at the start, and where the journal stands.
const CONFIRMED: u64 = 5;
const POSITION: u64 = 10;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A message that ends so far behind the one before.
    Data(u64),
    /// A keepalive so far behind the last message; with a wish for an answer.
    Keepalive(u64, bool),
    /// So much more is durable.
    Durable(u64),
    /// The history is known to be the journal's.
    Release,
    /// Somebody wants to know how far the server has sent.
    Ask,
    /// Nothing for so many milliseconds.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..50_u64).prop_map(Step::Data),
        2 => (0..50_u64, any::<bool>()).prop_map(|(ahead, reply)| Step::Keepalive(ahead, reply)),
        4 => (0..60_u64).prop_map(Step::Durable),
        1 => Just(Step::Release),
        1 => Just(Step::Ask),
        6 => (1..4000_u64).prop_map(Step::Pass),
    ]
}

struct World {
    feedback: Feedback,
    durable: watch::Sender<Lsn>,
    now: Instant,
    timeout: Duration,
    released: bool,
    last: Told,
    last_at: Instant,
    /// Since when something is durable that could be told.
    behind_since: Option<Instant>,
    gone: bool,
}

impl World {
    fn new(timeout: u64) -> Self {
        let (durable, receiver) = watch::channel(Lsn(POSITION));
        let timeout = Duration::from_secs(timeout);
        let feedback = Feedback::new(receiver, Lsn(CONFIRMED), Lsn(POSITION), timeout);
        let now = feedback.sent;
        let last = Told { write: Lsn::ZERO, flush: Lsn(CONFIRMED), probe: false };
        let (last_at, behind_since) = (now, None);
        Self { feedback, durable, now, timeout, released: false, last, last_at, behind_since, gone: false }
    }

    /// As the session does, whenever it wakes.
    fn keep_up(&mut self) {
        let durable = *self.durable.borrow();
        match self.feedback.due(self.now) {
            Err(_) => {
                let silent = self.now - self.feedback.heard;
                assert!(silent >= self.feedback.silence && self.feedback.probed, "silent for {silent:?}");
                self.gone = true;
            }
            Ok(Some(told)) => {
                assert!(told.flush <= durable, "{told:?} of {durable}");
                assert!(self.released || told.flush <= Lsn(CONFIRMED), "{told:?} before it is sure");
                assert!(told.flush >= self.last.flush && told.write >= self.last.write, "{told:?}");
                assert!(told.write >= told.flush, "{told:?}");
                self.feedback.confirmed = told.flush;
                (self.last, self.last_at, self.behind_since) = (told, self.now, None);
            }
            Ok(None) => {
                let waits = self.feedback.awaited.is_some_and(|awaited| self.feedback.told() >= awaited);
                assert!(!self.feedback.asked && !waits, "the server waits for an answer");
            }
        }
        if !self.gone && self.feedback.told() > self.last.flush {
            self.behind_since.get_or_insert(self.now);
        }
        self.in_time();
    }

    fn in_time(&self) {
        let since = self.now - self.last_at;
        let share = self.timeout * TIMEOUT_SHARE / 100;
        assert!(
            since <= STATUS_EVERY && (self.timeout.is_zero() || since <= share),
            "{since:?} without a status"
        );
        if let Some(behind) = self.behind_since {
            assert!(self.now - behind <= CONFIRM_EVERY, "durable, and not told");
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        let until = self.now + Duration::from_millis(milliseconds);
        while !self.gone && self.feedback.wakes_at() <= until {
            let wakes_at = self.feedback.wakes_at();
            self.now = self.now.max(wakes_at);
            self.keep_up();
            assert!(self.gone || self.feedback.wakes_at() > self.now, "it would wake for nothing, for ever");
        }
        self.now = until;
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Data(length) => {
                let end = Lsn(self.feedback.received.0 + length);
                (self.feedback.heard, self.feedback.probed) = (self.now, false);
                self.feedback.data(end);
                self.feedback.submitted(end);
            }
            Step::Keepalive(ahead, reply) => {
                (self.feedback.heard, self.feedback.probed) = (self.now, false);
                self.feedback.keepalive(Lsn(self.feedback.received.0 + ahead), reply);
            }
            // No more than was taken in.
            Step::Durable(more) => {
                let end = self.feedback.received.max(Lsn(POSITION));
                self.durable.send_modify(|durable| *durable = Lsn(durable.0 + more).min(end).max(*durable));
            }
            Step::Release => {
                self.feedback.release(true);
                self.released = true;
            }
            Step::Ask => self.feedback.ask(),
            Step::Pass(milliseconds) => return self.pass(milliseconds),
        }
        self.keep_up();
    }
}

proptest! {
    #[test]
    fn what_is_told_is_true_and_in_time(
        timeout in prop_oneof![Just(0_u64), 1..120_u64],
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(timeout);
        world.keep_up();
        for step in steps {
            world.take(step);
            if world.gone {
                break;
            }
        }
    }
}

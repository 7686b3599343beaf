//! Whether an answer is due, and how long nothing has come of it: a server, or whatever stands between, that takes
//! everything and says nothing must not be waited for without an end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Messages that are answered with a ReadyForQuery each: a simple query, the Sync behind extended ones, a function call.
/// (One that comes while COPY FROM STDIN is open is not; nothing here does that.)
const ASKING: &[u8] = b"QSF";

/// ReadyForQuery.
const READY: &[u8] = b"Z";

/// Since when nothing has come of an answer that is due, for whoever can judge what that means. While it is others who
/// do not take what has come, nothing is waited for.
#[derive(Clone, Debug, Default)]
pub struct Quiet(Arc<Mutex<Silence>>);

#[derive(Debug, Default)]
struct Silence {
    since: Option<Instant>,
    due: bool,
}

impl Quiet {
    /// `None`: no answer is due, or it is coming.
    pub fn since(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since
    }

    /// Whether an answer is due, or the rest of one.
    pub fn is_due(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).due
    }

    fn set(&self, waits: bool, due: bool) {
        let mut silence = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = silence.since.or_else(|| Some(Instant::now()));
        (silence.since, silence.due) = (since.filter(|_| waits && due), due);
    }
}

/// The clock of one session.
#[derive(Default)]
pub(super) struct Answer {
    /// `None`: it may take any time.
    limit: Option<Duration>,
    quiet: Quiet,
    /// Set while one is due.
    late: Option<Pin<Box<Sleep>>>,
    /// How many are due: the next question is often sent before the end of the answer before it has come.
    due: u64,
    /// Something could not be sent, since nobody takes it.
    blocked: bool,
    sent: Messages,
    came: Messages,
}

impl Answer {
    pub(super) fn within(limit: Duration) -> Self {
        Self { limit: Some(limit), ..Self::default() }
    }

    /// Nobody is late; how long it has been quiet is told.
    pub(super) fn unlimited(quiet: Quiet) -> Self {
        Self { quiet, ..Self::default() }
    }

    /// So much of this was sent.
    pub(super) fn asked(&mut self, bytes: &[u8], sent: usize, cx: &mut Context<'_>) {
        self.due += self.sent.ended(&bytes[..sent], ASKING);
        self.blocked = sent < bytes.len();
        self.quiet.set(true, self.is_due());
        self.wind();
        // Nobody reads before something comes: the clock itself has to wake.
        if let Some(late) = &mut self.late {
            let _ = late.as_mut().poll(cx);
        }
    }

    /// These bytes came.
    pub(super) fn came(&mut self, bytes: &[u8]) {
        self.due = self.due.saturating_sub(self.came.ended(bytes, READY));
        self.quiet.set(false, self.is_due());
        self.wind();
    }

    /// Nothing comes: fails when that has been so for too long.
    pub(super) fn nothing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.quiet.set(true, self.is_due());
        let (Some(clock), Some(limit)) = (&mut self.late, self.limit) else { return Poll::Pending };
        clock.as_mut().poll(cx).map(|()| Err(late(limit)))
    }

    fn is_due(&self) -> bool {
        self.due > 0 || self.blocked
    }

    fn wind(&mut self) {
        let Some(limit) = self.limit.filter(|_| self.is_due()) else {
            self.late = None;
            return;
        };
        let at = Instant::now() + limit;
        match &mut self.late {
            Some(late) => late.as_mut().reset(at),
            None => self.late = Some(Box::pin(sleep_until(at))),
        }
    }
}

/// Where the messages of one direction begin and end: a tag, a length that counts its own four bytes, and the rest.
#[derive(Default)]
struct Messages {
    header: [u8; 5],
    /// Of the header.
    seen: usize,
    /// Of the rest, to come.
    left: usize,
}

impl Messages {
    /// How many messages with one of these tags end in the bytes that follow.
    fn ended(&mut self, mut bytes: &[u8], tags: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            let whole = self.header.len();
            let head = bytes.len().min(whole - self.seen);
            self.header[self.seen..][..head].copy_from_slice(&bytes[..head]);
            self.seen += head;
            bytes = &bytes[head..];
            if head > 0 && self.seen == whole {
                let [_, length @ ..] = self.header;
                self.left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
            }
            let rest = bytes.len().min(self.left);
            self.left -= rest;
            bytes = &bytes[rest..];
            if self.seen == whole && self.left == 0 {
                count += u64::from(tags.contains(&self.header[0]));
                self.seen = 0;
            }
        }
        count
    }
}

/// The end of such waiting.
pub(super) fn late(limit: Duration) -> io::Error {
    let text = format!(
        "the server has not answered for {} s (twelve times connect_timeout, 40 s at least)",
        limit.as_secs()
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);
    const SYNC: &[u8] = b"S\0\0\0\x04";
    const IDLE: &[u8] = b"Z\0\0\0\x05I";

    async fn ask(answer: &mut Answer, bytes: &[u8], sent: usize) {
        poll_fn(|cx| {
            answer.asked(bytes, sent, cx);
            Poll::Ready(())
        })
        .await;
    }

    async fn asked() -> Answer {
        let mut answer = Answer::within(LIMIT);
        ask(&mut answer, SYNC, SYNC.len()).await;
        answer
    }

    /// Whether it is still waited for then.
    async fn waits(answer: &mut Answer, share: f64) -> bool {
        let waiting = poll_fn(|cx| answer.nothing(cx));
        tokio::time::timeout(LIMIT.mul_f64(share), waiting).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_given_up() {
        let mut answer = asked().await;
        assert!(waits(&mut answer, 0.5).await);
        assert!(!waits(&mut answer, 5.0).await);
        // As long as something comes it goes on.
        let mut answer = asked().await;
        for _ in 0..5 {
            assert!(waits(&mut answer, 0.5).await);
            answer.came(b"D\0\0\0\x05.");
        }
        assert!(!waits(&mut answer, 5.0).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_whole_is_waited_for_no_more() {
        for cut in 0..=IDLE.len() {
            let mut answer = asked().await;
            let message = [b"C\0\0\0\x0dSELECT 1\0", IDLE].concat();
            let (first, rest) = message.split_at(message.len() - IDLE.len() + cut);
            answer.came(first);
            answer.came(rest);
            assert!(waits(&mut answer, 1.5).await, "cut at {cut}");
            answer.came(b"N\0\0\0\x05\0");
            assert!(waits(&mut answer, 1.5).await, "what comes unasked is no answer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_answer_is_not_that_of_the_next() {
        let mut answer = asked().await;
        let query = b"Q\0\0\0\x0dselect 1\0";
        ask(&mut answer, query, query.len()).await;
        answer.came(IDLE);
        assert!(!waits(&mut answer, 5.0).await);
        // Nor is a value that looks like one.
        let mut answer = asked().await;
        answer.came(&[b"D\0\0\0\x0a", IDLE].concat());
        assert!(!waits(&mut answer, 5.0).await);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_while_nothing_comes_of_what_is_due() {
        let quiet = Quiet::default();
        let mut answer = Answer::unlimited(quiet.clone());
        assert!(waits(&mut answer, 0.1).await);
        assert_eq!(quiet.since(), None, "nothing is due");
        ask(&mut answer, SYNC, SYNC.len()).await;
        let since = quiet.since();
        assert!(since.is_some());
        assert!(waits(&mut answer, 0.1).await);
        assert_eq!(quiet.since(), since, "it goes on");
        answer.came(b"D\0\0\0\x05.");
        assert_eq!(quiet.since(), None, "who does not read on has not waited for more");
        assert!(quiet.is_due(), "and has not got all");
        assert!(waits(&mut answer, 0.1).await);
        assert!(quiet.since() > since, "the rest is due");
        answer.came(IDLE);
        assert!(waits(&mut answer, 0.1).await);
        assert!(quiet.since().is_none() && !quiet.is_due(), "all has come");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_given_up() {
        let mut answer = Answer::within(LIMIT);
        ask(&mut answer, SYNC, 2).await;
        assert!(!waits(&mut answer, 5.0).await);
        // The rest of it makes one question.
        let mut answer = Answer::within(LIMIT);
        ask(&mut answer, SYNC, 2).await;
        ask(&mut answer, &SYNC[2..], 3).await;
        answer.came(IDLE);
        assert!(waits(&mut answer, 1.5).await);
    }
}

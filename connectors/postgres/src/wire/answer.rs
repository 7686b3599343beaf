//! Whether an answer is due, and how long nothing has come of it: a server, or whatever stands between, that takes
//! everything and says nothing must not be waited for without an end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// ReadyForQuery, but for its last byte, which says whether a transaction is open: the end of an answer.
const READY: &[u8] = b"Z\0\0\0\x05";

/// The clock of one session.
pub(super) struct Answer {
    limit: Duration,
    /// Set while one is due.
    late: Option<Pin<Box<Sleep>>>,
    /// The newest bytes.
    tail: Vec<u8>,
}

impl Answer {
    pub(super) fn within(limit: Duration) -> Self {
        Self { limit, late: None, tail: Vec::new() }
    }

    /// Something has been asked.
    pub(super) fn asked(&mut self, cx: &mut Context<'_>) {
        self.wind();
        // Nobody reads before something comes: the clock itself has to wake.
        if let Some(late) = &mut self.late {
            let _ = late.as_mut().poll(cx);
        }
    }

    /// These bytes came.
    pub(super) fn came(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(READY.len() + 1)..];
        self.tail.extend_from_slice(kept);
        let more = self.tail.len().saturating_sub(READY.len() + 1);
        self.tail.drain(..more);
        if self.tail.starts_with(READY) {
            self.late = None;
        } else if self.late.is_some() {
            self.wind();
        }
    }

    /// Nothing comes: fails when that has been so for too long.
    pub(super) fn nothing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(clock) = &mut self.late else { return Poll::Pending };
        clock.as_mut().poll(cx).map(|()| Err(late(self.limit)))
    }

    fn wind(&mut self) {
        let at = Instant::now() + self.limit;
        match &mut self.late {
            Some(late) => late.as_mut().reset(at),
            None => self.late = Some(Box::pin(sleep_until(at))),
        }
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

    async fn asked() -> Answer {
        let mut answer = Answer::within(LIMIT);
        poll_fn(|cx| {
            answer.asked(cx);
            Poll::Ready(())
        })
        .await;
        answer
    }

    /// Whether it is still waited for then.
    async fn waits(answer: &mut Answer, share: f64) -> bool {
        let waiting = poll_fn(|cx| answer.nothing(cx));
        tokio::time::timeout(LIMIT.mul_f64(share), waiting).await.is_err()
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_given_up() {
        let mut answer = asked().await;
        assert!(waits(&mut answer, 0.5).await);
        assert!(!waits(&mut answer, 5.0).await);
        // As long as something comes it goes on.
        let mut answer = asked().await;
        for _ in 0..5 {
            assert!(waits(&mut answer, 0.5).await);
            answer.came(b"D\0\0\0");
        }
        assert!(!waits(&mut answer, 5.0).await);
    }

    #[tokio::test]
    async fn one_that_is_whole_is_waited_for_no_more() {
        for cut in 0..=READY.len() {
            let mut answer = asked().await;
            let message = [b"C\0\0\0\x0dSELECT 1\0", READY, b"I"].concat();
            let (first, rest) = message.split_at(message.len() - READY.len() - 1 + cut);
            answer.came(first);
            answer.came(rest);
            assert!(waits(&mut answer, 1.5).await, "cut at {cut}");
            answer.came(b"N\0\0\0\x05\0");
            assert!(waits(&mut answer, 1.5).await, "what comes unasked is no answer");
        }
    }
}

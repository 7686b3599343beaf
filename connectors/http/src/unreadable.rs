//! A journal that cannot be read at some place: every client that comes there ends, and comes again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rowcast_engine::Error;

/// What one client has told of it is not told by each of a thousand that come again and again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// When what was told last.
#[derive(Debug, Default)]
pub(crate) struct Unreadable(Mutex<Option<(Instant, String)>>);

impl Unreadable {
    /// Says in the log that a client ends because of it.
    pub(crate) fn tell(&self, error: &Error) {
        if self.is_news(error.to_string(), Instant::now()) {
            tracing::error!(%error, hint = error.remedy(), "Clients that come to a place of the journal end, since it cannot be read");
        }
    }

    fn is_news(&self, error: String, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |(at, before): &(Instant, String)| *before == error && now - *at < TELL_EVERY;
        if told.as_ref().is_some_and(is_known) {
            return false;
        }
        *told = Some((now, error));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_minute() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        let news =
            |error: &str, seconds| unreadable.is_news(error.to_owned(), now + Duration::from_secs(seconds));
        assert_eq!(
            [news("a", 0), news("a", 59), news("b", 59), news("b", 118), news("b", 119)],
            [true, false, true, false, true]
        );
    }
}

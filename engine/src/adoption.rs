//! The word of a person that a history that broke may go on behind a gap: given at a door, heard by the source.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use crate::error::{Error, Result};
use crate::status::Status;

/// What the state of a source is called that waits for that word.
pub const WAITING: &str = "waiting";

/// What an adoption did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adopted {
    /// Number of the gap that every reader is told.
    pub gap: u64,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people, and where the history goes on.
    pub detail: String,
}

/// Somebody who waits to hear what became of an adoption; dropped, it was not done.
#[derive(Debug)]
pub struct Asked(oneshot::Sender<Result<Option<Adopted>>>);

impl Asked {
    /// Tells it. `None`: there was nothing to adopt any more.
    pub fn answer(self, outcome: Result<Option<Adopted>>) {
        // The one who asked may be gone.
        let _ = self.0.send(outcome);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// At most one at a time.
    asked: Mutex<Option<Asked>>,
    came: Notify,
    last: Mutex<Option<Adopted>>,
}

impl Status {
    /// Lets a source that waits go on, and waits until the gap is recorded. `None`: there is nothing to adopt, because
    /// changes are captured.
    ///
    /// # Errors
    ///
    /// `Kind::Refused` when the source is in another state, or when it could not be done; with the reason.
    pub async fn adopt(&self) -> Result<Option<Adopted>> {
        let (sender, answer) = oneshot::channel();
        let mut refused = None;
        let mut nothing = false;
        // Under the lock of the state: a source that stops waiting finds it, or it is refused.
        self.source(|source| match source.state {
            WAITING => {
                let mut asked = self.adoption.asked.lock().unwrap_or_else(PoisonError::into_inner);
                if asked.as_ref().is_some_and(|asked| !asked.0.is_closed()) {
                    refused = Some(Error::refused("An adoption is under way already"));
                } else {
                    *asked = Some(Asked(sender));
                }
            }
            "streaming" => nothing = true,
            state => {
                let why = source.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
                let what = format!("The source does not wait for an adoption, it is {state}{why}");
                refused = Some(Error::refused(what).hint("`rowcast status` shows when it waits for one"));
            }
        });
        if let Some(error) = refused {
            return Err(error);
        }
        if nothing {
            return Ok(None);
        }
        self.adoption.came.notify_one();
        answer.await.unwrap_or_else(|_| Err(Error::refused("The source has stopped meanwhile")))
    }

    /// For the source: waits until somebody asks. Cancel safe.
    pub async fn asked_to_adopt(&self) -> Asked {
        loop {
            let came = self.adoption.came.notified();
            let asked = self.adoption.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(asked) = asked {
                return asked;
            }
            came.await;
        }
    }

    /// For the source: it does not wait any more. Gives who has asked since it last looked.
    pub fn end_waiting(&self, state: &'static str) -> Option<Asked> {
        self.source(|source| {
            source.state = state;
            source.reason = None;
        });
        self.adoption.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For the source: an adoption is done.
    pub fn note_adopted(&self, adopted: Adopted) {
        *self.adoption.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(adopted);
    }

    /// The newest adoption since the start.
    pub fn adopted(&self) -> Option<Adopted> {
        self.adoption.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) type Shared = Arc<Adoption>;

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(gap: u64) -> Adopted {
        Adopted { gap, reason: "timeline".to_owned(), detail: String::new() }
    }

    #[tokio::test]
    async fn asked_and_answered() {
        let status = Status::default();
        assert!(status.adopt().await.is_err());
        status.source(|source| source.state = "streaming");
        assert_eq!(status.adopt().await.unwrap(), None);
        status.source(|source| source.state = WAITING);
        let source = async {
            status.asked_to_adopt().await.answer(Ok(Some(gap(7))));
        };
        let (told, ()) = tokio::join!(status.adopt(), source);
        assert_eq!(told.unwrap(), Some(gap(7)));
    }

    #[tokio::test]
    async fn a_word_does_not_outlive_the_waiting() {
        let status = Status::default();
        status.source(|source| source.state = WAITING);
        let source = async {
            tokio::task::yield_now().await;
            assert!(status.adopt().await.unwrap_err().to_string().contains("under way"));
            status.end_waiting("streaming").unwrap().answer(Ok(None));
        };
        let (told, ()) = tokio::join!(status.adopt(), source);
        assert_eq!(told.unwrap(), None);
        assert!(status.end_waiting("streaming").is_none());
    }
}

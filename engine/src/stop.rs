//! The stop signal: given once, seen by everybody who holds a copy.

use tokio::sync::watch;

/// Gives the signal.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Sees the signal. Clones see the same one.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A fresh signal.
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells everybody to stop. Dropping the stopper tells it too.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether the signal has been given.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for the signal.
    pub async fn stopped(&self) {
        let mut receiver = self.0.clone();
        // An error means that the stopper is gone, which says the same.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}

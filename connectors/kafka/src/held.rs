//! A client of librdkafka, which ends on a thread of its own.
//!
//! Its end joins its threads, and one of those may be in the look-up of a broker's name for as long as that takes. On a
//! thread of the runtime that would hold up all that runs there, and the end of the program on one for what blocks.

use std::convert::Infallible;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rowcast_engine::{Error, Result};
use tokio::sync::watch;
use tokio::time::timeout;

/// A client ends within some tenths of a second, and up to 2 s later where it is being asked something, unless one of its
/// threads hangs. Behind the last round of a pause, or of the program, whoever waits for that has not given up yet.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(3);

/// A client. Dropping it waits for nothing.
#[derive(Debug)]
pub(crate) struct Held<T> {
    // Goes before the word to the thread, which so has the last hold of it.
    client: Arc<T>,
    _word: SyncSender<Infallible>,
    gone: Gone,
}

/// Tells when a client has ended: then it sends nothing more.
#[derive(Clone, Debug)]
pub(crate) struct Gone(watch::Receiver<()>);

impl<T: Send + Sync + 'static> Held<T> {
    /// Starts the thread; fails where there can be no more of them.
    pub(crate) fn new(client: T) -> io::Result<Self> {
        let client = Arc::new(client);
        let (word, dropped) = sync_channel::<Infallible>(0);
        let (ended, gone) = watch::channel(());
        let kept = Arc::clone(&client);
        thread::Builder::new().name("kafka-end".into()).spawn(move || {
            // Nothing is ever said, so this is its end.
            let _ = dropped.recv();
            drop(kept);
            drop(ended);
        })?;
        Ok(Self { client, _word: word, gone: Gone(gone) })
    }

    /// Tells of its end.
    pub(crate) fn gone(&self) -> Gone {
        self.gone.clone()
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

impl Gone {
    /// Whether the client has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// Waits until the client has ended, within the limit.
    pub(crate) async fn in_time(&mut self) -> Result<()> {
        // Nothing is ever said, so an answer is the end, too.
        let ended = async { while self.0.changed().await.is_ok() {} };
        timeout(END_TIMEOUT, ended).await.map_err(|_| {
            let seconds = END_TIMEOUT.as_secs();
            Error::transient(format!("The last client of Kafka's has not ended within {seconds} s")).hint(
                "A broker's name that takes long to resolve holds it up: look at the name server. Ending rowcast ends it.",
            )
        })
    }
}

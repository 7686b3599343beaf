//! Waiting for the answer to a command that went through a queue.

use tokio::sync::{mpsc, oneshot};

/// Waits for the answer of whoever reads the queue; `None` when it has ended without one. Cancel safe.
///
/// The answer alone is not enough: a sender that had its slot when the reader went away may still fill it after the
/// queue was emptied, and then the command, with the way back in it, stays there for as long as there are senders.
pub async fn answered<T, C>(queue: &mpsc::Sender<C>, mut answer: oneshot::Receiver<T>) -> Option<T> {
    tokio::select! {
        biased;
        told = &mut answer => told.ok(),
        // It may have answered before it ended.
        () = queue.closed() => answer.try_recv().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_nobody_will_read_is_not_waited_for() {
        let (queue, commands) = mpsc::channel::<oneshot::Sender<u8>>(1);
        let slot = queue.reserve().await.unwrap();
        drop(commands);
        let (reply, answer) = oneshot::channel();
        slot.send(reply);
        assert_eq!(answered(&queue, answer).await, None);
    }

    #[tokio::test]
    async fn an_answer_given_before_the_end_is_heard() {
        let (queue, mut commands) = mpsc::channel(1);
        let (reply, answer) = oneshot::channel();
        queue.send(reply).await.unwrap();
        commands.recv().await.unwrap().send(7).unwrap();
        drop(commands);
        assert_eq!(answered(&queue, answer).await, Some(7));
    }
}

//! What librdkafka tells, from its own threads, and how the door waits for it.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use tokio::sync::Notify;

use crate::partition::ByKey;

/// A record that Kafka did not take.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The event's number.
    pub(crate) id: u64,
    /// Where it was to go.
    pub(crate) topic: String,
    /// Key and value, in bytes.
    pub(crate) size: usize,
    /// Why not.
    pub(crate) code: RDKafkaErrorCode,
}

/// What librdkafka last said was wrong.
#[derive(Clone, Debug)]
pub(crate) struct Complaint {
    /// The sort of it.
    pub(crate) code: RDKafkaErrorCode,
    /// For people; names the broker.
    pub(crate) reason: String,
}

/// The producer has failed: nothing more is delivered by it. [`Context::failure`] may know why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// What is known of one producer.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Records on their way.
    outstanding: AtomicUsize,
    /// Records that Kafka has.
    acknowledged: AtomicU64,
    /// Those of them that have not been counted in public yet, and the bytes of their keys and values.
    untold: (AtomicU64, AtomicU64),
    failed: AtomicBool,
    /// It has failed since it had lost Kafka.
    lost: AtomicBool,
    failure: Mutex<Option<Failure>>,
    complaint: Mutex<Option<Complaint>>,
    /// Somebody waits until no more than this many are on their way.
    wake_at: AtomicUsize,
    wake: Notify,
    /// A connection has failed: somebody should see whether Kafka still answers.
    pub(crate) doubt: Notify,
    /// Kafka has answered, or there is nothing to wait for any more.
    answered: Notify,
    pub(crate) partitioner: ByKey,
}

impl Context {
    /// Counts a record before it is sent.
    pub(crate) fn sending(&self) {
        self.outstanding.fetch_add(1, SeqCst);
    }

    /// Takes back one that was not.
    pub(crate) fn not_sent(&self) {
        self.outstanding.fetch_sub(1, SeqCst);
    }

    /// Records on their way.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(SeqCst)
    }

    /// Records that Kafka has.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    /// Records that Kafka has, and the bytes of their keys and values, since this was asked last.
    pub(crate) fn newly_acknowledged(&self) -> (u64, u64) {
        (self.untold.0.swap(0, SeqCst), self.untold.1.swap(0, SeqCst))
    }

    fn acknowledge(&self, bytes: usize) {
        self.acknowledged.fetch_add(1, SeqCst);
        self.untold.0.fetch_add(1, SeqCst);
        self.untold.1.fetch_add(bytes as u64, SeqCst);
    }

    /// Whether the producer is of no use any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// The record that explains the failure best.
    pub(crate) fn failure(&self) -> Option<Failure> {
        locked(&self.failure).clone()
    }

    /// What librdkafka last complained of, since things were last well.
    pub(crate) fn complaint(&self) -> Option<Complaint> {
        locked(&self.complaint).clone()
    }

    /// Notes that things are well.
    pub(crate) fn forget_complaint(&self) {
        *locked(&self.complaint) = None;
    }

    /// Waits until no more than `limit` records are on their way. One waiter at a time.
    pub(crate) async fn drained_to(&self, limit: usize) -> Result<(), Failed> {
        self.wake_at.store(limit, SeqCst);
        loop {
            // A wake-up between the look and the wait is kept. Counted before it is seen whether one was refused: who
            // reports that counts it as arrived only afterwards.
            let left = self.outstanding();
            if self.has_failed() {
                return Err(Failed);
            }
            if left <= limit {
                return Ok(());
            }
            self.wake.notified().await;
        }
    }

    /// Waits until Kafka has answered.
    pub(crate) async fn answered(&self) -> Result<(), Failed> {
        self.answered.notified().await;
        if self.has_failed() { Err(Failed) } else { Ok(()) }
    }

    /// Notes that Kafka has answered.
    pub(crate) fn note_answer(&self) {
        self.answered.notify_one();
    }

    /// Gives the producer up: it finds Kafka no more.
    pub(crate) fn give_up(&self) {
        self.lost.store(true, SeqCst);
        self.fail(None);
    }

    /// Whether it was given up.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(SeqCst)
    }

    /// Waits until nothing is on its way, delivered or not.
    pub(crate) async fn settled(&self) {
        self.wake_at.store(0, SeqCst);
        while self.outstanding() > 0 {
            self.wake.notified().await;
        }
    }

    /// Has whoever reports a failure hang, until what this gives is dropped.
    #[cfg(test)]
    pub(crate) fn hang(self: std::sync::Arc<Self>) -> std::sync::mpsc::SyncSender<()> {
        let (word, dropped) = std::sync::mpsc::sync_channel(0);
        let (tell, held) = std::sync::mpsc::sync_channel(0);
        std::thread::spawn(move || {
            let _failure = locked(&self.failure);
            tell.send(()).unwrap();
            // A test that hangs, too, fails in the end.
            let _ = dropped.recv_timeout(std::time::Duration::from_secs(20));
        });
        held.recv().unwrap();
        word
    }

    /// A record is on its way no more, and it is noted what became of it.
    fn back(&self) {
        let left = self.outstanding.fetch_sub(1, SeqCst) - 1;
        if left <= self.wake_at.load(SeqCst) {
            self.wake.notify_one();
        }
    }

    fn fail(&self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            let mut known = locked(&self.failure);
            if known.as_ref().is_none_or(|known| explains_better(&failure, known)) {
                *known = Some(failure);
            }
        }
        self.failed.store(true, SeqCst);
        self.wake.notify_one();
        self.answered.notify_one();
    }
}

/// Requests are refused whole, and what waits behind is thrown away: the first failure with a reason of its own says
/// why, or, where a request was too large, the largest record in it.
fn explains_better(failure: &Failure, known: &Failure) -> bool {
    let too_large = RDKafkaErrorCode::MessageSizeTooLarge;
    follows(known.code) && !follows(failure.code)
        || known.code == too_large && failure.code == too_large && failure.size > known.size
}

/// Whether a record failed since something else had before.
pub(crate) fn follows(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::PurgeQueue | Code::PurgeInflight | Code::Fatal | Code::GaplessGuarantee)
}

impl ProducerContext<ByKey> for Context {
    /// The event's number.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        match result {
            Ok(record) => self.acknowledge(record.key_len() + record.payload_len()),
            Err((error, record)) => self.fail(error.rdkafka_error_code().map(|code| Failure {
                id: id as u64,
                topic: record.topic().to_owned(),
                size: record.key_len() + record.payload_len(),
                code,
            })),
        }
        self.back();
    }

    fn get_custom_partitioner(&self) -> Option<&ByKey> {
        Some(&self.partitioner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka's client reports an error");
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        // That all brokers are down says less than the errors of the single ones before it.
        if code != RDKafkaErrorCode::AllBrokersDown {
            *locked(&self.complaint) = Some(Complaint { code, reason: plain(reason).to_owned() });
        }
        if code == RDKafkaErrorCode::Fatal {
            self.fail(None);
        }
        self.doubt.notify_one();
    }
}

/// Leaves telling to the door.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka's client reports an error");
    }
}

/// The reason without librdkafka's notes on its own state.
fn plain(reason: &str) -> &str {
    reason.split_once(" (after ").map_or(reason, |(reason, _)| reason)
}

/// librdkafka repeats itself for as long as a broker is away; what a person needs is told by the door.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "{message}");
        }
        _ => tracing::debug!(facility, "{message}"),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Poll, Waker};

    use super::*;

    fn failure(id: u64, size: usize, code: RDKafkaErrorCode) -> Failure {
        Failure { id, topic: "t".to_owned(), size, code }
    }

    #[test]
    fn the_record_that_explains_the_failure_is_kept() {
        let context = Context::default();
        context.fail(Some(failure(1, 10, RDKafkaErrorCode::PurgeQueue)));
        context.fail(Some(failure(2, 10, RDKafkaErrorCode::MessageSizeTooLarge)));
        context.fail(Some(failure(3, 999, RDKafkaErrorCode::MessageSizeTooLarge)));
        context.fail(Some(failure(4, 20, RDKafkaErrorCode::MessageSizeTooLarge)));
        context.fail(Some(failure(5, 9999, RDKafkaErrorCode::PurgeInflight)));
        context.fail(Some(failure(6, 9999, RDKafkaErrorCode::InvalidRecord)));
        assert_eq!(context.failure().unwrap().id, 3);
        assert!(context.has_failed());
    }

    #[test]
    fn what_kafka_has_is_counted_once() {
        let context = Context::default();
        context.sending();
        assert_eq!(context.newly_acknowledged(), (0, 0), "it is on its way");
        context.acknowledge(10);
        context.acknowledge(5);
        assert_eq!(context.newly_acknowledged(), (2, 15));
        assert_eq!((context.newly_acknowledged(), context.acknowledged()), ((0, 0), 2));
    }

    #[tokio::test]
    async fn waiting_ends_at_the_limit_and_at_a_failure() {
        let context = Context::default();
        (0..3).for_each(|_| context.sending());
        context.drained_to(3).await.unwrap();
        let wait = context.drained_to(1);
        let arrive = async {
            tokio::task::yield_now().await;
            context.not_sent();
            context.not_sent();
            context.wake.notify_one();
        };
        assert_eq!(tokio::join!(wait, arrive).0, Ok(()));
        let fail = async { context.fail(None) };
        assert_eq!(tokio::join!(context.drained_to(0), fail).0, Err(Failed));
    }

    /// The report comes on a thread of librdkafka's, at any moment.
    #[test]
    fn a_record_that_was_refused_has_never_arrived() {
        const ROUNDS: usize = 5_000;
        let contexts: Vec<_> = (0..ROUNDS).map(|_| Context::default()).collect();
        let begun = AtomicUsize::new(0);
        let arrived = std::thread::scope(|scope| {
            scope.spawn(|| {
                for (round, context) in contexts.iter().enumerate() {
                    while begun.load(SeqCst) <= round {
                        std::thread::yield_now();
                    }
                    context.fail(None);
                    context.back();
                }
            });
            let mut wait = TaskContext::from_waker(Waker::noop());
            let mut arrived = |round: usize| {
                contexts[round].sending();
                begun.store(round + 1, SeqCst);
                loop {
                    if let Poll::Ready(told) = std::pin::pin!(contexts[round].drained_to(0)).poll(&mut wait) {
                        return told.is_ok();
                    }
                    std::thread::yield_now();
                }
            };
            (0..ROUNDS).filter(|round| arrived(*round)).count()
        });
        assert_eq!(arrived, 0, "of {ROUNDS} that were refused");
    }

    #[test]
    fn reasons_are_cut_to_what_a_person_needs() {
        let reason = "127.0.0.1:9/1: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT)";
        assert_eq!(plain(reason), "127.0.0.1:9/1: Connect to ipv4#127.0.0.1:9 failed: Connection refused");
    }
}

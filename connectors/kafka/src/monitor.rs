//! Says on the board whether Kafka answers.
//!
//! Records never time out, so nobody else would notice: the delivery loop waits, in order, until Kafka is back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rowcast_engine::Error;
use rowcast_engine::status::Status;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::context::{Complaint, Context};
use crate::outcome;

/// How often it looks.
const TICK: Duration = Duration::from_millis(250);
/// Between two questions to a Kafka that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Records that have been on their way for this long without any being acknowledged are told of: three times what an
/// election of a partition's leader takes, so that an ordinary one passes in silence.
const STALLED: Duration = Duration::from_secs(3);
/// Between two questions while records do not get through.
const ASK_STALLED: Duration = Duration::from_secs(2);

/// The door's place on the board.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    name: String,
    status: Status,
}

impl Board {
    pub(crate) fn new(name: String, status: Status) -> Self {
        Self { name, status }
    }

    pub(crate) fn starting(&self) {
        self.set("starting", None);
    }

    pub(crate) fn stopped(&self, error: &Error) {
        let reason = error.remedy().map_or_else(|| error.to_string(), |hint| format!("{error}. {hint}"));
        self.set("stopped", Some(reason));
    }

    /// What the monitor has seen; a sink that is paused or stopped stays so, whether Kafka answers or not.
    fn seen(&self, state: &'static str, reason: Option<String>) {
        self.status.door(&self.name, |door| {
            if !matches!(door.state, "paused" | "stopped") {
                (door.state, door.reason) = (state, reason);
            }
        });
    }

    fn set(&self, state: &'static str, reason: Option<String>) {
        self.status.door(&self.name, |door| {
            door.kind = "kafka";
            door.state = state;
            door.reason = reason;
        });
    }
}

/// Watches the producer of the moment.
pub(crate) struct Monitor {
    connection: Arc<Connection>,
    board: Board,
    /// What was looked at last: a new producer starts to count anew.
    looked_at: Arc<Context>,
    /// The board says, by us, that Kafka is away.
    away: bool,
    /// Acknowledged at the last look, and since when that has not changed with records on their way.
    acknowledged: u64,
    since: Instant,
    /// When it was last asked because of that.
    asked: Instant,
}

impl Monitor {
    pub(crate) fn new(connection: Arc<Connection>, board: Board) -> Self {
        let looked_at = connection.context();
        let now = Instant::now();
        Self { connection, board, looked_at, away: false, acknowledged: 0, since: now, asked: now }
    }

    /// Looks until dropped.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            let context = self.connection.context();
            tokio::select! {
                () = context.doubt.notified() => self.ask(&context).await,
                () = tokio::time::sleep(TICK) => {}
            }
            if !Arc::ptr_eq(&context, &self.looked_at) {
                (self.acknowledged, self.since) = (context.acknowledged(), Instant::now());
                self.looked_at = Arc::clone(&context);
            }
            self.look(&context);
        }
    }

    /// Asks whether Kafka answers; when not, it will be asked again.
    async fn ask(&mut self, context: &Context) {
        let before = context.acknowledged();
        match self.connection.topics().await {
            Ok(_) => {
                context.note_answer();
                // With records on their way only their arrival proves that things are well.
                if context.outstanding() == 0 {
                    self.back(context);
                }
            }
            Err(_) if context.acknowledged() > before => {}
            Err(error) => {
                self.tell(unanswered(&error, context));
                if self.is_lost().await && context.acknowledged() == before {
                    return self.give_up(context);
                }
                tokio::time::sleep(ASK_AGAIN).await;
                context.doubt.notify_one();
            }
        }
    }

    /// Whether Kafka is there, and only our client does not find it, even now: librdkafka 2.12 forgets all brokers when an
    /// answer names none, as that of the only one does that its cluster had given up (confluentinc/librdkafka#5301).
    async fn is_lost(&self) -> bool {
        self.connection.answers_others().await && self.connection.topics().await.is_err()
    }

    fn give_up(&self, context: &Context) {
        tracing::warn!(sink = %self.board.name, "Kafka's client has lost its brokers, another one takes its place");
        counter!("rowcast_kafka_clients_lost_total", "sink" => self.board.name.clone()).increment(1);
        context.give_up();
    }

    /// Looks whether records get through.
    fn look(&mut self, context: &Context) {
        let (acknowledged, outstanding) = (context.acknowledged(), context.outstanding());
        gauge!("rowcast_kafka_records_in_flight", "sink" => self.board.name.clone()).set(outstanding as f64);
        if acknowledged != self.acknowledged {
            self.back(context);
        }
        if acknowledged != self.acknowledged || outstanding == 0 {
            self.acknowledged = acknowledged;
            self.since = Instant::now();
        } else if self.since.elapsed() > STALLED && !context.has_failed() {
            let seconds = self.since.elapsed().as_secs();
            let why = context.complaint().map_or_else(
                || "too few replicas may be in sync, or it is overloaded".to_owned(),
                |complaint| with_remedy(complaint.reason, complaint.code),
            );
            self.tell(format!("Kafka has acknowledged nothing for {seconds} s: {why}"));
            if self.asked.elapsed() > ASK_STALLED {
                self.asked = Instant::now();
                context.doubt.notify_one();
            }
        }
    }

    fn tell(&mut self, reason: String) {
        if !self.away {
            tracing::warn!(sink = %self.board.name, reason, "Kafka is away; events wait in the journal");
            counter!("rowcast_kafka_outages_total", "sink" => self.board.name.clone()).increment(1);
        }
        self.away = true;
        self.board.seen("retrying", Some(reason));
    }

    fn back(&mut self, context: &Context) {
        context.forget_complaint();
        if self.away {
            self.away = false;
            tracing::info!(sink = %self.board.name, "Kafka is back");
            self.board.seen("running", None);
        }
    }
}

/// Why there was no answer, in a sentence.
fn unanswered(error: &KafkaError, context: &Context) -> String {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
    let complaint = context.complaint().unwrap_or_else(|| Complaint { code, reason: code.to_string() });
    format!("Kafka does not answer: {}", with_remedy(complaint.reason, complaint.code))
}

fn with_remedy(reason: String, code: RDKafkaErrorCode) -> String {
    match outcome::connection_remedy(code) {
        Some(remedy) => format!("{reason}. {remedy}"),
        None => reason,
    }
}

//! The producer of the moment, shared by the sink, which fills it, and the monitor, which watches it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer as _, PurgeConfig, ThreadedProducer};
use rowcast_engine::sink::SinkError;
use rowcast_engine::{Kind, Result};
use tokio::time::timeout;

use crate::client;
use crate::config::Config;
use crate::context::{Context, Quiet};
use crate::held::{Gone, Held};
use crate::partition::ByKey;

/// A question to Kafka is given up after this time and asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A producer that has failed gives its records back within this time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// librdkafka's producer with a thread of its own that hears its reports.
pub(crate) type Producer = Held<ThreadedProducer<Context, ByKey>>;

/// The producer of the moment.
pub(crate) struct Connection {
    config: ClientConfig,
    /// The same Kafka, for whoever only asks.
    asking: ClientConfig,
    producer: Mutex<Arc<Producer>>,
    /// The one before it, until it is known to be gone.
    replaced: Mutex<Option<Leaving>>,
    /// The last client that only asked: there is one at a time.
    asker: Mutex<Option<Gone>>,
}

/// A producer that is to end.
#[derive(Clone)]
struct Leaving {
    context: Arc<Context>,
    gone: Gone,
}

impl Connection {
    /// A first producer; it connects by itself.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let (config, asking) = (client::producer(config), client::connection(config));
        let producer = create(&config)?;
        Ok(Self {
            config,
            asking,
            producer: Mutex::new(Arc::new(producer)),
            replaced: Mutex::new(None),
            asker: Mutex::new(None),
        })
    }

    /// The producer of the moment.
    pub(crate) fn producer(&self) -> Arc<Producer> {
        Arc::clone(&locked(&self.producer))
    }

    /// What is known of it.
    pub(crate) fn context(&self) -> Arc<Context> {
        Arc::clone(self.producer().context())
    }

    /// Puts a new producer in the place of one that has failed; what that one still had is thrown away.
    pub(crate) async fn renew(&self) -> Result<Arc<Context>, SinkError> {
        self.alone().await?;
        let fresh = Arc::new(create(&self.config).map_err(|error| match error.kind() {
            Kind::Transient => SinkError::Retry(error),
            _ => SinkError::Stop(error),
        })?);
        let context = Arc::clone(fresh.context());
        let old = std::mem::replace(&mut *locked(&self.producer), fresh);
        *locked(&self.replaced) = Some(leave(&old));
        drop(old);
        self.alone().await?;
        Ok(context)
    }

    /// Waits until the producer before this one is gone. As long as it is not, nothing may be sent: what it holds could
    /// still arrive, behind what comes next, and for a sink that was moved that is something else.
    pub(crate) async fn alone(&self) -> Result<(), SinkError> {
        let Some(mut leaving) = locked(&self.replaced).clone() else { return Ok(()) };
        leaving.ended().await.map_err(SinkError::Retry)?;
        *locked(&self.replaced) = None;
        Ok(())
    }

    /// Ends it; what does not end in time is told, and left to itself.
    pub(crate) async fn close(self: Arc<Self>, sink: &str) {
        let mut replaced = locked(&self.replaced).take();
        let mut last = leave(&self.producer());
        drop(self);
        let before = async {
            match &mut replaced {
                Some(replaced) => replaced.ended().await,
                None => Ok(()),
            }
        };
        let (before, last) = tokio::join!(before, last.ended());
        for error in [before, last].into_iter().filter_map(Result::err) {
            tracing::warn!(
                sink,
                hint = error.remedy(),
                "The sink ends, a client of it is left to itself: {error}"
            );
        }
    }

    /// Asks Kafka for the names of its topics.
    pub(crate) async fn topics(&self) -> Result<Vec<String>, KafkaError> {
        let producer = self.producer();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(None, ANSWER_TIMEOUT)?;
            Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
        });
        // A panic in there is a bug of librdkafka's binding; the question is asked again.
        asked.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Whether Kafka answers a client that it has never seen before, and has brokers. Unknown, so no, as long as the last
    /// such client has not ended: where one hangs another one would, too.
    pub(crate) async fn answers_others(&self) -> bool {
        if locked(&self.asker).as_ref().is_some_and(|asker| !asker.is_over()) {
            return false;
        }
        let asking = self.asking.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let other = Held::new(AdminClient::from_config_and_context(&asking, Quiet).ok()?).ok()?;
            let metadata = other.inner().fetch_metadata(None, ANSWER_TIMEOUT);
            Some((other.gone(), metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())))
        });
        let Some((gone, answers)) = asked.await.ok().flatten() else { return false };
        *locked(&self.asker) = Some(gone);
        answers
    }
}

/// Has a failed producer give back all that it holds, so that the cause is known.
pub(crate) async fn give_back(producer: &Producer) {
    purge(producer);
    // What is not given back in time only explains less.
    let _ = timeout(SETTLE_TIMEOUT, producer.context().settled()).await;
}

/// Lets go of a producer. Whoever still asks it something holds it a little longer, with nothing left to send.
fn leave(producer: &Producer) -> Leaving {
    purge(producer);
    Leaving { context: Arc::clone(producer.context()), gone: producer.gone() }
}

/// Without a wait for the threads that talk to brokers: each may be in the look-up of a name.
fn purge(producer: &Producer) {
    producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
}

impl Leaving {
    async fn ended(&mut self) -> Result<()> {
        let ended = self.gone.in_time().await;
        ended.map_err(|error| error.because(format!("{} records are in it", self.context.outstanding())))
    }
}

fn create(config: &ClientConfig) -> Result<Producer> {
    let producer = config.create_with_context(Context::default()).map_err(|error| client::refused(&error))?;
    Held::new(producer).map_err(client::no_thread)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::BaseRecord;

    use super::*;
    use crate::held::END_TIMEOUT;

    /// Longer than what is waited for, on a busy machine.
    const IN_TIME: Duration = Duration::from_secs(10);

    /// To a broker that is not there, with a record that waits for it.
    fn waiting() -> Arc<Connection> {
        let config = Config { brokers: "127.0.0.1:1".to_owned(), ..Config::default() };
        let connection = Arc::new(Connection::new(&config).unwrap());
        connection.context().sending();
        let record = BaseRecord::with_opaque_to("t", 1).key("k").payload("v");
        connection.producer().send(record).map_err(|(error, _)| error).unwrap();
        connection
    }

    fn reason(refused: Result<(), SinkError>) -> String {
        let Err(SinkError::Retry(error)) = refused else { panic!("{refused:?}") };
        error.to_string()
    }

    #[tokio::test]
    async fn a_client_that_does_not_end_holds_up_the_next_one_and_nobody_else() {
        let connection = waiting();
        let hung = connection.context().hang();
        let renewed = timeout(IN_TIME, connection.renew()).await.expect("an end of the wait");
        let told = reason(renewed.map(drop));
        assert!(told.contains("not ended within 3 s") && told.ends_with("1 records are in it"), "{told}");
        assert_eq!(reason(connection.alone().await), told);
        drop(hung);
        timeout(IN_TIME, connection.alone()).await.expect("the old one's end").unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_still_asked_something_is_not_gone() {
        let connection = waiting();
        let asked = connection.producer();
        reason(connection.renew().await.map(drop));
        // It has nothing left to send all the same.
        timeout(IN_TIME, asked.context().settled()).await.expect("what it had, back");
        drop(asked);
        timeout(IN_TIME, connection.alone()).await.expect("the old one's end").unwrap();
    }

    #[tokio::test]
    async fn a_client_that_only_asks_is_followed_when_it_has_ended() {
        let cluster = MockCluster::new(1).unwrap();
        let config = Config { brokers: cluster.bootstrap_servers(), ..Config::default() };
        let connection = Connection::new(&config).unwrap();
        let hung = Held::new(()).unwrap();
        *locked(&connection.asker) = Some(hung.gone());
        assert!(!connection.answers_others().await);
        drop(hung);
        let mut last = locked(&connection.asker).clone().unwrap();
        last.in_time().await.unwrap();
        assert!(connection.answers_others().await);
    }

    #[tokio::test]
    async fn a_client_that_does_not_end_does_not_hold_up_the_end() {
        let connection = waiting();
        let _hung = connection.context().hang();
        let mut turns = 0;
        let others = async {
            while turns < 10 {
                tokio::time::sleep(END_TIMEOUT / 20).await;
                turns += 1;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = connection.close("kafka") => {}
            () = others => {}
            () = tokio::time::sleep(IN_TIME) => panic!("it is held up"),
        }
        assert_eq!(turns, 10, "others had their turn meanwhile");
    }
}

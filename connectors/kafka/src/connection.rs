//! The producer of the moment, shared by the sink, which fills it, and the monitor, which watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer as _, PurgeConfig, ThreadedProducer};
use rowcast_engine::Result;

use crate::client;
use crate::config::Config;
use crate::context::{Context, Quiet};
use crate::partition::ByKey;

/// A question to Kafka is given up after this time and asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A producer that has failed gives its records back within this time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// librdkafka's producer with a thread of its own that hears its reports.
pub(crate) type Producer = ThreadedProducer<Context, ByKey>;

/// The producer of the moment.
pub(crate) struct Connection {
    config: ClientConfig,
    /// The same Kafka, for whoever only asks.
    asking: ClientConfig,
    producer: Mutex<Arc<Producer>>,
}

impl Connection {
    /// A first producer; it connects by itself.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let (config, asking) = (client::producer(config), client::connection(config));
        let producer = create(&config)?;
        Ok(Self { config, asking, producer: Mutex::new(Arc::new(producer)) })
    }

    /// The producer of the moment.
    pub(crate) fn producer(&self) -> Arc<Producer> {
        Arc::clone(&self.producer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of it.
    pub(crate) fn context(&self) -> Arc<Context> {
        Arc::clone(self.producer().context())
    }

    /// Puts a new producer in the place of one that has failed; what that one still had is thrown away.
    pub(crate) async fn renew(&self) -> Result<Arc<Context>> {
        let fresh = Arc::new(create(&self.config)?);
        let old = {
            let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::clone(&fresh))
        };
        // Waits for the threads of the client. Whether it ended well is of no consequence.
        let _ = tokio::task::spawn_blocking(move || drop(old)).await;
        Ok(Arc::clone(fresh.context()))
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

    /// Whether Kafka answers a client that it has never seen before, and has brokers.
    pub(crate) async fn answers_others(&self) -> bool {
        let asking = self.asking.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let other = AdminClient::from_config_and_context(&asking, Quiet).ok()?;
            let metadata = other.inner().fetch_metadata(None, ANSWER_TIMEOUT).ok()?;
            Some(!metadata.brokers().is_empty())
        });
        asked.await.ok().flatten().unwrap_or(false)
    }
}

/// Has a failed producer give back all that it holds, so that the cause is known.
pub(crate) async fn give_back(producer: &Producer) {
    producer.purge(PurgeConfig::default().queue().inflight());
    // What is not given back in time only explains less.
    let _ = tokio::time::timeout(SETTLE_TIMEOUT, producer.context().settled()).await;
}

fn create(config: &ClientConfig) -> Result<Producer> {
    config.create_with_context(Context::default()).map_err(|error| client::refused(&error))
}

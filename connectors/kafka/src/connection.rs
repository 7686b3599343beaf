//! The producer of the moment, shared by the sink, which fills it, and the monitor, which watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{Producer as _, PurgeConfig, ThreadedProducer};
use rowcast_engine::Result;

use crate::client;
use crate::config::Config;
use crate::context::Context;
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
    producer: Mutex<Arc<Producer>>,
}

impl Connection {
    /// A first producer; it connects by itself.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let config = client::producer(config);
        let producer = create(&config)?;
        Ok(Self { config, producer: Mutex::new(Arc::new(producer)) })
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
        let all = None;
        self.ask(all, |metadata| metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
            .await
    }

    /// Asks Kafka how many partitions a topic has.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let count =
            |metadata: &Metadata| metadata.topics().iter().map(|topic| topic.partitions().len()).sum();
        let count: usize = self.ask(Some(topic.to_owned()), count).await?;
        // Kafka counts them so.
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }

    async fn ask<T: Send + 'static>(
        &self,
        topic: Option<String>,
        read: impl Fn(&Metadata) -> T + Send + 'static,
    ) -> Result<T, KafkaError> {
        let producer = self.producer();
        let asked = tokio::task::spawn_blocking(move || {
            producer.client().fetch_metadata(topic.as_deref(), ANSWER_TIMEOUT).map(|metadata| read(&metadata))
        });
        // A panic in there is a bug of librdkafka's binding; the question is asked again.
        asked.await.unwrap_or(Err(KafkaError::Canceled))
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

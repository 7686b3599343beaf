//! Names of topics, and topics for those names.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rowcast_engine::Error;
use rowcast_engine::event::Op;
use rowcast_engine::format::debezium::topic_name;
use rowcast_engine::record::{Batch, Share};
use rowcast_engine::sink::SinkError;

use crate::config::Config;
use crate::context::Quiet;
use crate::held::{Gone, Held};
use crate::{client, outcome};

/// Custom channels are anyone's to name: the cache starts over at this many, as Debezium's does.
const NAMES_MAX: usize = 10_000;
/// For creating topics; then it is tried again.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Lets the broker choose.
const BROKERS_DEFAULT: i32 = -1;

/// The topics of one door.
#[derive(Debug)]
pub(crate) struct Topics {
    prefix: String,
    partitions: i32,
    replicas: i32,
    /// Truncates have records.
    truncates: bool,
    client: ClientConfig,
    /// The last client that created some: there is one at a time.
    creator: Option<Gone>,
    /// Full names by suffix.
    names: HashMap<String, String>,
    /// Those that Kafka has.
    known: HashSet<String>,
}

impl Topics {
    pub(crate) fn new(config: &Config, truncates: bool) -> Self {
        Self {
            prefix: config.topic_prefix.clone(),
            partitions: config.partitions.unwrap_or(BROKERS_DEFAULT),
            replicas: config.replication_factor.unwrap_or(BROKERS_DEFAULT),
            truncates,
            client: client::connection(config),
            creator: None,
            names: HashMap::new(),
            known: HashSet::new(),
        }
    }

    /// Takes over what Kafka says it has.
    pub(crate) fn found(&mut self, topics: Vec<String>) {
        self.known = topics.into_iter().collect();
    }

    /// The topic `{prefix}.{suffix}`.
    pub(crate) fn name(&mut self, suffix: &str) -> &str {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(suffix) {
            self.names.clear();
        }
        let prefix = &self.prefix;
        self.names.entry(suffix.to_owned()).or_insert_with(|| topic_name(prefix, suffix))
    }

    /// Creates the topics that the records of a batch need and Kafka lacks.
    pub(crate) async fn prepare(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let suffixes = batch.shares().iter().filter_map(|share| suffix(share, self.truncates));
        let needed = suffixes.map(|suffix| topic_name(&self.prefix, &suffix));
        let missing: HashSet<_> = needed.filter(|topic| !self.known.contains(topic)).collect();
        if missing.is_empty() { Ok(()) } else { self.create(missing.into_iter().collect()).await }
    }

    /// Creates the topic `{prefix}.{suffix}` if Kafka lacks it.
    pub(crate) async fn ensure(&mut self, suffix: &str) -> Result<(), SinkError> {
        let topic = topic_name(&self.prefix, suffix);
        if self.known.contains(&topic) { Ok(()) } else { self.create(vec![topic]).await }
    }

    async fn create(&mut self, missing: Vec<String>) -> Result<(), SinkError> {
        if let Some(before) = &mut self.creator {
            before.in_time().await.map_err(SinkError::Retry)?;
        }
        let cannot = |error: KafkaError| {
            let what = format!("Cannot create Kafka topics ({})", missing.join(", "));
            SinkError::Retry(Error::transient(what).because(error))
        };
        let admin = AdminClient::from_config_and_context(&self.client, Quiet).map_err(cannot)?;
        let admin = Held::new(admin).map_err(|error| SinkError::Retry(client::no_thread(error)))?;
        self.creator = Some(admin.gone());
        let replication = || TopicReplication::Fixed(self.replicas);
        let fresh: Vec<_> =
            missing.iter().map(|topic| NewTopic::new(topic, self.partitions, replication())).collect();
        let timeout = Some(CREATE_TIMEOUT);
        let options = AdminOptions::new().request_timeout(timeout).operation_timeout(timeout);
        let created = admin.create_topics(&fresh, &options).await;
        for result in created.map_err(cannot)? {
            match result {
                Ok(topic) => {
                    tracing::info!(topic, "Created a Kafka topic");
                    self.known.insert(topic);
                }
                Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => {
                    self.known.insert(topic);
                }
                Err((topic, code)) => return Err(outcome::of_topic(&topic, code)),
            }
        }
        Ok(())
    }
}

/// What comes after the prefix; `None` where there are no records.
fn suffix(share: &Share, truncates: bool) -> Option<String> {
    let has = |op: Op| share.ops & 1 << op as u8 != 0;
    let recorded = [Op::Insert, Op::Update, Op::Delete, Op::Read, Op::Message];
    let rows_for_some = share.schema.is_some() && share.is_addressed();
    let has_records = rows_for_some || recorded.into_iter().any(has) || truncates && has(Op::Truncate);
    has_records.then(|| match &share.schema {
        Some(schema) => format!("{}.{}", schema.schema, schema.table),
        None => share.channel().to_owned(),
    })
}

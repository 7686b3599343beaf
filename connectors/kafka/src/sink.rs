//! The sink: events in, records out.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use rowcast_engine::event::{Body, Event};
use rowcast_engine::format::debezium::{Debezium, Records};
use rowcast_engine::format::{NativeOptions, write_event};
use rowcast_engine::record::Batch;
use rowcast_engine::schema::SchemaId;
use rowcast_engine::sink::{Missing, OnGap, Sink, SinkError};
use rowcast_engine::{Error, Result};
use serde::de::IgnoredAny;

use crate::beginnings::{Before, Beginnings};
use crate::config::Config;
use crate::connection::{self, Connection, Producer};
use crate::context::{Context, Failed, Failure};
use crate::gap;
use crate::outcome;
use crate::topics::Topics;

/// Events rendered before other tasks get their turn: well under a millisecond.
const TURN: usize = 64;
/// librdkafka counts records as waiting until shortly after it has reported the last of them, and does not tell.
const FREED: Duration = Duration::from_millis(1);
/// What was sent before a record that stops the sink has this long to arrive; later it arrives again.
const LAST_ONES: Duration = Duration::from_secs(5);

/// One Kafka door.
pub(crate) struct KafkaSink {
    name: String,
    on_gap: OnGap,
    debezium: Debezium,
    topics: Topics,
    connection: Arc<Connection>,
    beginnings: Beginnings,
    /// Reused from event to event.
    records: Records,
    value: Vec<u8>,
    /// Values that could not be shown, counted in a batch and told once.
    unrendered: u64,
}

/// A record on its way into the producer's queue.
struct Outgoing<'a> {
    id: u64,
    part: u8,
    topic: &'a str,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// The version of the table's schema, for rows and truncates.
    schema: Option<SchemaId>,
    /// What the format adds.
    header: Option<(&'a str, &'a [u8])>,
    /// Of columns that are null though they did not change.
    unchanged: Option<&'a [u8]>,
}

impl KafkaSink {
    /// A sink that connects by itself. Fails on wrong options only.
    pub(crate) fn new(name: String, config: &Config) -> Result<Self> {
        config.check()?;
        let connection = Arc::new(Connection::new(config)?);
        let debezium = Debezium::new(config.debezium_options()?);
        Ok(Self {
            name,
            on_gap: config.on_gap,
            topics: Topics::new(config, !debezium.options().skip_truncates),
            debezium,
            connection,
            beginnings: Beginnings::default(),
            records: Records::default(),
            value: Vec::new(),
            unrendered: 0,
        })
    }

    /// For the monitor.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    async fn send_event(&mut self, producer: &Producer, event: &Event<'_>) -> Result<(), SinkError> {
        match event.body {
            Body::Message { channel, payload } => {
                self.send_message(producer, event.id, channel, payload).await
            }
            Body::Gap { channel, reason, detail, .. } => {
                self.value.clear();
                write_event(&mut self.value, event, &NativeOptions::default());
                self.send_gap(event.id).await?;
                // What one table lacks, a new one's first rows say, is told and must not hold up the others.
                if !channel.is_empty() || self.on_gap == OnGap::Continue {
                    return Ok(());
                }
                self.commit().await?;
                Err(gap::stopped(&self.name, event.id, &format!("{reason}: {detail}")))
            }
            Body::Row { schema, .. } | Body::Truncate { schema, .. } => {
                self.send_row(producer, event, schema.id).await
            }
        }
    }

    async fn send_row(
        &mut self,
        producer: &Producer,
        event: &Event<'_>,
        schema: SchemaId,
    ) -> Result<(), SinkError> {
        self.debezium.records(event, gap::now(), &mut self.records);
        self.unrendered += self.records.unrendered() as u64;
        for record in self.records.iter() {
            let topic = self.topics.name(record.topic_suffix);
            let header = record.header.map(|(header, value)| (header.name(), value));
            let outgoing = Outgoing {
                id: event.id,
                part: record.part,
                topic,
                key: record.key,
                value: record.value,
                schema: Some(schema),
                header,
                unchanged: record.unchanged,
            };
            produce(producer, &mut self.beginnings, outgoing).await?;
        }
        Ok(())
    }

    async fn send_message(
        &mut self,
        producer: &Producer,
        id: u64,
        channel: &str,
        payload: &str,
    ) -> Result<(), SinkError> {
        self.value.clear();
        // `pg_logical_emit_message` does not check what it is given.
        if serde_json::from_str::<IgnoredAny>(payload).is_ok() {
            self.value.extend_from_slice(payload.as_bytes());
        } else {
            self.value.extend_from_slice(serde_json::Value::from(payload).to_string().as_bytes());
        }
        let header = Some(("rowcast.channel", channel.as_bytes()));
        let topic = self.topics.name(channel);
        let value = Some(self.value.as_slice());
        let outgoing =
            Outgoing { id, part: 0, topic, key: None, value, schema: None, header, unchanged: None };
        produce(producer, &mut self.beginnings, outgoing).await
    }

    /// Sends the gap that stands in `value`.
    async fn send_gap(&mut self, id: u64) -> Result<(), SinkError> {
        self.topics.ensure(gap::SUFFIX).await?;
        let topic = self.topics.name(gap::SUFFIX);
        let value = Some(self.value.as_slice());
        let outgoing =
            Outgoing { id, part: 0, topic, key: None, value, schema: None, header: None, unchanged: None };
        produce(&self.connection.producer(), &mut self.beginnings, outgoing).await
    }

    /// Counts in public what Kafka has acknowledged since it was counted last, and what could not be shown.
    fn tell_counts(&mut self) {
        let (records, bytes) = self.connection.context().newly_acknowledged();
        let unrendered = std::mem::take(&mut self.unrendered);
        let count = |name: &'static str, value| counter!(name, "sink" => self.name.clone()).increment(value);
        count("rowcast_kafka_records_total", records);
        count("rowcast_kafka_bytes_total", bytes);
        count("rowcast_kafka_unrendered_values_total", unrendered);
    }
}

impl Sink for KafkaSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn resume(&mut self) -> Result<Option<u64>, SinkError> {
        self.tell_counts();
        self.connection.alone().await?;
        let mut context = self.connection.context();
        loop {
            if context.has_failed() || context.outstanding() > 0 {
                self.beginnings.anew();
                context = self.connection.renew().await?;
            }
            // The monitor asks until there is an answer, and tells meanwhile.
            context.doubt.notify_one();
            if context.answered().await.is_ok() {
                break;
            }
        }
        let topics = self.connection.topics().await;
        let cannot = |error| Error::transient("Cannot ask Kafka for its topics").because(error);
        self.topics.found(topics.map_err(|error| SinkError::Retry(cannot(error)))?);
        Ok(None)
    }

    async fn send(&mut self, batch: &Arc<Batch>, after: u64) -> Result<(), SinkError> {
        let name = self.name.clone();
        // Rows that are for other sinks alone need no topics here.
        if batch.is_addressed() && !batch.events_for(&name).any(|event| event.id > after) {
            return Ok(());
        }
        self.topics.prepare(batch).await?;
        let producer = self.connection.producer();
        let mut sent = Ok(());
        for (count, event) in batch.events_for(&name).filter(|event| event.id > after).enumerate() {
            if count % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            sent = self.send_event(&producer, &event).await;
            if sent.is_err() {
                break;
            }
        }
        self.tell_counts();
        if let Err(SinkError::Stop(_)) = sent {
            // Whether they arrived is of no consequence: the position stays, and they are sent again.
            let _ = tokio::time::timeout(LAST_ONES, self.commit()).await;
        }
        sent
    }

    async fn gap(&mut self, missing: Missing) -> Result<(), SinkError> {
        self.value = gap::of_missing(missing);
        self.send_gap(missing.gone.to).await
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        let arrived = arrived(&self.connection.producer(), &mut self.beginnings).await;
        self.tell_counts();
        arrived
    }

    async fn rest(&mut self) {
        if self.connection.context().outstanding() == 0 {
            return;
        }
        self.tell_counts();
        // A broker that comes back would get what waits here, though the sink is told to rest.
        self.beginnings.anew();
        if let Err(SinkError::Retry(error) | SinkError::Stop(error)) = self.connection.renew().await {
            let hint = error.remedy();
            tracing::warn!(sink = %self.name, %error, hint, "What was on its way to Kafka may still arrive");
        }
    }
}

/// Waits until all that is on its way has arrived.
async fn arrived(producer: &Producer, beginnings: &mut Beginnings) -> Result<(), SinkError> {
    let context: &Context = producer.context();
    if context.drained_to(0).await.is_err() {
        return Err(failed(producer).await);
    }
    let partitioner = &context.partitioner;
    beginnings.arrived(partitioner.notice(), |topic| partitioner.count_of(topic));
    Ok(())
}

/// Waits until a record may be sent, for the sake of order where its partition has none of this producer yet.
async fn begin(
    producer: &Producer,
    beginnings: &mut Beginnings,
    Outgoing { topic, key, .. }: &Outgoing<'_>,
) -> Result<(), SinkError> {
    let context: &Context = producer.context();
    // The record before may have been the first one in a partition that is new.
    if context.partitioner.has_changed() {
        arrived(producer, beginnings).await?;
    }
    while beginnings.before(topic, *key) == Before::Arrival {
        arrived(producer, beginnings).await?;
    }
    Ok(())
}

/// Puts a record into the producer's queue, waiting for its turn, and while that is full.
async fn produce(
    producer: &Producer,
    beginnings: &mut Beginnings,
    outgoing: Outgoing<'_>,
) -> Result<(), SinkError> {
    begin(producer, beginnings, &outgoing).await?;
    let Outgoing { id, topic, key, value, .. } = outgoing;
    let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
    let context: &Context = producer.context();
    // Numbers have 53 bits, and so has every machine that this runs on.
    let opaque = usize::try_from(id).unwrap_or(usize::MAX);
    let mut record = BaseRecord::with_opaque_to(topic, opaque).headers(headers(&outgoing));
    record.key = key;
    record.payload = value;
    loop {
        // Seen before it is tried, since only the sink sends: afterwards what was in the way may have arrived.
        let alone = context.outstanding() == 0 && producer.in_flight_count() == 0;
        context.sending();
        let Err((error, returned)) = producer.send(record) else { break };
        context.not_sent();
        match error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail) {
            RDKafkaErrorCode::QueueFull if alone => return Err(outcome::beyond_queue(id, size)),
            RDKafkaErrorCode::QueueFull => make_room(producer).await?,
            RDKafkaErrorCode::Fatal => return Err(failed(producer).await),
            code => return Err(outcome::of_record(&Failure { id, topic: topic.to_owned(), size, code })),
        }
        record = returned;
    }
    Ok(())
}

/// Waits until half of what is on its way has arrived.
async fn make_room(producer: &Producer) -> Result<(), SinkError> {
    let context: &Context = producer.context();
    let waiting = context.outstanding();
    if waiting == 0 {
        tokio::time::sleep(FREED).await;
    }
    match context.drained_to(waiting / 2).await {
        Ok(()) => Ok(()),
        Err(Failed) => Err(failed(producer).await),
    }
}

/// Why the producer has failed.
async fn failed(producer: &Producer) -> SinkError {
    connection::give_back(producer).await;
    outcome::of_producer(producer.context(), producer.client().fatal_error())
}

/// The record's identity, and what its format adds.
fn headers(outgoing: &Outgoing<'_>) -> OwnedHeaders {
    let [mut id, mut part, mut schema] = [itoa::Buffer::new(); 3];
    let header = |key, value| Header { key, value: Some(value) };
    let mut headers = OwnedHeaders::new_with_capacity(5)
        .insert(header("rowcast.id", id.format(outgoing.id)))
        .insert(header("rowcast.part", part.format(outgoing.part)));
    if let Some(version) = outgoing.schema {
        headers = headers.insert(header("rowcast.schema", schema.format(version)));
    }
    if let Some(names) = outgoing.unchanged {
        headers = headers.insert(Header { key: "rowcast.unchanged", value: Some(names) });
    }
    match outgoing.header {
        Some((key, value)) => headers.insert(Header { key, value: Some(value) }),
        None => headers,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::Partitioner as _;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    #[tokio::test]
    async fn what_follows_the_first_record_waits_for_it() {
        let config = Config { brokers: "127.0.0.1:1".to_owned(), ..Config::default() };
        let connection = Connection::new(&config).unwrap();
        let mut beginnings = Beginnings::default();
        let mut sent = 0;
        for topic in ["a", "b", "a"] {
            let outgoing = Outgoing {
                id: sent,
                part: 0,
                topic,
                key: Some(b"1"),
                value: Some(b"{}"),
                schema: None,
                header: None,
                unchanged: None,
            };
            let producer = connection.producer();
            let produced = produce(&producer, &mut beginnings, outgoing);
            match tokio::time::timeout(Duration::from_millis(300), produced).await {
                Ok(produced) => produced.unwrap(),
                Err(_) => break,
            }
            sent += 1;
        }
        assert_eq!((sent, connection.context().outstanding()), (2, 2));
    }

    #[tokio::test]
    async fn what_follows_the_first_record_in_a_new_partition_waits_for_it() {
        let config = Config { brokers: "127.0.0.1:1".to_owned(), ..Config::default() };
        let connection = Connection::new(&config).unwrap();
        let (producer, mut beginnings) = (connection.producer(), Beginnings::default());
        let partitioner = &connection.context().partitioner;
        assert_eq!(beginnings.before("a", None), Before::Nothing);
        partitioner.partition("a", None, 1, |_| true);
        arrived(&producer, &mut beginnings).await.unwrap();
        let mut sent = Vec::new();
        for id in 1..=3 {
            let outgoing = Outgoing {
                id,
                part: 0,
                topic: "a",
                key: None,
                value: None,
                schema: None,
                header: None,
                unchanged: None,
            };
            let produced = produce(&producer, &mut beginnings, outgoing);
            if tokio::time::timeout(Duration::from_millis(300), produced).await.is_ok() {
                sent.push(id);
            }
            // As librdkafka does with the second one, since it has heard of another partition.
            partitioner.partition("a", None, if id == 1 { 1 } else { 2 }, |_| true);
        }
        assert_eq!(sent, [1, 2]);
    }

    #[tokio::test]
    async fn what_the_client_may_not_do_at_all_is_told_and_waits_for_a_person() {
        let cluster = MockCluster::new(1).unwrap();
        let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refused; 10]);
        let config = Config { brokers: cluster.bootstrap_servers(), ..Config::default() };
        let connection = Connection::new(&config).unwrap();
        let mut beginnings = Beginnings::default();
        let outgoing = Outgoing {
            id: 7,
            part: 0,
            topic: "t",
            key: None,
            value: None,
            schema: None,
            header: None,
            unchanged: None,
        };
        let producer = connection.producer();
        produce(&producer, &mut beginnings, outgoing).await.unwrap();
        let failed = arrived(&producer, &mut beginnings).await;
        let Err(SinkError::Stop(error)) = failed else { panic!("not for good: {failed:?}") };
        assert!(error.to_string().starts_with("Kafka's client has given up: "), "{error}");
        assert!(error.to_string().ends_with("Cluster authorization failed"), "{error}");
        assert!(error.remedy().unwrap().starts_with("Grant IdempotentWrite"), "{error}");
    }
}

//! Kafka goes away and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rowcast_engine::event::Op;
use rowcast_engine::sinks::Wish;
use serde_json::json;

use crate::support::port::free_port;
use crate::support::{Fixture, Kafka, KafkaReader, SOON, config, identity, read, table, tuple, wait_for};

/// Rows of one transaction of the test, one for each key.
const KEYS: i32 = 50;

async fn round(fixture: &mut Fixture, schema: &rowcast_engine::schema::Schema, round: usize) {
    let text = format!("{round}:{}", "x".repeat(500));
    let rows: Vec<_> =
        (0..KEYS).map(|id| (schema, Op::Update, tuple(b'N', [Some(&id.to_string()), Some(&text)]))).collect();
    fixture.transaction(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_keys_stay_in_order_when_the_broker_dies_and_comes_back() {
    let mut kafka = Kafka::start().await;
    let mut fixture = Fixture::new().await;
    let orders = fixture.register(table("orders", true));
    let mut options = config(&kafka, "outage");
    options["partitions"] = json!(3);
    // Smaller than what piles up, so that the queue fills, too.
    options["properties"] = json!({"queue.buffering.max.kbytes": 256});
    let door = fixture.deliver(options);
    for n in 0..20 {
        round(&mut fixture, &orders, n).await;
    }
    door.wait_delivered().await;

    kafka.kill().await;
    // Seen even though nothing is to be sent.
    let reason = door.wait_state("retrying").await.reason.unwrap();
    assert!(reason.contains("Kafka") && reason.contains("Connection refused"), "{reason}");
    for n in 20..80 {
        round(&mut fixture, &orders, n).await;
    }
    assert_eq!(door.door().state, "retrying");
    kafka.resume().await;
    door.wait_delivered().await;
    assert_eq!(door.wait_state("running").await.reason, None);

    // In order and without waiting for it.
    for n in 80..90 {
        round(&mut fixture, &orders, n).await;
    }
    kafka.stop().await;
    for n in 90..100 {
        round(&mut fixture, &orders, n).await;
    }
    door.wait_state("retrying").await;
    kafka.resume().await;
    door.wait_delivered().await;
    door.stop().await.unwrap();
    check(&kafka, &fixture).await;
}

async fn check(kafka: &Kafka, fixture: &Fixture) {
    let expected = fixture.journal.newest() - fixture.journal.oldest() + 1;
    assert_eq!(expected, 100 * u64::from(KEYS.unsigned_abs()));
    let mut reader = KafkaReader::start(kafka, "outage");
    let mut ids = BTreeSet::new();
    let mut newest: BTreeMap<i64, u64> = BTreeMap::new();
    while (ids.len() as u64) < expected {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("{} of {expected}", ids.len()));
        let (id, part) = identity(&record);
        assert_eq!(part, 0);
        if ids.insert(id) {
            let before = newest.insert(record.key["id"].as_i64().unwrap(), id);
            assert!(before < Some(id), "out of order: {before:?}, {id}");
        }
    }
    assert!(ids.iter().zip(ids.iter().skip(1)).all(|(a, b)| b - a == 1), "all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_broker_does_not_arrive_while_the_sink_is_paused() {
    let mut kafka = Kafka::start().await;
    let fixture = Fixture::new().await;
    fixture.publish("c", &json!("before")).await;
    let door = fixture.deliver(config(&kafka, "paused"));
    door.wait_delivered().await;
    kafka.kill().await;
    door.wait_state("retrying").await;
    let first = fixture.publish("c", &json!("waits")).await;
    let last = fixture.publish("c", &json!("waits, too")).await;
    let paused = door.sinks.order("kafka", Wish::Pause).await.unwrap();
    assert_eq!(paused.position, first - 1);
    kafka.resume().await;
    let mut reader = KafkaReader::start(&kafka, "paused");
    assert_eq!(read(&mut reader, 1).await[0].value, Some(json!("before")));
    let early = reader.next(Duration::from_secs(3)).await;
    assert!(early.is_none(), "{early:?}");
    assert_eq!(door.wait_state("paused").await.position, Some(first - 1));
    door.sinks.order("kafka", Wish::Resume).await.unwrap();
    let ids: Vec<_> = read(&mut reader, 2).await.iter().map(|record| identity(record).0).collect();
    assert_eq!(ids, [first, last]);
    door.wait_delivered().await;
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_told_and_does_not_hold_up_the_end() {
    let fixture = Fixture::new().await;
    let brokers = format!("127.0.0.1:{}", free_port());
    let door = fixture.deliver(json!({"brokers": brokers}));
    let reason = door.wait_state("retrying").await.reason.unwrap();
    assert!(reason.contains(&brokers) && reason.contains("Connection refused"), "{reason}");
    // As any stop, which has an end.
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_somebody_removed_is_created_again() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("removed");
    let topic = format!("{prefix}.c");
    let fixture = Fixture::new().await;
    fixture.publish("c", &json!(1)).await;
    let mut options = config(kafka, &prefix);
    options["properties"] = json!({"topic.metadata.propagation.max.ms": 1000});
    let door = fixture.deliver(options);
    door.wait_delivered().await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // The controller answers before the broker knows: what it takes until then goes with the topic.
    wait_for("the topic to be gone", SOON, async || {
        let listed = admin.inner().fetch_metadata(None, SOON).map_err(|error| error.to_string())?;
        let is_there = listed.topics().iter().any(|listed| listed.name() == topic);
        if is_there { Err(format!("{topic} is listed")) } else { Ok(()) }
    })
    .await;
    let id = fixture.publish("c", &json!(2)).await;
    door.wait_delivered().await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let record = reader.next(SOON).await.unwrap();
    assert_eq!((identity(&record), record.value), ((id, 0), Some(json!(2))));
    door.stop().await.unwrap();
}

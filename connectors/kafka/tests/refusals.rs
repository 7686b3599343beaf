//! What Kafka does not take, and what rowcast does not have.

use std::collections::HashMap;

use rand::Rng as _;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rowcast_engine::Kind;
use rowcast_engine::sinks::Wish;
use serde_json::{Value, json};

use crate::support::{Fixture, Kafka, KafkaReader, SOON, config, identity, read, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_stops_the_sink_and_is_named() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("large");
    let fixture = Fixture::new().await;
    let before = fixture.publish("c", &json!("before")).await;
    let large = fixture.publish("c", &Value::from("x".repeat(1_200_000))).await;
    let after = fixture.publish("c", &json!("after")).await;
    let door = fixture.deliver(config(kafka, &prefix));
    let stopped = door.wait_state("stopped").await.reason.unwrap();
    assert!(stopped.contains(&format!("event {large} on topic {prefix}.c")), "{stopped}");
    assert!(stopped.contains("(1200002 bytes)") && stopped.contains("Raise max.message.bytes"), "{stopped}");
    assert!(stopped.ends_with("`rowcast sink resume kafka` tries again"), "{stopped}");
    door.stop().await.unwrap();

    let mut options = config(kafka, &prefix);
    options["properties"] = json!({"message.max.bytes": 3_000_000});
    let door = fixture.deliver(options);
    door.wait_delivered().await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let ids: Vec<_> = read(&mut reader, 3).await.iter().map(|record| identity(record).0).collect();
    assert_eq!(ids, [before, large, after]);
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_refuses_is_found_among_its_neighbours() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("refused");
    let topic = format!("{prefix}.c");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let fresh = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "20000");
    admin.create_topics(&[fresh], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let fixture = Fixture::new().await;
    let mut random = rand::rng();
    let mut noise =
        |length| (0..length).map(|_| char::from(random.random_range(b'0'..b'z'))).collect::<String>();
    let mut events: Vec<_> = (0..5).map(|_| noise(100)).collect();
    events[3] = noise(60_000);
    let payloads: Vec<_> = events.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
    let events: Vec<_> = payloads.iter().map(|payload| ("c", payload.as_bytes())).collect();
    let first = fixture.journal.publish(&events, 0).await.unwrap();
    let door = fixture.deliver(config(kafka, &prefix));
    let stopped = door.wait_state("stopped").await.reason.unwrap();
    assert!(stopped.contains(&format!("event {} on topic {topic}", first + 3)), "{stopped}");
    assert!(stopped.contains("max.message.bytes"), "{stopped}");

    // Once it is mended on the broker's side a word is enough.
    let wider = HashMap::from([("max.message.bytes", "1000000")]);
    let alter = AlterConfig { specifier: ResourceSpecifier::Topic(&topic), entries: wider };
    admin.alter_configs(&[alter], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // The answer may come before the broker goes by it.
    let last = first + 4;
    wait_for("delivery", SOON, async || {
        let shown = door.door();
        if shown.state == "stopped" {
            door.sinks.order("kafka", Wish::Resume).await.unwrap();
        }
        if shown.position == Some(last) { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let mut ids: Vec<_> = read(&mut reader, 5).await.iter().map(|record| identity(record).0).collect();
    ids.sort_unstable();
    assert_eq!(ids, (first..first + 5).collect::<Vec<_>>());
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_and_stops_the_sink_until_it_is_resumed() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("gap");
    let fixture = Fixture::new().await;
    let first = fixture.publish("c", &json!(1)).await;
    let gap = fixture.journal.record_gap("", "source_lost", "The slot is gone", 0).await.unwrap();
    let last = fixture.publish("c", &json!(2)).await;
    let door = fixture.deliver(config(kafka, &prefix));
    let stopped = door.wait_state("stopped").await;
    let reason = stopped.reason.unwrap();
    assert!(
        reason.contains("source_lost: The slot is gone") && reason.contains("sink resume kafka"),
        "{reason}"
    );
    assert_eq!(stopped.position, Some(gap - 1), "before the gap, so that it is met again");
    door.stop().await.unwrap();

    let door = fixture.deliver(config(kafka, &prefix));
    assert_eq!(door.wait_state("stopped").await.reason.unwrap(), reason, "a restart is no decision");
    let mut reader = KafkaReader::start(kafka, &prefix);
    let before = read(&mut reader, 2).await;
    let told = before.iter().find(|record| record.topic == format!("{prefix}.rowcast")).unwrap();
    assert_eq!(identity(told), (gap, 0));
    let value = told.value.as_ref().unwrap();
    assert_eq!((&value["op"], &value["reason"]), (&json!("gap"), &json!("source_lost")));
    assert!(before.iter().any(|record| identity(record) == (first, 0)));

    door.sinks.order("kafka", Wish::Resume).await.unwrap();
    door.wait_delivered().await;
    let next = loop {
        // The gap was told by each of the two.
        let id = identity(&read(&mut reader, 1).await[0]).0;
        if id != gap {
            break id;
        }
    };
    assert_eq!(next, last);
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_the_history_does_not_stop_a_sink_that_may_go_on() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("through");
    let fixture = Fixture::new().await;
    fixture.publish("c", &json!(1)).await;
    let gap = fixture.journal.record_gap("", "source_lost", "The slot is gone", 0).await.unwrap();
    let last = fixture.publish("c", &json!(2)).await;
    let mut options = config(kafka, &prefix);
    options["on_gap"] = json!("continue");
    let door = fixture.deliver(options);
    door.wait_delivered().await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let ids: Vec<_> = read(&mut reader, 3).await.iter().map(|record| identity(record).0).collect();
    assert!(ids.contains(&gap) && ids.contains(&last), "{ids:?}");
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_taken_is_told() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("retention");
    let fixture = Fixture::with(|options| {
        options.segment_bytes = 64 << 10;
        options.max_size = Some(256 << 10);
        options.cache_bytes = 16 << 10;
        options.stalled_after = std::time::Duration::ZERO;
    })
    .await;
    let mut options = config(kafka, &prefix);
    options["on_gap"] = json!("continue");
    fixture.publish("c", &json!("first")).await;
    let door = fixture.deliver(options.clone());
    door.wait_delivered().await;
    door.stop().await.unwrap();
    let held = fixture.journal.newest();
    let large = Value::from("y".repeat(10_000));
    while fixture.journal.oldest() <= held + 1 {
        fixture.publish("c", &large).await;
    }
    let oldest = fixture.journal.oldest();
    let door = fixture.deliver(options);
    let mut reader = KafkaReader::start(kafka, &prefix);
    let topic = format!("{prefix}.rowcast");
    let told = loop {
        let record = read(&mut reader, 1).await.remove(0);
        if record.topic == topic {
            break record.value.unwrap();
        }
    };
    assert_eq!((&told["op"], &told["reason"]), (&json!("gap"), &json!("retention")));
    assert_eq!(told["from"], held + 1);
    assert!(told["to"].as_u64().unwrap() >= oldest - 1, "{told}");
    door.wait_delivered().await;
    door.stop().await.unwrap();
}

#[tokio::test]
async fn wrong_options_are_refused_before_anything_is_tried() {
    let fixture = Fixture::new().await;
    let door = fixture.deliver(json!({"brokers": "127.0.0.1:1", "properties": {"security.protocol": "tls"}}));
    let reason = door.wait_state("stopped").await.reason.unwrap();
    assert!(reason.contains("security.protocol"), "{reason}");
    assert_eq!(door.ended().await.unwrap_err().kind(), Kind::Usage);
}

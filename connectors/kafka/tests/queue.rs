//! The queue of Kafka's client has room for one record at a time, or not even that.

use serde_json::{Value, json};

use crate::support::{Fixture, Kafka, config};

/// Each waits for the one before it.
const RECORDS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn only_a_record_that_never_fits_stops_the_sink() {
    let kafka = Kafka::shared().await;
    let fixture = Fixture::new().await;
    let payload = Value::from("x".repeat(40_000));
    for _ in 0..RECORDS {
        fixture.publish("c", &payload).await;
    }
    let beyond = fixture.publish("c", &Value::from("x".repeat(100_000))).await;
    let mut options = config(kafka, &kafka.prefix("queue"));
    options["properties"] = json!({"queue.buffering.max.kbytes": 64, "linger.ms": 0});
    let door = fixture.deliver(options.clone());
    let stopped = door.wait_state("stopped").await;
    let expected = format!("Event {beyond} has a record of 100002 bytes, more than the queue");
    let reason = stopped.reason.unwrap();
    assert!(reason.starts_with(&expected), "{reason}");
    door.stop().await.unwrap();

    options["properties"]["queue.buffering.max.kbytes"] = json!(128);
    let door = fixture.deliver(options);
    door.wait_delivered().await;
    door.stop().await.unwrap();
}

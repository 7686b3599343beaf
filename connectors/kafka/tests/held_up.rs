//! Delivery is held up in the middle of a call.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use serde_json::json;

use crate::support::{Fixture, Kafka, KafkaReader, config, identity, read};

/// A file that cannot be opened to write until this is dropped, as on a disk that stands still.
struct Still(PathBuf);

impl Still {
    fn at(path: PathBuf) -> Self {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self(path)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // Who writes waits for one that reads.
        let reading = open(&self.0, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        std::fs::remove_file(&self.0).unwrap();
        drop(reading);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_while_the_position_cannot_be_written() {
    let mut kafka = Kafka::start().await;
    let fixture = Fixture::new().await;
    fixture.publish("c", &json!("before")).await;
    let door = fixture.deliver(config(&kafka, "held"));
    door.wait_delivered().await;
    let before = door.door().position;

    let still = Still::at(fixture.cursors().join("kafka.new"));
    let last = fixture.publish("c", &json!("held up")).await;
    let mut reader = KafkaReader::start(&kafka, "held");
    assert_eq!(identity(&read(&mut reader, 2).await[1]).0, last);
    // The acknowledgement is under way to a client that nobody can ask; that it has come is proved below.
    tokio::time::sleep(Duration::from_secs(1)).await;
    kafka.kill().await;
    let told = door.wait_state("retrying").await;
    assert!(told.reason.unwrap().contains("Connection refused"));
    assert_eq!(told.position, before);

    drop(still);
    // Kafka is still away: it was this that delivery waited for.
    door.wait_delivered().await;
    door.stop().await.unwrap();
}

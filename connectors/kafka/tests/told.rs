//! What Kafka refuses, in the log.

use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, PoisonError};

use rowcast_engine::sinks::Wish;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::{Fixture, Kafka, config};

/// Warnings and errors of all tests of this binary.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The lines that have this in them.
fn lines(text: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_line_with_all_that_a_person_needs_and_no_value() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("told");
    let fixture = Fixture::new().await;
    let large = fixture.publish("c", &Value::from("xyzzy".repeat(240_000))).await;
    let door = fixture.deliver(config(kafka, &prefix));
    door.wait_state("stopped").await;
    let told = lines(&prefix);
    assert_eq!(told.len(), 1, "{told:?}");
    let parts = [
        "ERROR",
        "sink=kafka",
        &format!("event {large} on topic {prefix}.c (1200002 bytes)"),
        "Message size too large",
        "Raise max.message.bytes of the topic",
    ];
    for part in parts {
        assert!(told[0].contains(part), "no {part}: {}", told[0]);
    }
    assert_eq!(lines("xyzzy"), Vec::<String>::new());

    // Whoever lets it go on is told again, once.
    door.sinks.order("kafka", Wish::Resume).await.unwrap();
    door.wait_state("stopped").await;
    assert_eq!(lines(&prefix).len(), 2);
    door.stop().await.unwrap();
}

//! Messages that are refused by the thousand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::harness::{Capture, Directory, config, run, sql};
use super::said::logged;
use crate::support::Server;

/// Counts them alone.
#[derive(Default)]
struct Rejected(Arc<AtomicU64>);

impl Recorder for Rejected {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == "rowcast_source_rejected_messages_total" {
            Counter::from_arc(Arc::clone(&self.0))
        } else {
            Counter::noop()
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn each_is_told_and_counted_and_the_log_has_a_line() {
    let rejected = Rejected::default();
    // Of this thread, as all of this test is.
    let _guard = metrics::set_default_local_recorder(&rejected);
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let said = |transactional: bool, prefix: &str| {
        format!(
            "select count(pg_logical_emit_message({transactional}, '{prefix}', '{{')) from generate_series(1, 1000)"
        )
    };
    for (times, (transactional, prefix, words)) in [
        (true, "rowcast.snapshot", "it is not signed"),
        (false, "rowcast.snapshot", "it is of no transaction"),
        (true, "rowcast.event.x", "the payload is not JSON"),
    ]
    .into_iter()
    .enumerate()
    {
        run(&client, &said(transactional, prefix)).await;
        let events = capture.wait(1000 * (times + 1)).await;
        assert!(events.iter().all(|event| event.channel == "rowcast.rejected"));
        assert!(events.last().unwrap().new.contains(words));
        assert_eq!(rejected.0.load(Ordering::Relaxed), events.len() as u64);
        let lines = logged(directory.path(), words);
        assert!(lines.len() == 1 && lines[0].contains("WARN"), "{} lines: {:?}", lines.len(), lines.first());
    }
    capture.stop().await;
}

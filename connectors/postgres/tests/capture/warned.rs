//! What the server keeps of its log, and nobody has set a budget for: people are told before it fills the disk.

use std::sync::Arc;

use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Options, open};
use rowcast_postgres::Config;

use super::budget::{kept, write};
use super::harness::{Capture, Directory, config, run, sql, until};
use crate::support::Server;

const WARNING: u64 = 32 << 20;

/// With `source.confirm = "sinks"`, of a sink that stands still.
#[tokio::test]
async fn what_is_kept_for_a_sink_is_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table other (id int)").await;
    let journal = open(Options::new(directory.path()), Arc::new(RealDisk)).unwrap();
    let ingest = Ingest::new(journal).required(vec!["sink".to_owned()]);
    let tables = vec!["public.t".to_owned()];
    let config = Config { wal_warning: WARNING, tables, ..config(&server) };
    let mut capture = Capture::launch_into(ingest, config, &[]);
    capture.status.source(|source| source.required = vec!["sink".to_owned()]);
    capture.streams().await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    // One segment is less than what is to be told.
    write(&client).await;
    until("a look", async || capture.report().source.wal_retained_bytes.is_some_and(|kept| kept > 1 << 20))
        .await;
    let before = capture.report();
    assert!(
        before.source.wal_retained_bytes < Some(WARNING) && before.source.concern.is_none(),
        "{before:?}"
    );
    write(&client).await;
    write(&client).await;
    assert!(kept(&client).await.unwrap() > WARNING);
    until("the concern", async || capture.report().source.concern.is_some()).await;
    let report = capture.report();
    let concern = report.source.concern.unwrap();
    assert!(concern.contains("source.wal_warning = 32MB") && concern.contains("slot rowcast"), "{concern}");
    assert!(
        !report.healthy && report.reasons.iter().any(|reason| reason.contains(&concern)),
        "{:?}",
        report.reasons
    );

    // Once the sink has it, it is over.
    capture.journal.hold_above("sink", capture.journal.newest());
    until("that to be over", async || {
        run(&client, "insert into other values (1); checkpoint").await;
        capture.report().source.concern.is_none()
    })
    .await;
    capture.stop().await;
}

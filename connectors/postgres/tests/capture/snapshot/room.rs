//! A snapshot that is larger than the journal may be: rows would go before anybody has read them.

use rowcast_engine::journal::Options;

use super::*;
use crate::log::{logged, record};

/// The journal's size, in megabytes, and the words of which it is told.
const MAX_MB: u64 = 8;
const WORDS: &str = "The journal has no room for all rows of a snapshot";

async fn read(capture: &Capture, table: &str) {
    let tables = vec![format!("public.{table}")];
    capture.status.ask_for_snapshot(Command::Start { tables, condition: None }).await.unwrap();
    until("the rows", async || capture.status.read_tables().contains_key(&format!("public.{table}"))).await;
}

fn options(directory: &Directory) -> Options {
    Options { max_size: Some(MAX_MB << 20), segment_bytes: 1 << 20, ..Options::new(directory.path()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_told_where_nobody_is_waited_for() {
    record();
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    let rows = "partition of room_large for values from";
    run(
        &client,
        &format!(
            "create table room_large (id int primary key, v text) partition by range (id);
         create table room_low {rows} (1) to (10000); create table room_high {rows} (10000) to (30000);
         insert into room_large select i, repeat('x', 500) from generate_series(1, 20000) i;
         create table room_small (id int primary key); insert into room_small values (1)"
        ),
    )
    .await;
    let told = |table: &str| logged(&format!("table=\"public.{table}\""), WORDS);
    let mut capture = Capture::launch_with(config(&server), options(&directory));
    capture.streams().await;
    read(&capture, "room_large").await;
    until("the warning", async || !told("room_large").is_empty()).await;
    let line = told("room_large").concat();
    let megabytes =
        value(&client, "(pg_table_size('room_low') + pg_table_size('room_high') + 1048575) >> 20").await;
    assert!(
        line.contains("WARN") && line.contains(&format!("public.room_large has {megabytes} MB, and")),
        "{line}"
    );
    assert!(line.contains(&format!("journal.max_size is {MAX_MB} MB")), "{line}");
    assert!(line.contains("hint=\"Raise journal.max_size"), "{line}");
    read(&capture, "room_small").await;
    capture.stop().await;

    // A door that moves is waited for, however large the table is.
    let mut with_sink = options(&directory);
    with_sink.holds.insert("k".to_owned(), u64::MAX >> 11);
    let mut capture = Capture::launch_for(config(&server), with_sink, &[("k", None)]);
    capture.streams().await;
    read(&capture, "room_large").await;
    read_whole(&capture).await;
    assert_eq!((told("room_large").len(), told("room_small").len()), (1, 0));
    capture.stop().await;
}

//! A reader that fails when the stream has taken its rows, and while the journal has no room for them: they are told once.

use std::collections::BTreeSet;
use std::time::Duration;

use rowcast_engine::abort::VARIABLE;

use crate::support::ndjson::page;
use crate::support::rowcast::command;
use crate::support::small_disk::SmallDisk;
use crate::support::{Postgres, SOON, wait_for};

/// Held in memory, and more than there is room for: 6 MB, whose rows do not look alike.
const ROWS: usize = 6_000;
const TABLE: &str = "create table log (n integer, v text);
    insert into log select i, repeat(md5(i::text), 32) from generate_series(1, 6000) i";

/// Longer than a table that could not be read waits before it is read again.
const TRIED_AGAIN: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_reader_fails_before_they_are_durable_come_once() {
    let disk = SmallDisk::new().await;
    let database = Postgres::shared().await.create_database("broken_off").await;
    database.execute(TABLE).await;
    let mut rowcast = crate::full::on(&disk, &database)
        .set("source.snapshot=never")
        .env(VARIABLE, "snapshot.heard:1:panic")
        .start()
        .await;
    let data = rowcast.data().display().to_string();
    // A tenth of the disk is kept for others.
    disk.fill_up_to(8 << 20);
    let asked = command(&["snapshot", "public.log", "--detach", "--data", &data]).await;
    assert_eq!(asked.code, 0, "{asked:?}");
    wait_for("the reader to fail", SOON, async || {
        let log = rowcast.log();
        if log.contains("the tests have this thread panic") { Ok(()) } else { Err(log) }
    })
    .await;
    crate::full::wait_full(&rowcast).await;
    // So long as another reader would need to begin.
    tokio::time::sleep(TRIED_AGAIN).await;
    disk.make_room();
    wait_for("the table to be read", SOON, async || {
        let status = rowcast.status().await;
        let left = status["snapshots"].as_array().map_or(0, Vec::len);
        if left == 0 && status["journal"]["state"] == "open" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    // Whoever reads them twice does it now.
    database.execute("insert into log values (0, '')").await;
    let mut told = Vec::new();
    wait_for("the last row", SOON, async || {
        let from = told.last().map_or("earliest".to_owned(), |(id, _): &(u64, u64)| id.to_string());
        let page =
            page(rowcast.address(), &format!("/v1/events?channel=public.log&from={from}&limit=1000")).await?;
        for event in page["events"].as_array().ok_or("no events")? {
            told.push((event["id"].as_u64().unwrap(), event["after"]["n"].as_u64().unwrap()));
        }
        if told.last().is_some_and(|(_, n)| *n == 0) { Ok(()) } else { Err(format!("{}", told.len())) }
    })
    .await;
    let rows: BTreeSet<u64> = told.iter().map(|(_, n)| *n).collect();
    assert_eq!((told.len(), rows.len()), (ROWS + 1, ROWS + 1));
    assert!(rowcast.log().contains("The snapshot of a table is done"), "{}", rowcast.log());
    assert_eq!(rowcast.terminate().await, 0);
}

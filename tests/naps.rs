//! Reading late is for a backlog: who waits for the next change gets it at once.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::support::ndjson::page;
use crate::support::sse::Sse;
use crate::support::{Postgres, Rowcast, SOON, own_servers, wait_for};

const NAPS: &str = "rowcast_source_naps_total";
const GATHERS: &str = "rowcast_source_gathers_total";
const BYTES: &str = "rowcast_source_bytes_total";

/// What was seen sooner after its commit was sent sooner, and that is less than what makes a backlog (20 ms).
const SOONER: Duration = Duration::from_millis(15);

/// Changes, each waited for.
const JUDGED: u32 = 20;

/// On a machine that is busy with other things many changes come late.
const LIMIT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn only_a_backlog_is_read_late() {
    let database = Postgres::shared().await.create_database("naps").await;
    let client = database.client().await;
    client.batch_execute(TABLES).await.unwrap();
    // Over TCP.
    let mut rowcast = Rowcast::of(&database).with(&["--tables", "public.t"]).start().await;
    if !is_read_at_once(&rowcast, &client, "insert into t (v) values ('one')").await {
        return;
    }
    assert_eq!(rowcast.terminate().await, 0);
    backlog(&client).await;
    rowcast.resume().await;
    has_last(&rowcast).await;
    assert!(rowcast.metric(NAPS).await.expect("a counter") > 0.0, "the backlog was not read late");
}

/// The commit time of what was replicated to the server is that of where it comes from.
#[tokio::test]
async fn what_was_committed_elsewhere_long_ago_is_no_backlog() {
    let database = Postgres::shared().await.create_database("naps_origin").await;
    let client = database.client().await;
    client.batch_execute(TABLES).await.unwrap();
    // Origins are the server's, not a database's.
    let origin = format!("'{}'", database.name());
    let create = format!(
        "select pg_replication_origin_create({origin}); select pg_replication_origin_session_setup({origin})"
    );
    client.batch_execute(&create).await.unwrap();
    let rowcast = Rowcast::of(&database).with(&["--tables", "public.t"]).start().await;
    let sql = "begin; select pg_replication_origin_xact_setup('0/1', now() - interval '1 hour');
               insert into t (v) values ('replicated'); commit";
    is_read_at_once(&rowcast, &client, sql).await;
    let told = page(rowcast.address(), "/v1/events?channel=public.t&from=last:1").await.unwrap();
    let ago =
        "select to_char(now() at time zone 'utc' - interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let ago: String = client.query_one(ago, &[]).await.unwrap().get(0);
    assert!(told["events"][0]["ts"].as_str().unwrap() < ago.as_str(), "{told}, {ago}");
    client.batch_execute("select pg_replication_origin_session_reset()").await.unwrap();
    client.batch_execute(&format!("select pg_replication_origin_drop({origin})")).await.unwrap();
}

/// Makes changes that are waited for, one after the other, and asserts that none of them is read late or said to have waited.
/// False on a machine on which that cannot be judged.
async fn is_read_at_once(rowcast: &Rowcast, client: &Client, sql: &str) -> bool {
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    stream.expect("open").await;
    let (begun, mut judged, mut before) = (Instant::now(), 0, None);
    while judged < JUDGED {
        if begun.elapsed() > LIMIT && judged == 0 {
            println!("SKIPPED: no change is seen within {SOONER:?} here, so nothing can be judged");
            return false;
        }
        assert!(begun.elapsed() < LIMIT * 2, "{judged} changes were seen within {SOONER:?}");
        let start = Instant::now();
        client.batch_execute(sql).await.unwrap();
        stream.expect_event("message").await;
        let is_sooner = start.elapsed() < SOONER;
        let naps = rowcast.metric(NAPS).await.expect("a counter");
        let lag = rowcast.metric("rowcast_source_lag_seconds").await;
        assert!(lag < Some(60.0), "{lag:?}: nothing has waited for as long");
        if let (Some(before), true) = (before, is_sooner) {
            assert!(naps <= before, "naps while caught up: {before}, then {naps}");
            judged += 1;
        }
        before = is_sooner.then_some(naps);
    }
    true
}

const TABLES: &str = "create table t (id serial primary key, v text); create table other (id integer)";

/// Transactions that wait on the server; the last one is told from the others. Between two of them the server has much to
/// go through that it does not send: however slow a reader is, it comes to the end of what it was sent.
async fn backlog(client: &Client) {
    for _ in 0..20 {
        client.batch_execute("insert into t (v) values ('waits')").await.unwrap();
        client.batch_execute("insert into other select generate_series(1, 20000)").await.unwrap();
    }
    client.batch_execute("insert into t (v) values ('last')").await.unwrap();
}

/// Waits until all of it is there.
async fn has_last(rowcast: &Rowcast) {
    wait_for("the backlog", SOON * 2, async || {
        let last = page(rowcast.address(), "/v1/events?channel=public.t&from=last:1").await?;
        if last["events"][0]["after"]["v"] == "last" { Ok(()) } else { Err(last.to_string()) }
    })
    .await;
}

/// What the server says when it has nothing to send: a CopyData with tag, position, time and a flag.
const KEEPALIVE: f64 = 23.0;

/// Waits for so many more.
async fn keepalives(rowcast: &Rowcast, count: u8) {
    let bytes = rowcast.metric(BYTES).await.expect("a counter");
    wait_for("keepalives", SOON, async || {
        let more = rowcast.metric(BYTES).await.expect("a counter") - bytes;
        if more >= f64::from(count) * KEEPALIVE { Ok(()) } else { Err(format!("{more} bytes")) }
    })
    .await;
}

/// The age of what came last is nobody's lag any more, and keepalives are no backlog to be read late.
#[tokio::test]
async fn a_backlog_that_has_been_read_is_over() {
    if !own_servers("naps") {
        return;
    }
    // Keepalives come every five seconds, and nothing else does.
    let server = Postgres::start(&["wal_sender_timeout=10s", "autovacuum=off"]).await;
    let client = server.client("postgres").await;
    client.batch_execute(TABLES).await.unwrap();
    // Over TCP.
    let mut rowcast = Rowcast::on(&server.url("postgres")).with(&["--tables", "public.t"]).start().await;
    assert_eq!(rowcast.terminate().await, 0);
    backlog(&client).await;
    rowcast.resume().await;
    has_last(&rowcast).await;
    assert!(rowcast.metric(NAPS).await.expect("a counter") > 0.0, "the backlog was not read late");
    keepalives(&rowcast, 1).await;
    let naps = rowcast.metric(NAPS).await;
    // The board is some of them behind.
    keepalives(&rowcast, 3).await;
    assert_eq!(rowcast.metric(NAPS).await, naps, "naps while nothing is behind");
    assert_eq!(rowcast.metric("rowcast_source_lag_seconds").await, Some(0.0));
    assert_eq!(rowcast.status().await["source"]["lag_seconds"], 0.0);
    assert_eq!(rowcast.terminate().await, 0);
}

/// Half as many again as make a change wait for others.
const DENSE_RATE: f64 = 1500.0;

/// Commits at some thousands a second, with a pause between two so that no backlog comes of them.
const DENSE_ROWS: u32 = 2000;
const DENSE: &str = "do $$ begin
    for n in 1..2000 loop
        insert into t (v) values ('dense');
        commit;
        perform pg_sleep(0.0002);
    end loop;
end $$";

#[tokio::test]
async fn what_comes_densely_is_gathered_and_nothing_else_is() {
    let database = Postgres::shared().await.create_database("gathers").await;
    let client = database.client().await;
    client
        .batch_execute("create table t (id serial primary key, v text); set synchronous_commit = off")
        .await
        .unwrap();
    let mut rowcast = Rowcast::of(&database).start().await;
    let mut stream = Sse::open(rowcast.address(), "/v1/events?channel=public.t").await;
    stream.expect("open").await;
    let (begun, mut rows, mut was_dense) = (Instant::now(), 0, false);
    while rowcast.metric(GATHERS).await.is_none_or(|gathers| gathers == 0.0) {
        let block = Instant::now();
        if begun.elapsed() > LIMIT && !was_dense {
            return println!("SKIPPED: no {DENSE_RATE} commits a second are possible here");
        }
        assert!(begun.elapsed() < LIMIT * 2, "{rows} rows came, and none were gathered");
        client.batch_execute(DENSE).await.unwrap();
        was_dense |= f64::from(DENSE_ROWS) / block.elapsed().as_secs_f64() > DENSE_RATE;
        for _ in 0..DENSE_ROWS {
            rows += 1;
            let event = stream.expect_event("message").await;
            assert_eq!(event.json()["after"]["id"], rows, "each once, in order");
        }
    }
    // The pace is taken anew with what comes next.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut after = None;
    for _ in 0..10 {
        client.batch_execute("insert into t (v) values ('one')").await.unwrap();
        stream.expect_event("message").await;
        let gathers = rowcast.metric(GATHERS).await.expect("a counter");
        assert_eq!(*after.get_or_insert(gathers), gathers, "nobody waits for others that do not come");
    }
    assert_eq!(rowcast.terminate().await, 0);
}

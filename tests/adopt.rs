//! A history that does not go on: it waits for a person while the doors serve, or goes on by itself, and either way
//! every reader is told of a gap.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::ndjson::{Ndjson, page};
use crate::support::postgres::Stop;
use crate::support::process::Directory;
use crate::support::rowcast::{Output, command, command_in};
use crate::support::sse::Sse;
use crate::support::websocket::WebSocket;
use crate::support::{Database, Postgres, Rowcast, SOON, own_servers, wait_for};

/// All that is held.
async fn held(rowcast: &Rowcast) -> Vec<Value> {
    let page = page(rowcast.address(), "/v1/events?from=earliest&limit=1000").await.unwrap();
    page["events"].as_array().unwrap().clone()
}

/// Waits until an event of this row is held; gives all that is held.
async fn wait_row(rowcast: &Rowcast, row: u64) -> Vec<Value> {
    wait_for("the row", SOON, async || {
        let page = page(rowcast.address(), "/v1/events?from=earliest&limit=1000").await?;
        let events = page["events"].as_array().ok_or("no events")?;
        let found = events.iter().any(|event| event["after"]["id"] == row);
        if found { Ok(events.clone()) } else { Err(page.to_string()) }
    })
    .await
}

/// Rows by their number, gaps by their reason.
fn told(events: &[Value]) -> Vec<Value> {
    let tell = |event: &Value| {
        if event["type"] == "gap" { event["reason"].clone() } else { event["after"]["id"].clone() }
    };
    events.iter().map(tell).collect()
}

/// Waits until capture waits; gives why.
async fn wait_waiting(rowcast: &Rowcast) -> String {
    wait_for("capture to wait", SOON * 2, async || {
        let source = rowcast.status().await["source"].clone();
        let waits = source["state"] == "waiting";
        if waits { Ok(source["reason"].as_str().unwrap().to_owned()) } else { Err(source.to_string()) }
    })
    .await
}

/// A database with a captured table and one row of it.
async fn one_row(name: &str, settings: &[&str]) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table t (id integer primary key)").await;
    let rowcast = Rowcast::of(&database).with(settings).start().await;
    database.execute("insert into t values (1)").await;
    wait_row(&rowcast, 1).await;
    (database, rowcast)
}

fn drop_slot(database: &Database) -> String {
    format!("select pg_drop_replication_slot('{}')", database.name())
}

/// `rowcast adopt`, for one that runs or that does not.
async fn adopt(data: &Path, more: &[&str]) -> Output {
    command(&[&["adopt", "--data", data.to_str().unwrap()], more].concat()).await
}

async fn adopt_alone(database: &Database, data: &Path) -> Output {
    let slot = format!("source.slot={}", database.name());
    adopt(data, &["--source", database.url(), "--set", &slot]).await
}

#[tokio::test]
async fn a_lost_slot_waits_for_a_person_while_the_doors_serve() {
    let (database, mut rowcast) = one_row("lost", &[]).await;
    let before = held(&rowcast).await;
    assert_eq!(rowcast.terminate().await, 0);
    database.execute(&drop_slot(&database)).await;
    database.execute("insert into t values (2)").await;

    rowcast.resume().await;
    let reason = wait_waiting(&rowcast).await;
    assert!(reason.contains("is gone") && reason.contains("rowcast adopt"), "{reason}");
    let flow = rowcast.get("/v1/health/flow").await;
    assert!(flow.status == 503 && flow.text().contains("is gone") && flow.text().contains("rowcast adopt"));
    assert_eq!(rowcast.get("/readyz").await.status, 200);
    let data = rowcast.data();
    let status = command(&["status", "--data", data.to_str().unwrap()]).await;
    assert!(
        status.code == 1 && status.stdout.contains("waiting") && status.stdout.contains("is gone"),
        "{status:?}"
    );
    let log = rowcast.log();
    let line = log.lines().find(|line| line.contains("Capture waits")).expect("a line in the log");
    assert!(line.contains("\"reason\":\"source_lost\"") && line.contains("is gone"), "{line}");
    // What is held is served, what comes from elsewhere is taken, and nothing is told before its time.
    let mut live = Sse::open(rowcast.address(), "/v1/events?channel=*").await;
    assert_eq!(live.expect("open").await.event, "open");
    let published = command(&["publish", "notes", "7", "--data", data.to_str().unwrap()]).await;
    assert_eq!(published.code, 0, "{published:?}");
    assert_eq!(live.expect_event("message").await.json()["payload"], 7);
    assert_eq!(told(&held(&rowcast).await), [json!(1), Value::Null]);

    let gaps = "rowcast_source_gaps_total{reason=\"source_lost\"}";
    assert_eq!(rowcast.metric(gaps).await, Some(0.0), "an increase can be seen");
    let adopted = adopt(&data, &[]).await;
    assert_eq!(adopted.code, 0, "{adopted:?}");
    assert!(adopted.stdout.contains("(source_lost)") && adopted.stdout.contains("is gone"), "{adopted:?}");
    let gap = live.expect_event("gap").await;
    assert_eq!(gap.json()["reason"], "source_lost");
    assert!(adopted.stdout.contains(gap.id.as_ref().unwrap()), "{adopted:?}");
    rowcast.wait_streaming().await;
    database.execute("insert into t values (3)").await;
    assert_eq!(live.expect_event("message").await.json()["after"], json!({"id": 3}));
    assert_eq!(told(&wait_row(&rowcast, 3).await), [json!(1), Value::Null, json!("source_lost"), json!(3)]);
    assert_eq!(rowcast.metric(gaps).await, Some(1.0));
    let again = adopt(&data, &[]).await;
    assert!(again.code == 0 && again.stdout.contains("nothing to adopt"), "{again:?}");

    // Also those who ask for one channel, and only for its inserts.
    let path = "/v1/events?channel=public.t&op=insert";
    let from = before[0]["id"].to_string();
    let mut events = Sse::resume(rowcast.address(), path, Some(&from)).await.unwrap();
    assert_eq!(events.expect("open").await.event, "open");
    let gap = events.expect("the gap").await;
    assert!(gap.event == "gap" && gap.json()["reason"] == "source_lost", "{gap:?}");
    assert_eq!(events.expect_event("message").await.json()["after"], json!({"id": 3}));
    // Nobody but the owner of the directory lets a history go on.
    let path = "/v1/source/adopt";
    assert_eq!(crate::support::http::post(rowcast.address(), path, "").await.unwrap().status, 404);
}

#[tokio::test]
async fn a_slot_made_anew_is_adopted_while_rowcast_is_down() {
    let (database, mut rowcast) = one_row("anew", &[]).await;
    assert_eq!(rowcast.terminate().await, 0);
    let slot = database.name();
    database.execute(&format!("{}; insert into t values (2)", drop_slot(&database))).await;
    database.execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    wait_for("the slot's statistics, which come a moment later before version 15", SOON, async || {
        let sql =
            "select coalesce(sum(total_txns), 0)::bigint from pg_stat_replication_slots where slot_name = $1";
        let row =
            database.client().await.query_one(sql, &[&slot]).await.map_err(|error| error.to_string())?;
        if row.get::<_, i64>(0) == 0 { Ok(()) } else { Err("those of the slot before".to_owned()) }
    })
    .await;
    let adopted = adopt_alone(&database, &rowcast.data()).await;
    assert!(adopted.code == 0 && adopted.stdout.contains("(slot_recreated)"), "{adopted:?}");
    let again = adopt_alone(&database, &rowcast.data()).await;
    assert!(again.code == 0 && again.stdout.contains("nothing to adopt"), "{again:?}");
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (3)").await;
    assert_eq!(told(&wait_row(&rowcast, 3).await), [json!(1), json!("slot_recreated"), json!(3)]);
}

#[tokio::test]
async fn the_policy_goes_on_by_itself() {
    let (database, mut rowcast) = one_row("policy", &["--set", "source.on_gap=continue"]).await;
    let cut = format!(
        "select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name)
         from pg_replication_slots where slot_name = '{}'",
        database.name()
    );
    let client = database.client().await;
    // While it runs, as soon as nobody holds it.
    wait_for("the slot's end", SOON, async || {
        client.batch_execute(&cut).await.map_err(|error| error.to_string())
    })
    .await;
    wait_for("the gap", SOON * 2, async || {
        let told = told(&held(&rowcast).await);
        if told == [json!(1), json!("source_lost")] { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (2)").await;
    assert_eq!(told(&wait_row(&rowcast, 2).await), [json!(1), json!("source_lost"), json!(2)]);
    let log = rowcast.log();
    assert!(log.lines().any(|line| line.contains("Recorded a gap") && line.contains("source_lost")), "{log}");
}

#[tokio::test]
async fn a_policy_that_there_is_not_is_refused_with_those_that_there_are() {
    let refused = command(&["run", "--source", "postgres://h/d", "--set", "source.on_gap=snapshot"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    for word in ["source.on_gap", "\"stop\"", "\"continue\"", "\"resnapshot\""] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
}

#[tokio::test]
async fn before_the_first_success_there_is_nothing_to_serve() {
    let (database, mut rowcast) = one_row("wiped", &[]).await;
    assert_eq!(rowcast.terminate().await, 0);
    let wiped = Directory::new("wiped");
    let (data, slot) = (wiped.path().to_str().unwrap(), format!("source.slot={}", database.name()));
    let arguments = ["--source", database.url(), "--data", data, "--set", &slot];
    let refused = command(&[&["run", "--listen", "127.0.0.1:0"], &arguments[..]].concat()).await;
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("its data directory was lost") && refused.stderr.contains("rowcast adopt")
    );
    let adopted = adopt_alone(&database, wiped.path()).await;
    assert!(adopted.code == 0 && adopted.stdout.contains("(taken_over)"), "{adopted:?}");
    rowcast.resume().await;
    assert!(wait_waiting(&rowcast).await.contains("taken over by another installation"));
}

/// Killed at whatever moment, there is one gap for each break in the end.
#[tokio::test]
async fn a_kill_during_the_adoption_loses_no_gap_and_doubles_none() {
    let (database, mut rowcast) = one_row("killed", &[]).await;
    let (mut adopted, mut not_yet) = (0, 0);
    for round in 1..=12_u32 {
        assert_eq!(rowcast.terminate().await, 0);
        database.execute(&drop_slot(&database)).await;
        database.execute(&format!("insert into t values ({round}00)")).await;
        rowcast.resume().await;
        wait_waiting(&rowcast).await;
        let data = rowcast.data();
        let word = tokio::spawn(async move { adopt(&data, &[]).await });
        // From before the word has arrived until after the gap is durable.
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 12)).await;
        rowcast.kill9().await;
        let done = word.await.unwrap().code == 0;
        // The server may not know yet that its reader is dead, and nobody takes a slot that is being read.
        wait_for("the dead reader to be gone", SOON, async || {
            let sql = "select count(*) from pg_replication_slots where slot_name = $1 and active";
            let row = database.client().await.query_one(sql, &[&database.name()]).await;
            match row.map_err(|error| error.to_string())?.get::<_, i64>(0) {
                0 => Ok(()),
                _ => Err("it is still there".to_owned()),
            }
        })
        .await;
        rowcast.resume().await;
        wait_for("capture to wait or to stream", SOON * 2, async || {
            let state = rowcast.status().await["source"]["state"].clone();
            if state == "waiting" || state == "streaming" { Ok(()) } else { Err(state.to_string()) }
        })
        .await;
        if rowcast.status().await["source"]["state"] == "waiting" {
            assert!(!done, "what was acknowledged is gone");
            not_yet += 1;
            let adopted = adopt(&rowcast.data(), &[]).await;
            assert_eq!(adopted.code, 0, "{adopted:?}");
            rowcast.wait_streaming().await;
        } else {
            adopted += 1;
        }
        database.execute(&format!("insert into t values ({round}01)")).await;
        let events = wait_row(&rowcast, u64::from(round) * 100 + 1).await;
        let gaps = events.iter().filter(|event| event["type"] == "gap").count();
        assert_eq!(gaps, round as usize, "{:?}", told(&events));
        assert_eq!(events.len(), 1 + 2 * round as usize, "{:?}", told(&events));
    }
    println!("{adopted} adopted, {not_yet} not yet when killed");
}

/// Numbers rise over all that was handed out, and who has seen what is gone is told so.
#[tokio::test]
async fn source_and_journal_restored_together() {
    if !own_servers("source_and_journal_restored_together") {
        return;
    }
    let mut postgres = Postgres::start(&[]).await;
    let database = postgres.create_database("both").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    database.execute("insert into t values (1)").await;
    wait_row(&rowcast, 1).await;
    assert_eq!(rowcast.terminate().await, 0);
    postgres.stop(Stop::Fast).await;
    postgres.back_up();
    let backup = Directory::new("journal-backup");
    let (data, copy) = (rowcast.data(), backup.path().join("data"));
    let copied = |from: &Path, to: &Path| {
        crate::support::process::run(
            &["cp", "-a", from.to_str().unwrap(), to.to_str().unwrap()].map(str::to_owned),
        );
    };
    copied(&data, &copy);

    postgres.resume().await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    database.execute("insert into t values (2); insert into t values (3)").await;
    let seen = wait_row(&rowcast, 3).await;
    let last = seen.last().unwrap()["id"].as_u64().unwrap();
    assert_eq!(rowcast.terminate().await, 0);
    postgres.stop(Stop::Fast).await;
    postgres.put_back();
    std::fs::remove_dir_all(&data).unwrap();
    copied(&copy, &data);

    postgres.resume().await;
    rowcast.resume().await;
    rowcast.wait_streaming().await;
    let path = format!("/v1/events?channel=public.t&from={last}");
    let expected = |gap: &Value| assert!(gap["reason"] == "source_lost" || gap["reason"] == "ahead", "{gap}");
    let mut sse = Sse::open(rowcast.address(), &path).await;
    assert_eq!(sse.expect("open").await.event, "open");
    expected(&sse.expect_event("gap").await.json());
    let mut ndjson = Ndjson::open(rowcast.address(), &path).await.unwrap();
    assert_eq!(ndjson.expect("open").await["type"], "open");
    expected(&ndjson.expect("gap").await);
    let mut socket = WebSocket::open(rowcast.address()).await.unwrap();
    socket.send(&json!({"type": "subscribe", "id": "a", "channel": "public.t", "from": last})).await;
    expected(&socket.expect_type("subscribed").await["gap"]);

    database.execute("insert into t values (4)").await;
    let events = wait_row(&rowcast, 4).await;
    assert_eq!(told(&events), [json!(1), json!(4)], "the restored history goes on without a gap of its own");
    assert!(events[1]["id"].as_u64().unwrap() > last, "a number was given twice");
    assert_eq!(sse.expect_event("message").await.json()["after"], json!({"id": 4}));
}

/// Somebody who does not say which rowcast he means does not take the slot from the one that has it.
#[tokio::test]
async fn nothing_is_adopted_into_a_journal_that_nobody_has_named() {
    let (database, rowcast) = one_row("unnamed", &[]).await;
    let (elsewhere, slot) = (Directory::new("elsewhere"), format!("source.slot={}", database.name()));
    let arguments = ["adopt", "--source", database.url(), "--set", &slot];
    let adopted = command_in(elsewhere.path(), &arguments).await;
    assert_eq!(adopted.code, 2, "{adopted:?}");
    assert!(adopted.stderr.contains("There is no journal in rowcast-data/journal"), "{adopted:?}");
    assert!(std::fs::read_dir(elsewhere.path()).unwrap().next().is_none(), "nothing was made");
    database.execute("insert into t values (2)").await;
    wait_row(&rowcast, 2).await;
}

//! The rows read at a standby, beside its stream: it shows commits when it has replayed them, writes nothing, and may be
//! paused, cut off, in the way of its own replay, started again, or become the primary.

use std::time::{Duration, Instant};

use rowcast_postgres::{Config, OnGap};

use super::load::{TABLE, Writers, equal_to_the_table, read_under_load, seed};
use super::window::{self, ask, emptied_and_altered};
use super::*;
use crate::capture::harness::set;
use crate::capture::standby::{make_slot, pair_after, reading};

/// A primary on which this has been run, a standby with a slot, and a configuration that reads from it. `None` where
/// there is no server that could be one.
async fn two(statements: &str) -> Option<(Server, Server, Config)> {
    let server = Server::start_since(16, "")?;
    let statements = format!("create publication rowcast for all tables; {statements}");
    let (primary, standby) = pair_after(server, &statements).await;
    make_slot(&sql(&primary).await, &standby).await;
    let config = Config { tables: vec!["public.*".to_owned()], ..reading(&standby) };
    Some((primary, standby, config))
}

fn with_rows(config: &Config) -> Config {
    Config { snapshot: Some(SnapshotMode::Initial), ..config.clone() }
}

/// So many of a table's rows have been read.
/// A chunk has been read, or all of them between two looks.
fn is_begun(capture: &Capture) -> bool {
    capture.report().snapshots.iter().any(|shown| shown.rows > 0) || is_read(capture)
}

fn is_read(capture: &Capture) -> bool {
    capture.journal.notes().keys().all(|name| !name.starts_with("snapshot"))
}

async fn reason(capture: &Capture, words: &str) {
    until(words, async || {
        let snapshots = capture.report().snapshots;
        snapshots.iter().any(|shown| shown.reason.as_deref().is_some_and(|reason| reason.contains(words)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_it_ends_equal_to_the_table() {
    let Some((primary, _standby, config)) = two(TABLE).await else { return };
    let (client, capture, _directory) = read_under_load(&primary, &with_rows(&config), &[], None).await;
    let events = capture.events();
    assert!(events.iter().any(|event| event.op == Op::Read));
    equal_to_the_table(&client, &events).await;
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_of_tables_without_a_key() {
    let Some((primary, _standby, config)) = two(keyless::TABLES).await else { return };
    keyless::initial_and_asked_for(&primary, &with_rows(&config)).await;
}

/// The wish is made on the primary, where the schema `rowcast` is, and arrives in the log.
#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_a_sink_and_a_wish_in_the_log() {
    let Some((primary, standby, reading)) = two(TABLE).await else { return };
    let (client, directory) = (sql(&primary).await, Directory::new());
    let other = Config { slot: "other".to_owned(), ..config(&primary) };
    Capture::start(other, directory.path()).await.stop().await;
    run(&client, "select pg_drop_replication_slot('other')").await;
    let replica = sql(&standby).await;
    let key = "to_regclass('rowcast.secret') is not null";
    until("the schema", async || value(&replica, key).await == "true").await;
    let (sinks, wanted) = ([("a", Some(5)), ("b", None)], Some("select rowcast.snapshot('t')"));
    let (client, capture, _directory) = read_under_load(&primary, &reading, &sinks, wanted).await;
    equal_to_the_table(&client, &capture.events_for("a")).await;
    equal_to_the_table(&client, &capture.events()).await;
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_and_filled_and_altered_while_it_is_read() {
    let Some((primary, _standby, config)) = two(window::TABLE).await else { return };
    emptied_and_altered(&sql(&primary).await, config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_happens_or_replay_is_paused() {
    let rights = "create role cap login replication; grant select on t to cap";
    let statements = format!("{}; {rights}", window::TABLE);
    let Some((primary, standby, config)) = two(&statements).await else { return };
    let config = Config { url: standby.admin().replace("user=postgres", "user=cap"), ..config };
    let (client, directory) = (sql(&primary).await, Directory::new());
    let (replica, started) = (sql(&standby).await, Instant::now());
    let capture = Capture::start(with_rows(&config), directory.path()).await;
    read_whole(&capture).await;
    println!("read beside an idle pair within {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "it waits for the primary to write");
    assert_eq!(capture.status.read_tables()["public.t"], 20_000);

    run(&replica, "select pg_wal_replay_pause()").await;
    until("the pause", async || value(&replica, "pg_get_wal_replay_pause_state()").await == "paused").await;
    run(&client, "update t set v = 'new' where id < 9000; delete from t where id > 15000").await;
    let before = capture.events().len();
    ask(&capture).await;
    read_whole(&capture).await;
    let events = capture.events();
    let read = &events[before..];
    assert!(
        read.len() == 20_000 && read.iter().all(|event| event.op == Op::Read && event.new.ends_with(",old"))
    );
    run(&replica, "select pg_wal_replay_resume()").await;
    caught_up(&client, &capture).await;
    let table = actual(&client, "t", &["id", "v"]).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), table);
    capture.stop().await;
}

/// The primary sends whole pages, and the last record of one may end in the next, which it keeps as long as nothing
/// makes it write.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_come_in_part() {
    let Some((primary, standby, config)) = two(window::TABLE).await else { return };
    let (client, directory) = (sql(&primary).await, Directory::new());
    let (replica, capture) = (sql(&standby).await, Capture::start(config, directory.path()).await);
    let within = "pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    run(&client, "begin").await;
    let mut since = Instant::now();
    until("a part of a record", async || {
        if value(&replica, within).await != "true" {
            run(&client, "insert into t values ((select max(id) + 1 from t), repeat('x', 5000))").await;
            since = Instant::now();
        }
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    let asked = Instant::now();
    ask(&capture).await;
    read_whole(&capture).await;
    println!("behind a part of a record it took {:?}", asked.elapsed());
    assert_eq!(capture.status.read_tables()["public.t"], 20_000);
    run(&client, "commit").await;
    caught_up(&client, &capture).await;
    let table = actual(&client, "t", &["id", "v"]).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), table);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_receives_nothing_says_so() {
    let Some((mut primary, standby, config)) = two(window::TABLE).await else { return };
    let directory = Directory::new();
    let (replica, capture) = (sql(&standby).await, Capture::start(config, directory.path()).await);
    primary.stop_in_order();
    until("the end", async || value(&replica, "select count(*) from pg_stat_wal_receiver").await == "0")
        .await;
    ask(&capture).await;
    reason(&capture, "receives nothing").await;
    assert_eq!(capture.events().len(), 0);
    primary.relaunch();
    read_whole(&capture).await;
    let client = sql(&primary).await;
    caught_up(&client, &capture).await;
    let table = actual(&client, "t", &["id", "v"]).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), table);
    capture.stop().await;
}

/// [`window::TABLE`], and what makes the reading of a chunk last.
fn slowly(seconds: u32) -> String {
    let table = window::TABLE;
    format!("{table}; create table slow (seconds float8 primary key); insert into slow values ({seconds})")
}

/// Has rows read slowly, and waits until that is under way.
async fn ask_slowly(capture: &Capture, replica: &Client) {
    let condition = "id > 0 and (select count(*) from public.slow where pg_sleep(seconds) is not null) = 1";
    let wanted = rows_of_t(Some(condition));
    capture.status.ask_for_snapshot(wanted).await.unwrap();
    let reads = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    until("it to read", async || value(replica, reads).await == "1").await;
}

/// Its id lies below the newest completed one, and no list of the standby's snapshot has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_open_while_rows_are_read() {
    let Some((primary, standby, config)) = two(&slowly(10)).await else { return };
    let (client, open, directory) = (sql(&primary).await, sql(&primary).await, Directory::new());
    let (replica, capture) = (sql(&standby).await, Capture::start(config, directory.path()).await);
    run(&open, "begin; update t set v = 'new' where id = 1; update t set id = 30001 where id = 2").await;
    run(&client, "insert into t values (30000, 'later')").await;
    let later = "select count(*) from public.t where id = 30000";
    until("the later one", async || value(&replica, later).await == "1").await;
    ask_slowly(&capture, &replica).await;
    run(&open, "commit").await;
    until("its events", async || capture.events().iter().any(|event| event.new == "1,new")).await;
    assert!(capture.events().iter().all(|event| event.op != Op::Read), "it was read too fast");
    run(&client, "update slow set seconds = 0").await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let table = actual(&client, "t", &["id", "v"]).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), table);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_in_the_way_of_replay_is_told_and_read_again() {
    let Some((primary, standby, config)) = two(&slowly(30)).await else { return };
    let (client, directory) = (sql(&primary).await, Directory::new());
    let replica = sql(&standby).await;
    set(&replica, "hot_standby_feedback = off").await;
    set(&replica, "max_standby_streaming_delay = 0").await;
    let capture = Capture::start(config, directory.path()).await;
    ask_slowly(&capture, &replica).await;
    run(&client, "update t set v = 'new' where id < 100").await;
    client.batch_execute("vacuum t").await.unwrap();
    reason(&capture, "hot_standby_feedback = on").await;
    assert!(capture.report().healthy, "it passes: {:?}", capture.report().reasons);
    run(&client, "update slow set seconds = 0").await;
    read_whole(&capture).await;
    assert_eq!(capture.status.read_tables()["public.t"], 20_000);
    caught_up(&client, &capture).await;
    let table = actual(&client, "t", &["id", "v"]).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), table);
    capture.stop().await;
}

/// `only` ends by itself; `when_needed` reads again behind a gap.
#[tokio::test(flavor = "multi_thread")]
async fn once_and_again_behind_a_gap() {
    let Some((primary, standby, config)) = two(window::TABLE).await else { return };
    let (client, directory) = (sql(&primary).await, Directory::new());
    let only = Config { snapshot: Some(SnapshotMode::Only), ..config.clone() };
    let capture = Capture::launch(only, directory.path());
    until("its end", async || capture.report().source.state == "stopped").await;
    let read = capture.events().iter().filter(|event| event.op == Op::Read).count();
    assert_eq!(read, 20_000);
    capture.stop().await;
    run(&sql(&standby).await, "select pg_drop_replication_slot('rowcast')").await;
    run(&client, "update t set v = 'unheard of' where id > 10000").await;
    make_slot(&client, &standby).await;
    let needed = Config { snapshot: Some(SnapshotMode::WhenNeeded), on_gap: OnGap::Continue, ..config };
    let capture = Capture::start(needed, directory.path()).await;
    until("the gap", async || capture.events().iter().any(|event| event.op == Op::Gap)).await;
    read_whole(&capture).await;
    run(&client, "delete from t where id < 5000").await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    let behind = events.iter().position(|event| event.op == Op::Gap).unwrap() + 1;
    let table = actual(&client, "t", &["id", "v"]).await;
    assert_eq!(rebuilt(&events[behind..], "public.t", 2), table);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn started_again_and_promoted_while_it_is_read() {
    let Some((mut primary, mut standby, config)) = two(TABLE).await else { return };
    let (seed, directory) = (seed(), Directory::new());
    let writers = Writers::start([sql(&primary).await, sql(&primary).await], seed).await;
    let capture = Capture::start(with_rows(&config), directory.path()).await;
    until("a chunk", async || is_begun(&capture)).await;
    standby.stop();
    standby.relaunch();
    let rows = || capture.report().snapshots.iter().map(|shown| shown.rows).sum::<u64>();
    let before = rows();
    until("another chunk", async || rows() > before || is_read(&capture)).await;
    let again = rows_of_t(None);
    read_whole(&capture).await;
    capture.status.ask_for_snapshot(again.clone()).await.unwrap();
    until("a chunk", async || is_begun(&capture)).await;
    primary.stop_in_order();
    writers.stop().await;
    standby.promote();
    let writers = Writers::start([sql(&standby).await, sql(&standby).await], !seed).await;
    read_whole(&capture).await;
    capture.status.ask_for_snapshot(again).await.unwrap();
    until("a chunk", async || is_begun(&capture)).await;
    capture.crash().await;
    let capture = Capture::start(with_rows(&config), directory.path()).await;
    read_whole(&capture).await;
    println!("{} transactions behind the promotion", writers.stop().await);
    let client = sql(&standby).await;
    caught_up(&client, &capture).await;
    equal_to_the_table(&client, &capture.events()).await;
    capture.stop().await;
}

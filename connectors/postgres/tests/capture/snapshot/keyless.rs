//! Tables whose rows nothing tells apart: who begins with an empty table where the snapshot is wanted, and follows, has as
//! many of each, whatever happens while they are read.

mod given_up;
mod held;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowcast_engine::snapshots::{Command, State};

use super::load::{Writers, seed};
use super::*;

/// One table of which only what is added is told, and one that tells all; of the second nobody changes more than memory
/// holds.
pub(super) const TABLES: &str = "create table plain (n int, v text);
    insert into plain select i % 70, 'v' || i % 3 from generate_series(1, 20000) i;
    create table whole (n int, v text, big text); alter table whole replica identity full;
    alter table whole alter big set storage external;
    insert into whole select i % 500, 'v', repeat((i % 7)::text, 2500) from generate_series(1, 8000) i;
    insert into whole select 1000, 'v', repeat((i % 7)::text, 2500) from generate_series(1, 4000) i";

/// For how long after the last crash there is a load.
const BESIDE: Duration = Duration::from_secs(25);

/// Rows of the second table that fill more than memory holds.
const LARGE: usize = 8 << 20;

pub(super) type Counts = BTreeMap<String, i64>;

/// How often a consumer has each row of a table, by its first columns, who began behind an event. He takes away no more than
/// he has.
pub(super) fn counted(events: &[Seen], channel: &str, columns: usize, since: u64) -> Counts {
    let mut counts = Counts::new();
    let add = |counts: &mut Counts, row: &[&str]| *counts.entry(row[..columns].join(",")).or_insert(0) += 1;
    let remove = |counts: &mut Counts, row: &[&str]| {
        if let Some(count) = counts.get_mut(&row[..columns].join(",")) {
            *count = 0.max(*count - 1);
        }
    };
    for event in events.iter().filter(|event| event.channel == channel && event.id > since) {
        let old: Vec<&str> = event.old.trim_start_matches("O:").split(',').collect();
        let new = event.new.split(',').enumerate();
        let new: Vec<&str> =
            new.map(|(at, value)| if value == "UNCHANGED" { old[at] } else { value }).collect();
        match event.op {
            Op::Truncate => counts.clear(),
            Op::Insert | Op::Read => add(&mut counts, &new),
            Op::Delete => remove(&mut counts, &old),
            Op::Update => {
                remove(&mut counts, &old);
                add(&mut counts, &new);
            }
            Op::Message | Op::Gap => panic!("{}", event.brief()),
        }
    }
    counts.retain(|_, count| *count != 0);
    counts
}

/// The same of the database itself.
pub(super) async fn counts(client: &Client, table: &str, columns: &[&str]) -> Counts {
    let list = columns.iter().map(|column| format!("coalesce({column}::text, 'NULL')")).collect::<Vec<_>>();
    let row = format!("concat_ws(',', {})", list.join(", "));
    let sql = format!("select {row}, count(*) from public.{table} group by 1");
    client.query(&sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Both tables for who began behind an event.
async fn both_are_equal(client: &Client, events: &[Seen], since: u64) {
    for (table, columns) in [("plain", &["n", "v"][..]), ("whole", &["n", "v", "big"][..])] {
        is_equal(client, events, since, (table, columns)).await;
    }
}

pub(super) async fn is_equal(
    client: &Client,
    events: &[Seen],
    since: u64,
    (table, columns): (&str, &[&str]),
) {
    let built = counted(events, &format!("public.{table}"), columns.len(), since);
    let real = counts(client, table, columns).await;
    let short = |row: &str| row.chars().take(40).collect::<String>();
    for (row, count) in &real {
        assert_eq!(built.get(row), Some(count), "{table}: {}", short(row));
    }
    for row in built.keys() {
        assert!(real.contains_key(row), "{table}: {} is in no table", short(row));
    }
    println!("{table}: {} rows of {} kinds", real.values().sum::<i64>(), real.len());
}

/// Rows come, many of them alike, change, go; a table is emptied now and then.
pub(super) fn transaction(random: &mut StdRng) -> String {
    let mut sql = "begin;".to_owned();
    for _ in 0..random.random_range(1..6) {
        let (n, other, digit) =
            (random.random_range(0..500), random.random_range(0..500), random.random_range(0..10));
        let some = format!("ctid in (select ctid from whole where n = {n} limit {})", 1 + digit % 3);
        sql += &match random.random_range(0..4000) {
            0..1200 => {
                format!("insert into plain select {}, 'new' from generate_series(0, {digit});", n % 70)
            }
            1200..1600 => {
                format!("insert into plain values ({n}, 'a'), ({n}, 'a'), ({n}, null), ({other}, 'b');")
            }
            1600..2100 => format!("update whole set v = left(v || 'u', 6) where {some};"),
            2100..2300 => format!("update whole set big = repeat('{digit}', 2500) where {some};"),
            2300..2500 => format!("update whole set n = {other} where {some};"),
            2500..2900 => format!("delete from whole where {some};"),
            2900..3400 => {
                format!("insert into whole values ({n}, 'v', repeat('{digit}', 2500)), ({n}, 'v', null);")
            }
            3400..3700 => format!(
                "savepoint s; insert into plain values ({n}, 'lost'); delete from whole where {some}; rollback to s;"
            ),
            3700..3940 => format!("insert into plain select n, v from plain limit {};", digit * 20),
            3940..3942 => format!("truncate plain; insert into plain values ({n}, 'first');"),
            _ => "update whole set v = 'bulk' where n % 50 = 7;".to_owned(),
        };
    }
    sql + if random.random_range(0..12) == 0 { "rollback" } else { "commit" }
}

/// Rows that COPY brings.
async fn copy(client: &Client, rows: u32) {
    use futures_util::SinkExt;
    let sink = client.copy_in("copy public.plain from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let lines: String = (0..rows).map(|row| format!("{}\tcopied\n", row % 5)).collect();
    sink.send(bytes::Bytes::from(lines)).await.unwrap();
    sink.close().await.unwrap();
}

/// Asks for tables; gives behind which events they begin.
async fn ask(capture: &Capture, tables: &str) -> BTreeMap<String, u64> {
    let wanted = Command::Start { tables: vec![tables.to_owned()], condition: None };
    capture.status.ask_for_snapshot(wanted).await.unwrap().since
}

/// Has [`TABLES`] changed, and read; then they are asked for, and changed and read again. Capture is killed all the while.
pub(super) async fn initial_and_asked_for(server: &Server, config: &rowcast_postgres::Config) {
    let (client, directory) = (sql(server).await, Directory::new());
    let mut capture = Capture::start(config.clone(), directory.path()).await;
    let mut since = 0;
    for round in 0..2 {
        if round == 1 {
            let asked = ask(&capture, "public.*").await;
            since = asked["public.plain"];
            assert_eq!(asked["public.whole"], since);
        }
        capture = read_under_load(server, &client, (capture, directory.path()), config, &[]).await;
        let events: Vec<Seen> = capture.after(since);
        both_are_equal(&client, &events, since).await;
        let of = |op| events.iter().filter(move |event| event.op == op && event.xid == 0);
        let read: usize = of(Op::Read).map(|event| event.new.len()).sum();
        println!("{read} bytes read, {} rows gone that were in a file", of(Op::Delete).count());
        assert!(read > LARGE, "{read} bytes are no file");
        assert!(events.iter().all(|event| event.op != Op::Gap));
    }
    capture.stop().await;
}

/// Has them changed and read while capture is killed now and then.
async fn read_under_load(
    server: &Server,
    client: &Client,
    (mut capture, directory): (Capture, &std::path::Path),
    config: &rowcast_postgres::Config,
    sinks: &[Sink<'_>],
) -> Capture {
    let seed = seed();
    let writers = Writers::start_with([sql(server).await, sql(server).await], seed, transaction).await;
    let mut random = StdRng::seed_from_u64(!seed);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(random.random_range(1..400))).await;
        copy(client, random.random_range(1..3000)).await;
        capture.crash().await;
        capture = Capture::start_for(config.clone(), directory, sinks).await;
    }
    let started = std::time::Instant::now();
    // A machine that has too much to do lags further and further behind the writers.
    let beside = tokio::time::timeout(BESIDE, read_whole(&capture)).await.is_ok();
    let transactions = writers.stop().await;
    read_whole(&capture).await;
    caught_up(client, &capture).await;
    println!(
        "{transactions} transactions, read {:?} behind the last crash, beside them: {beside}",
        started.elapsed()
    );
    assert!(capture.status.dropped_tables().is_empty(), "{:?}", capture.status.dropped_tables());
    capture
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_there_are_as_many_of_each() {
    let server = Server::start("");
    run(&sql(&server).await, TABLES).await;
    initial_and_asked_for(&server, &initial(&server)).await;
}

/// What was written before a sink begins it has not, and what comes later it has from its events.
#[tokio::test(flavor = "multi_thread")]
async fn under_full_write_load_sinks_have_as_many_of_each_wherever_they_begin() {
    let server = Server::start("");
    let (client, directory, config) = (sql(&server).await, Directory::new(), config(&server));
    run(&client, TABLES).await;
    let [a, b, c]: [Sink<'_>; 3] = [("a", Some(5)), ("b", None), ("c", Some(6))];
    let capture = Capture::start_for(config.clone(), directory.path(), &[a, b]).await;
    let capture = read_under_load(&server, &client, (capture, directory.path()), &config, &[a, b]).await;
    capture.crash().await;
    let capture = Capture::start_for(config.clone(), directory.path(), &[a, b, c]).await;
    let capture = read_under_load(&server, &client, (capture, directory.path()), &config, &[a, b, c]).await;
    assert!(capture.place_of("a") < capture.place_of("c"));
    for sink in ["a", "c"] {
        both_are_equal(&client, &capture.events_for(sink), capture.place_of(sink)).await;
    }
    for others in [capture.events(), capture.events_for("b")] {
        assert!(others.iter().all(|event| event.op != Op::Read && event.xid != 0));
    }
    capture.stop().await;
}

/// Who asks in a transaction has what that brings, too. So has the table that a transaction brings, with its first rows.
#[tokio::test(flavor = "multi_thread")]
async fn asked_for_in_the_log_and_a_table_that_comes_later() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table plain (n int, v text); insert into plain values (1, 'a'), (1, 'a')").await;
    let capture = Capture::start(initial(&server), directory.path()).await;
    read_whole(&capture).await;
    run(&client, "insert into plain values (1, 'a')").await;
    caught_up(&client, &capture).await;
    let since = capture.journal.newest();
    run(&client, "begin; insert into plain values (1, 'a'); select rowcast.snapshot('plain'); insert into plain values (2, 'b'); commit").await;
    run(&client, "insert into plain values (1, 'a')").await;
    run(&client, "create table fresh as select 1 as n, 'x' as v; insert into fresh values (1, 'x')").await;
    run(&client, "insert into fresh values (1, 'x')").await;
    until("the new table", async || {
        let dropped = capture.status.dropped_tables();
        assert!(dropped.is_empty(), "{dropped:?}");
        capture.status.read_tables().contains_key("public.fresh")
    })
    .await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    is_equal(&client, &capture.events(), since, ("plain", &["n", "v"])).await;
    is_equal(&client, &capture.events(), 0, ("fresh", &["n", "v"])).await;
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_while_it_is_read() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, TABLES).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    for round in 0..6 {
        let since = ask(&capture, "public.*").await["public.whole"];
        for step in 0..3 {
            run(&client, &format!(
                "update whole set v = 'x' where n = {step}; delete from whole where n = 400 + {step};
                 begin; truncate plain; insert into plain select i, 'r{round}' from generate_series(1, 3000) i; commit;
                 insert into plain values (1, 'r{round}')"
            ))
            .await;
            if step == 1 && round % 2 == 1 {
                run(&client, "begin; truncate whole; insert into whole select i % 500, 'new', repeat('y', 2500) from generate_series(1, 5000) i; commit").await;
            }
        }
        read_whole(&capture).await;
        caught_up(&client, &capture).await;
        both_are_equal(&client, &capture.events(), since).await;
    }
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_it_and_it_begins_anew() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table plain (n int, v text); insert into plain select i, repeat('x', 200) from generate_series(1, 400000) i").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let table = || vec!["public.plain".to_owned()];
    let since = ask(&capture, "public.plain").await["public.plain"];
    until("some rows", async || {
        let mut snapshots = capture.report().snapshots.into_iter();
        snapshots.any(|shown| shown.rows > 0 && shown.estimate >= shown.rows && shown.state == State::Reading)
    })
    .await;
    capture.status.ask_for_snapshot(Command::Pause(table())).await.unwrap();
    run(&client, "insert into plain values (1, 'while it is paused')").await;
    caught_up(&client, &capture).await;
    assert_eq!(capture.events().len(), 1, "events go on, no row is told");
    let shown = capture.report().snapshots.remove(0);
    assert_eq!((shown.state, shown.since), (State::Paused, Some(since)));
    let spills = || std::fs::read_dir(directory.path()).unwrap().flatten();
    assert!(
        !spills().any(|file| file.path().extension().is_some_and(|end| end == "tmp")),
        "its file is gone"
    );
    capture.status.ask_for_snapshot(Command::Resume(table())).await.unwrap();
    read_whole(&capture).await;
    // The one that came meanwhile is not told again.
    assert_eq!(capture.status.read_tables()["public.plain"], 400_000);
    is_equal(&client, &capture.events(), since, ("plain", &["n", "v"])).await;

    let events = capture.events().len();
    ask(&capture, "public.plain").await;
    until("some rows", async || capture.report().snapshots.iter().any(|shown| shown.rows > 0)).await;
    capture.status.ask_for_snapshot(Command::Cancel(table())).await.unwrap();
    read_whole(&capture).await;
    assert_eq!(capture.events().len(), events);
    capture.stop().await;
}

/// What is no key for the server's events is none for the order of readings either: who begins where it says has each row once.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_deferrable_is_none() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table d (id int primary key deferrable); insert into d values (1), (2);
         create table f (id int primary key deferrable); alter table f replica identity full; insert into f values (1);
         create table e (id int primary key); insert into e values (1)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into d values (3)").await;
    caught_up(&client, &capture).await;
    let since = ask(&capture, "public.*").await;
    assert_eq!(since.keys().collect::<Vec<_>>(), ["public.d"]);
    read_whole(&capture).await;
    is_equal(&client, &capture.events(), since["public.d"], ("d", &["id"])).await;
    capture.stop().await;
}

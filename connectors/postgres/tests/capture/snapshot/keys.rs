//! Keys whose order is not that of the operators that a plain name finds: every row comes, once, in the key's order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::again;
use super::*;

/// More than a first chunk has, so that rows are read behind a key.
const ROWS: usize = 4500;

/// Name, types before it, the key's definition, and its value for number `i`.
const KEYS: [(&str, &str, &str, &str); 12] = [
    (
        "cases",
        "",
        "k public.citext primary key",
        "case when i % 2 = 0 then upper(md5(i::text)) else md5(i::text) end",
    ),
    ("trees", "", "k public.ltree primary key", "('a.' || md5(i::text))::public.ltree"),
    (
        "composite",
        "create type public.pair as (a public.citext, b int);",
        "k public.pair primary key",
        "row(case when i % 2 = 0 then upper(md5((i / 3)::text)) else md5((i / 3)::text) end, i)::public.pair",
    ),
    (
        "domains",
        "create domain public.name as public.citext;",
        "k public.name primary key",
        "case when i % 2 = 0 then upper(md5(i::text)) else md5(i::text) end",
    ),
    (
        "insensitive",
        "create collation public.insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false);",
        "k text collate public.insensitive primary key",
        "case when i % 2 = 0 then upper(md5(i::text)) else md5(i::text) end",
    ),
    (
        "bytewise",
        "",
        "k text collate \"C\" primary key",
        "case when i % 2 = 0 then upper(md5(i::text)) else md5(i::text) end",
    ),
    ("fixed", "", "k char(40) primary key", "md5(i::text)"),
    ("arrays", "", "k int[] primary key", "array[i % 7, -i]"),
    ("ranges", "", "k int4range primary key", "int4range(i, i + 5)"),
    ("numbers", "", "k numeric primary key", "i * -1.50"),
    (
        "moods",
        "create domain public.mark as text;",
        "k public.mark, l public.citext, primary key (k, l)",
        "(i % 5)::text",
    ),
    ("two", "", "k int, l public.citext, primary key (k, l)", "i % 5"),
];

async fn fill(client: &Client) {
    run(client, "create extension citext; create extension ltree").await;
    for (name, before, key, value) in KEYS {
        let (second, rest) = if key.contains(", l ") {
            ("l, ", "case when i % 2 = 0 then upper(md5(i::text)) else md5(i::text) end, ")
        } else {
            ("", "")
        };
        run(
            client,
            &format!(
                "{before} create table {name} ({key}, v int);
                 insert into {name} (k, {second}v) select {value}, {rest}i from generate_series(1, {ROWS}) i"
            ),
        )
        .await;
    }
    // A key whose index has another collation, and another order, than the column.
    run(
        client,
        &format!(
            "create table by_index (k text collate public.insensitive not null, v int);
             create unique index by_index_k on by_index (k collate \"C\" desc);
             alter table by_index replica identity using index by_index_k;
             insert into by_index select case when i % 2 = 0 then upper(md5((i / 2)::text)) else md5((i / 2)::text) end, i
             from generate_series(1, {ROWS}) i"
        ),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_left_out_or_comes_twice() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    fill(&client).await;
    let capture = Capture::start(initial(&server), directory.path()).await;
    read_whole(&capture).await;
    let (events, mut wrong) = (capture.events(), Vec::new());
    for name in KEYS.iter().map(|(name, ..)| *name).chain(["by_index"]) {
        let channel = format!("public.{name}");
        let of_table = events.iter().filter(|event| event.op == Op::Read && event.channel == channel);
        let mut numbers: Vec<usize> =
            of_table.map(|event| event.new.rsplit(',').next().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        if numbers != (1..=ROWS).collect::<Vec<_>>() {
            wrong.push(format!("{name}: {} rows", numbers.len()));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_read_again_by_such_keys() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create extension citext;
         create table t (k public.citext primary key, v text, big text);
         alter table t alter big set storage external;
         insert into t select case when i % 2 = 0 then 'A' else 'b' end || i, 'v', repeat(i || ' ', 900)
         from generate_series(1, 1500) i",
    )
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (writer, stop) = (sql(&server).await, Arc::clone(&stop));
        run(&writer, "select 1").await;
        tokio::spawn(async move {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let sql = format!(
                    "update t set v = 'u{round}' where v <> 'u{round}' and hashtext(k::text) % 301 = {round} % 301"
                );
                writer.batch_execute(&sql).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            round
        })
    };
    let capture = Capture::start(initial(&server), directory.path()).await;
    // As often as it takes until some of them wait to be read again.
    let mut waited = false;
    until("keys to be read again", async || {
        waited |= again(&capture.journal).is_some_and(|keys| keys > 0);
        if !waited && capture.report().snapshots.is_empty() {
            let wanted = rows_of_t(None);
            // The one before may have just begun.
            let _ = capture.status.ask_for_snapshot(wanted).await;
        }
        waited
    })
    .await;
    read_whole(&capture).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    caught_up(&client, &capture).await;
    let built = rebuilt(&capture.events(), "public.t", 3);
    assert_eq!(built.len(), 1500);
    for (key, row) in actual(&client, "t", &["k", "v", "big"]).await {
        assert_eq!(built.get(&key), Some(&row), "{key}");
    }
    capture.stop().await;
}

//! What real servers send, read by our decoder and by others: the same.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rowcast_engine::event::Op;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, Seen, config, run, sql, value};
use super::snapshot::{caught_up, load};
use crate::fuzz::other;
use crate::support::Server;

/// Something of every message, every identity and every kind of value.
const LOAD: &str = "
    create type mood as enum ('sad', 'ok');
    create domain short as varchar(7);
    create table d (id int primary key, big text, m mood, s short, n numeric(10, 2), a int[]);
    alter table d alter big set storage external;
    create table f (like d); alter table f replica identity full; alter table f alter big set storage external;
    create table i (a int not null, b int not null, n int, unique (b, a));
    alter table i replica identity using index i_b_a_key;
    create table n (id int primary key, v int); alter table n replica identity nothing;
    create table \"Größe \"\"1\"\"\" (id bigserial primary key, \"a b\" text, at timestamptz default now());
    create table none ();
    create table p (id int primary key, v text) partition by range (id);
    create table leaf (v text, id int not null); alter table p attach partition leaf for values from (0) to (100);
    create publication everything for table d, f, i, \"Größe \"\"1\"\"\", p with (publish_via_partition_root = true);
    create publication inserts for table n, none with (publish = 'insert, truncate');
    select pg_replication_origin_create('elsewhere')";

const CHANGES: &[&str] = &[
    "insert into d values (1, repeat('x', 5000), 'ok', 'short', 1.5, '{1,NULL,3}'), (2, '', null, null, null, null)",
    "update d set n = 2.25; update d set id = id + 10; delete from d where id = 11",
    "insert into f values (1, repeat('y', 5000), 'sad', E'a\tb', 'NaN', '{}'); update f set n = 1; delete from f",
    "insert into i values (1, 2, 3); update i set n = 4; update i set a = 5; delete from i",
    "insert into n values (1, 2); insert into none default values; truncate n, none",
    "begin; insert into \"Größe \"\"1\"\"\" (\"a b\") select repeat('ü', g) from generate_series(1, 300) g; commit",
    "begin; insert into d (id) values (100); savepoint s; insert into d (id) values (101); rollback to s; commit",
    "insert into p values (1, 'one'); update p set v = 'two'; delete from p; truncate p restart identity cascade",
    "alter table d add column late text default 'x'; insert into d (id) values (200); truncate d cascade",
    "select pg_logical_emit_message(true, 'prefix', 'content'), pg_logical_emit_message(false, '', '\\x00ff'::bytea)",
    "select pg_replication_origin_session_setup('elsewhere'); insert into f (id) values (7)",
];

/// What is sent before it commits, or rolls back: every message in pieces, in transactions and savepoints.
const IN_PIECES: &[&str] = &[
    "begin; insert into d select g, repeat('x', 90), 'ok', 's', g, '{1}' from generate_series(1000, 3000) g; savepoint s;
     update d set n = 7 where id > 1000; update d set id = id + 10000 where id < 1100; rollback to s;
     insert into f (id, big) select g, repeat('y', 3000) from generate_series(1, 300) g; savepoint r; update f set n = 2;
     delete from f where id > 100; release r; truncate n, none restart identity;
     select pg_logical_emit_message(true, 'prefix', 'content'); insert into p values (50, 'fifty'); commit",
    "begin; insert into i select g, g, g from generate_series(1, 3000) g; delete from i; rollback",
    "begin; alter table d add column later mood; insert into d (id, later) select g, 'sad' from generate_series(20000, 23000) g; commit",
    "select pg_replication_origin_session_setup('elsewhere')",
    "begin; insert into f (id) select g from generate_series(1000, 4000) g; commit",
];

async fn peek(client: &Client, more: &str) -> Vec<Vec<u8>> {
    let sql = format!(
        "select data from pg_logical_slot_peek_binary_changes('s', null, null, {more},
         'publication_names', 'everything,inserts', 'messages', 'true')"
    );
    client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn begin(server: &Server) -> Client {
    let client = sql(server).await;
    run(&client, LOAD).await;
    // It must be the first of its transaction.
    client.execute("select pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await.unwrap();
    client
}

#[tokio::test]
async fn the_same_bytes_are_the_same_messages() {
    let server = Server::start("");
    let client = begin(&server).await;
    for changes in CHANGES {
        run(&client, changes).await;
    }
    let messages = peek(&client, "'proto_version', '1'").await;
    let mut tags = BTreeMap::<char, usize>::new();
    for message in &messages {
        assert_eq!(other::compare(message), Ok(true));
        *tags.entry(char::from(message[0])).or_default() += 1;
    }
    // All that protocol 1 has was there.
    assert_eq!(tags.keys().collect::<String>(), "BCDIMORTUY", "{tags:?}");
    assert!(tags[&'I'] > 300 && tags[&'U'] >= 7 && tags[&'D'] >= 4 && tags[&'T'] >= 3, "{tags:?}");
    // A transaction that has nothing for us is told up to version 14.
    assert!(tags[&'B'] == tags[&'C'] && tags[&'B'] >= CHANGES.len() - 1, "{tags:?}");
    let slot = "select confirmed_flush_lsn < pg_current_wal_lsn() from pg_replication_slots";
    assert_eq!(value(&client, slot).await, "true");
}

#[tokio::test]
async fn the_same_pieces_are_the_same_messages() {
    let server = Server::start("logical_decoding_work_mem = 64kB");
    let client = begin(&server).await;
    for changes in IN_PIECES {
        run(&client, changes).await;
    }
    let (mut around, mut within) = (BTreeMap::<char, usize>::new(), BTreeMap::<char, usize>::new());
    let mut is_within = false;
    for message in &peek(&client, "'proto_version', '2', 'streaming', 'on'").await {
        let compared = if is_within { other::compare_within(message) } else { other::compare(message) };
        assert_eq!(compared, Ok(true));
        let tag = char::from(message[0]);
        let tags = if is_within { &mut within } else { &mut around };
        *tags.entry(tag).or_default() += 1;
        is_within = if is_within { tag != 'E' } else { tag == 'S' };
    }
    // All that protocol 2 has in pieces was there, and pieces were begun, ended, rolled back and committed.
    within.remove(&'O'); // Servers know where a transaction comes from only when it has committed.
    assert_eq!(within.keys().collect::<String>(), "DEIMRTUY", "{within:?}");
    assert!(around[&'S'] == within[&'E'] && around[&'S'] > 10, "{around:?}, {within:?}");
    // From 18 on what has been rolled back before it is read is not sent.
    assert!(around[&'A'] >= 1 && around[&'c'] == 3, "{around:?}");
}

/// Columns as `test_decoding` names them.
fn columns(channel: &str) -> &'static [(&'static str, &'static str)] {
    match channel {
        "public.t" => &[("id", "integer"), ("v", "text"), ("big", "text")],
        _ => &[("id", "integer"), ("n", "numeric"), ("ok", "boolean"), ("v", "text")],
    }
}

/// A row as `test_decoding` prints it.
fn printed(channel: &str, row: &str, nulls: bool) -> String {
    let columns = columns(channel);
    let values = columns.iter().zip(row.splitn(columns.len(), ','));
    let values = values.filter(|(_, value)| nulls || *value != "NULL").map(|((name, ty), value)| {
        let value = match (value, *ty) {
            ("NULL", _) => "null".to_owned(),
            ("UNCHANGED", _) => "unchanged-toast-datum".to_owned(),
            (value, "boolean") => (value == "t").to_string(),
            (value, "text") => format!("'{}'", value.replace('\'', "''")),
            (value, _) => value.to_owned(),
        };
        format!(" {name}[{ty}]:{value}")
    });
    values.collect()
}

/// An event as a line of `test_decoding`.
fn line(event: &Seen) -> String {
    let row = |text: &str, nulls| printed(&event.channel, text, nulls);
    let old = event.old.get(2..).map(|old| row(old, false));
    let change = match (event.op, old) {
        (Op::Insert, None) => format!("INSERT:{}", row(&event.new, true)),
        (Op::Update, None) => format!("UPDATE:{}", row(&event.new, true)),
        (Op::Update, Some(old)) => format!("UPDATE: old-key:{old} new-tuple:{}", row(&event.new, true)),
        (Op::Delete, Some(old)) => format!("DELETE:{old}"),
        (Op::Truncate, None) => "TRUNCATE: (no-flags)".to_owned(),
        (op, old) => panic!("{op:?} with {old:?}"),
    };
    format!("table {}: {change}", event.channel)
}

/// The server's own words for what has changed, and what the journal holds of it: the same, line by line.
#[tokio::test]
async fn test_decoding_tells_the_same_changes() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key, v text, big text); alter table t alter big set storage external;
         create table f (id int, n numeric, ok boolean, v text); alter table f replica identity full",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "select pg_create_logical_replication_slot('oracle', 'test_decoding')").await;
    let mut random = StdRng::seed_from_u64(load::seed());
    for number in 0..400 {
        run(&client, &load::transaction(&mut random)).await;
        if number % 10 == 0 {
            run(
                &client,
                &format!(
                    "insert into f values ({number}, {number}.50, true, 'it''s'), (null, null, false, null);
                     update f set n = n * 2, ok = not ok where id = {number} - 20 or id is null;
                     update f set v = E'a\\tb\\\\' where id = {number}; delete from f where id = {number} - 30"
                ),
            )
            .await;
        }
        if number == 200 {
            run(&client, "truncate t; truncate f; insert into t values (1, '', null)").await;
        }
    }
    let changes = "select data from pg_logical_slot_get_changes('oracle', null, null, 'include-xids', '0',
                   'skip-empty-xacts', '1')";
    let theirs: Vec<String> =
        client.query(changes, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    caught_up(&client, &capture).await;
    let mut ours = Vec::new();
    for event in capture.events() {
        if event.seq == 0 {
            ours.push("BEGIN".to_owned());
        }
        ours.push(line(&event));
        if event.last {
            ours.push("COMMIT".to_owned());
        }
    }
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 1500, "{}", ours.len());
    capture.stop().await;
}

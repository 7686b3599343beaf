//! A table that nobody changes meanwhile.

use super::*;

#[tokio::test]
async fn all_rows_once_in_the_order_of_the_key() {
    let server = Server::start("");
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text); insert into t select i, 'v' || i from generate_series(1, 5000) i;
                  create table empty (id int primary key); create table keyless (a int); insert into keyless values (1); create table nothing (a int)").await;
    let directory = Directory::new();
    let capture = Capture::start(initial(&server), directory.path()).await;
    read_whole(&capture).await;
    let events = capture.events();
    let reads: Vec<&Seen> = events.iter().filter(|event| event.channel == "public.t").collect();
    let keys: Vec<usize> =
        reads.iter().map(|event| event.new.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(keys, (1..=5000).collect::<Vec<_>>());
    assert!(events.iter().all(|event| event.op == Op::Read && event.xid == 0 && event.end_lsn.0 == 0));
    let others = events.iter().filter(|event| event.channel != "public.t");
    assert_eq!(others.map(Seen::brief).collect::<Vec<_>>(), ["read public.keyless 1"]);
    run(&client, "update t set v = 'new' where id = 7").await;
    caught_up(&client, &capture).await;
    let table = rebuilt(&capture.events(), "public.t", 2);
    assert_eq!(table, actual(&client, "t", &["id", "v"]).await);
    capture.stop().await;
    // A start that goes on reads nothing again.
    let capture = Capture::start(initial(&server), directory.path()).await;
    run(&client, "insert into t values (6000, 'later')").await;
    let events = capture.wait(5003).await;
    assert_eq!(events.last().unwrap().brief(), "insert public.t 6000,later");
    capture.stop().await;
}

#[tokio::test]
async fn a_table_that_comes_later_with_rows_is_read() {
    let server = Server::start("");
    let client = sql(&server).await;
    run(&client, "create schema hidden; create table hidden.t (id int primary key, v text); insert into hidden.t values (1, 'a'), (2, 'b')").await;
    let directory = Directory::new();
    let config = rowcast_postgres::Config { tables: vec!["public.*".to_owned()], ..initial(&server) };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "alter table hidden.t set schema public; insert into t values (3, 'c')").await;
    until("the rows", async || rebuilt(&capture.events(), "public.t", 2).len() == 3).await;
    read_whole(&capture).await;
    let events = capture.events();
    assert!(events.iter().all(|event| event.op != Op::Gap), "it is read in place of a gap");
    assert_eq!(rebuilt(&events, "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    capture.stop().await;
}

#[tokio::test]
async fn a_transaction_can_ask_for_rows() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 50) i").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "begin; select rowcast.snapshot('t'); rollback").await;
    run(&client, "begin; insert into t values (100, 'new'); select rowcast.snapshot('t', 'id <= 10 or id = 100'); commit").await;
    until("the rows", async || capture.status.read_tables().contains_key("public.t")).await;
    read_whole(&capture).await;
    let ops: Vec<Op> = capture.events().iter().map(|event| event.op).collect();
    assert_eq!(ops, [vec![Op::Insert], vec![Op::Read; 11]].concat());
    // What cannot be read is given up, and said so.
    run(&client, "select rowcast.snapshot('t', 'nothing = 1')").await;
    caught_up(&client, &capture).await;
    read_whole(&capture).await;
    run(
        &client,
        "select rowcast.snapshot('t', 'id = 1', 'another_slot'); insert into t values (101, 'last')",
    )
    .await;
    assert_eq!(capture.wait(13).await[12].brief(), "insert public.t 101,last");
    assert!(client.batch_execute("select rowcast.snapshot('pg_class_oid_index')").await.is_err());
    capture.stop().await;
}

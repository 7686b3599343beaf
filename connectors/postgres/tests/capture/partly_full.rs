//! A partitioned table that is FULL, with partitions that are not: what the server calls a whole old row is a key.

use rowcast_engine::event::Op;
use rowcast_engine::schema::Identity;
use rowcast_postgres::{Config, Requirement, Streaming, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, Seen, config, run, sql};
use super::snapshot::caught_up;
use crate::support::Server;

/// Partitions get from the table above them how values are stored, and not what is logged of old rows.
const TREE: &str = "
    create table p (id int primary key, v text, big text) partition by range (id);
    alter table p alter big set storage external;
    create table p1 partition of p for values from (0) to (100);
    alter table p replica identity full";

/// A row with a value that is stored apart.
fn row(id: u32) -> String {
    format!("insert into p values ({id}, 'v{id}', repeat('x', 20000))")
}

/// `id,v` and whether the value that is stored apart is there, not sent or null.
fn short(tuple: &str) -> String {
    tuple.replace(&"x".repeat(20_000), "big")
}

fn told(event: &Seen) -> String {
    format!("{} {} -> {}", event.op.name(), short(&event.old), short(&event.new))
}

async fn advice(config: &Config) -> Option<Requirement> {
    check(config).await.unwrap().into_iter().find(|found| found.name == "partitions of FULL")
}

async fn change(client: &Client, statements: &[&str]) {
    for statement in statements {
        run(client, statement).await;
    }
}

async fn newest(client: &Client, capture: &Capture, count: usize) -> Vec<String> {
    caught_up(client, capture).await;
    let mut events = capture.events();
    events.retain(|event| event.channel == "public.p");
    events[events.len() - count..].iter().map(told).collect()
}

#[tokio::test]
async fn no_value_is_made_up_of_a_partition_that_is_not_full() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, config) = (sql(&server).await, config(&server));
    run(&client, TREE).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    change(&client, &[&row(1), "update p set id = 10 where id = 1", "delete from p where id = 10"]).await;
    assert_eq!(
        newest(&client, &capture, 3).await,
        ["insert  -> 1,v1,big", "update K:1,NULL,NULL -> 10,v1,UNCHANGED", "delete K:10,NULL,NULL -> "]
    );
    assert_eq!(capture.schema("public.p").identity, Identity::Default);

    // What `check` says mends it.
    let remedy = advice(&config).await.unwrap().remedy.unwrap();
    assert_eq!(remedy, r#"ALTER TABLE "public"."p1" REPLICA IDENTITY FULL;"#);
    change(&client, &[&remedy, &row(1), "update p set id = 10 where id = 1"]).await;
    assert_eq!(newest(&client, &capture, 1).await, ["update O:1,v1,big -> 10,v1,UNCHANGED"]);
    assert_eq!(capture.schema("public.p").identity, Identity::Full);
    assert_eq!(advice(&config).await, None);

    // A new partition below a root all of whose partitions were FULL.
    run(&client, "create table p2 partition of p for values from (100) to (200)").await;
    change(&client, &[&row(101), "update p set id = 110 where id = 101"]).await;
    assert_eq!(newest(&client, &capture, 1).await, ["update K:101,NULL,NULL -> 110,v101,UNCHANGED"]);
    capture.stop().await;
}

/// What can be done to the partition, or to all, behind a change of its rows.
const SINCE: [&str; 3] =
    ["alter table p1 replica identity full", "alter table p detach partition p1", "drop table p"];

/// What the catalog of now says of partitions need not be what was logged of them.
#[tokio::test]
async fn a_partition_that_has_become_full_or_left_since_was_not() {
    for since in SINCE {
        let (server, directory) = (Server::start(""), Directory::new());
        let (client, config) = (sql(&server).await, config(&server));
        run(&client, TREE).await;
        run(
            &client,
            "create table p2 partition of p for values from (100) to (200); alter table p2 replica identity full",
        )
        .await;
        let capture = Capture::start(config.clone(), directory.path()).await;
        run(&client, &row(1)).await;
        assert_eq!(newest(&client, &capture, 1).await.len(), 1);
        capture.stop().await;
        change(&client, &["update p set id = 10 where id = 1", since]).await;
        let capture = Capture::start(config, directory.path()).await;
        assert_eq!(
            newest(&client, &capture, 1).await,
            ["update K:1,NULL,NULL -> 10,v1,UNCHANGED"],
            "{since}"
        );
        capture.stop().await;
    }
}

/// Of one that is sent before it commits, too.
#[tokio::test]
async fn nor_in_a_transaction_that_is_streamed() {
    let server = Server::start("logical_decoding_work_mem = '64kB'");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, TREE).await;
    let streaming = Config { streaming: Streaming::On, ..config(&server) };
    let capture = Capture::start(streaming, directory.path()).await;
    let rows: String = (1..=20).map(|id| row(id) + ";").collect();
    run(&client, &format!("begin; {rows} update p set id = 50 where id = 1; commit")).await;
    assert_eq!(newest(&client, &capture, 1).await, ["update K:1,NULL,NULL -> 50,v1,UNCHANGED"]);
    assert!(capture.events().iter().all(|event| matches!(event.op, Op::Insert | Op::Update | Op::Message)));
    capture.stop().await;
}

/// Nor of those behind it, for which the server does not describe again what it has described for that one.
#[tokio::test]
async fn nor_where_its_partition_has_become_full_or_left_since() {
    for since in SINCE {
        let server = Server::start("logical_decoding_work_mem = '64kB'");
        let (client, directory) = (sql(&server).await, Directory::new());
        let other = "create table p2 partition of p for values from (100) to (200); alter table p2 replica identity full";
        run(&client, &format!("{TREE}; {other}; {}", row(101))).await;
        let streaming = Config { streaming: Streaming::On, ..config(&server) };
        let capture = Capture::start(streaming.clone(), directory.path()).await;
        run(&client, "update p set v = 'known' where id = 101").await;
        assert_eq!(newest(&client, &capture, 1).await, ["update K:101,v101,big -> 101,known,UNCHANGED"]);
        capture.stop().await;
        let rows: String = (1..=20).map(|id| row(id) + ";").collect();
        let large = format!("begin; {rows} update p set id = 50 where id = 1; commit");
        change(&client, &[&large, "update p set id = 60 where id = 50", since]).await;
        let capture = Capture::start(streaming, directory.path()).await;
        assert_eq!(
            newest(&client, &capture, 2).await,
            ["update K:1,NULL,NULL -> 50,v1,UNCHANGED", "update K:50,NULL,NULL -> 60,v1,UNCHANGED"],
            "{since}"
        );
        capture.stop().await;
    }
}

/// A TRUNCATE describes the root alone, and next comes any other table, which has the same columns maybe and is not FULL.
#[tokio::test]
async fn a_table_of_its_own_is_nobodys_partition() {
    for emptied in ["truncate p", "truncate p, archive"] {
        for streaming in [Streaming::Off, Streaming::On] {
            let server = Server::start("logical_decoding_work_mem = '64kB'");
            let (client, directory) = (sql(&server).await, Directory::new());
            run(&client, &format!("{TREE}; alter table p1 replica identity full; create table archive (like p including all)"))
                .await;
            let capture = Capture::start(Config { streaming, ..config(&server) }, directory.path()).await;
            let rows: String = (2..=20).map(|id| row(id) + ";").collect();
            let moved = |id: u32| format!("insert into archive values ({id}, 'v7', 'x')");
            run(&client, &format!("begin; {}; {emptied}; {}; {rows} {}; commit", row(1), moved(7), row(1)))
                .await;
            run(&client, "update p set id = 50 where id = 1").await;
            run(&client, &format!("{emptied}; {}; {}", moved(8), row(1))).await;
            run(&client, "update p set id = 50 where id = 1").await;
            let updates = newest(&client, &capture, 4).await;
            assert_eq!(updates[3], "update O:1,v1,big -> 50,v1,UNCHANGED", "{emptied}, {streaming:?}");
            assert_eq!(capture.schema("public.p").identity, Identity::Full);
            capture.stop().await;
        }
    }
}

//! Types of rows that are read when their table has others, or none at all.

use rowcast_postgres::{Config, Streaming};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::measured::counted;
use super::said::logged;
use crate::support::Server;

/// Sent before they commit, where that is asked for.
const IN_PIECES: &str = "logical_decoding_work_mem = 64kB";

const ORDERS: &str = "create type st as enum ('new', 'paid'); create domain did as bigint; create type addr as (x text, y int);
    create table ord (id did primary key, status st, tags st[], a addr, n text)";

/// The usual way to change an enumeration, and the end of all others.
const MIGRATION: &str = "create type st2 as enum ('new', 'paid', 'gone'); alter table ord alter status type st2 using status::text::st2,
    alter tags type st2[] using tags::text::st2[], alter id type bigint, drop a; drop type st; drop domain did; drop type addr";

const BEFORE: &str = "id did(int8), status st(new|paid), tags _st(new|paid), a addr(x,y), n text";
const AFTER: &str = "id int8, status st2(new|paid|gone), tags _st2(new|paid|gone), n text";

fn columns(capture: &Capture) -> Vec<String> {
    let mut columns: Vec<String> = capture.events().into_iter().map(|event| event.columns).collect();
    columns.dedup();
    columns
}

/// `v` is so long that a transaction with some of them is sent in pieces.
fn rows(table: &str, first: u32, value: &str) -> String {
    let last = first + 1999;
    format!("insert into {table} select g, {value}, repeat('x', 150) from generate_series({first}, {last}) g")
}

#[tokio::test]
async fn types_that_are_gone_are_what_they_were() {
    for streaming in [Streaming::Off, Streaming::On] {
        let (server, directory) = (Server::start(IN_PIECES), Directory::new());
        let client = sql(&server).await;
        run(&client, ORDERS).await;
        let config = Config { streaming, ..config(&server) };
        let capture = Capture::start(config.clone(), directory.path()).await;
        let of_row =
            |id: u32| format!("insert into ord values ({id}, 'new', '{{new,paid}}', ('s', 1), 'one')");
        run(&client, &of_row(1)).await;
        capture.wait(1).await;
        // Beside a capture that runs, in one transaction: the description comes anew, in front of the row.
        run(
            &client,
            &format!(
                "begin; {}; {MIGRATION}; insert into ord values (3, 'gone', '{{gone}}', 'two'); commit",
                of_row(2)
            ),
        )
        .await;
        let briefs = capture.briefs(3).await;
        assert_eq!(briefs[1], "insert public.ord 2,new,{new,paid},(s,1),one");
        assert_eq!(columns(&capture), [BEFORE, AFTER], "{streaming:?}");
        capture.stop().await;

        // While it does not run.
        run(&client, "insert into ord values (4, 'gone', '{gone}', 'three')").await;
        run(&client, "alter table ord alter status type text, alter tags type text[]; drop type st2").await;
        run(&client, "insert into ord values (5, 'x', '{x}', 'four')").await;
        let capture = Capture::start(config, directory.path()).await;
        capture.wait(5).await;
        assert_eq!(
            columns(&capture),
            [BEFORE, AFTER, "id int8, status text, tags _text, n text"],
            "{streaming:?}"
        );
        assert_eq!(logged(directory.path(), "Their types are gone"), Vec::<String>::new());
        capture.stop().await;
    }
}

/// There is no version of before: they are text, and somebody is told.
#[tokio::test]
async fn types_that_nobody_remembers_are_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, ORDERS).await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    let row = "insert into ord values (1, 'new', '{new}', ('s', 1), 'one')";
    run(&client, &format!("{row}; update ord set n = 'two'; {MIGRATION}")).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let briefs = capture.briefs(2).await;
    assert_eq!(briefs[1], "update public.ord 1,new,{new},(s,1),two");
    assert_eq!(columns(&capture), ["id unknown, status unknown, tags unknown, a unknown, n text"]);
    let told = logged(directory.path(), "Their types are gone");
    assert!(told.len() == 1 && told[0].contains("id, status, tags, a"), "{told:?}");
    assert_eq!(counted("rowcast_source_unknown_types_total"), 4);
    capture.stop().await;
}

/// No version of the journal has them: as long as none was dropped, those of before are the first ones of now.
#[tokio::test]
async fn row_types_that_nobody_remembers_had_their_first_attributes() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create type pair as (x int, y text); create type lost as (x int, y text, z int);
         create table t (id int primary key, p pair, ps pair[], l lost)",
    )
    .await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    run(&client, "insert into t values (1, (1, 'a'), array[(2, 'b')]::pair[], (1, 'a', 2))").await;
    run(&client, "alter type pair add attribute z int; insert into t values (2, (1, 'a', 3), null, null)")
        .await;
    run(&client, "alter type pair add attribute q int").await;
    run(&client, "alter type lost drop attribute y, add attribute y text, add attribute q int").await;
    run(&client, "insert into t values (3, (1, 'a', 3, 4), null, (1, 2, 'a', 4))").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    capture.wait(3).await;
    // A value that is null says nothing.
    let expected = [
        "id int4, p pair(x,y), ps _pair(x,y), l lost(x,z,y,q)",
        "id int4, p pair(x,y,z), ps _pair(x,y,z,q), l lost(x,z,y,q)",
        "id int4, p pair(x,y,z,q), ps _pair(x,y,z,q), l lost(x,z,y,q)",
    ];
    assert_eq!(columns(&capture), expected);
    capture.stop().await;
}

/// Rows that were written before it, in its transaction and in another one that commits behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_types_have_the_attributes_that_their_values_have() {
    for streaming in [Streaming::Off, Streaming::On] {
        let (server, directory) = (Server::start(IN_PIECES), Directory::new());
        let (client, other) = (sql(&server).await, sql(&server).await);
        run(&client, "create type pair as (x int, y text); create domain pairs as pair[]").await;
        run(&client, "create table comp (id int primary key, p pair, ps pairs, v text)").await;
        let config = Config { streaming, ..config(&server) };
        let capture = Capture::start(config.clone(), directory.path()).await;
        let (two, three) =
            ("(1, 'a')::pair, array[(2, 'b')]::pair[]", "(1, 'a', 5)::pair, array[(2, 'b', 6)]::pair[]");
        let (old, new) = (
            "id int4, p pair(x,y), ps pairs(_pair(x,y)), v text",
            "id int4, p pair(x,y,z), ps pairs(_pair(x,y,z)), v text",
        );
        run(&client, &rows("comp", 1, two)).await;
        capture.wait(2000).await;
        // Open while the type changes, and both before and behind it in one transaction.
        run(&other, &format!("begin; {}", rows("comp", 10_000, two))).await;
        if streaming == Streaming::On {
            let sent = "select stream_txns from pg_stat_replication_slots where slot_name = 'rowcast'";
            until("it is sent", async || value(&client, sent).await.parse::<u32>().unwrap() >= 1).await;
        }
        let change = "alter type pair add attribute z int";
        let within = format!(
            "begin; {}; {change}; {}; commit",
            rows("comp", 20_000, two),
            rows("comp", 30_000, three)
        );
        run(&client, &within).await;
        run(&other, "commit").await;
        run(&client, &rows("comp", 40_000, three)).await;
        capture.wait(10_000).await;
        // The description comes anew, in front of the rows of before.
        let change = "alter type pair add attribute q int; alter table comp add column w int";
        run(&client, &format!("begin; {}; {change}; commit", rows("comp", 50_000, three))).await;
        let events = capture.wait(12_000).await;
        let of = |id: u32| {
            let id = format!("{id},");
            events.iter().find(|event| event.new.starts_with(&id)).unwrap().columns.clone()
        };
        for id in [1, 10_000, 11_999, 20_000, 21_999] {
            assert_eq!(of(id), old, "{id} {streaming:?}");
        }
        for id in [30_000, 31_999, 40_000, 41_999, 50_000, 51_999] {
            assert_eq!(of(id), new, "{id} {streaming:?}");
        }
        capture.stop().await;
    }
}

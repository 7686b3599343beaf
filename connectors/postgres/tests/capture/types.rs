//! Types that change under the tables that have them: Postgres sends no word of it, the event trigger does.

use rowcast_postgres::{Config, Streaming};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

/// Sent before they commit, where that is asked for.
const IN_PIECES: &str = "logical_decoding_work_mem = 64kB";

const TABLES: &str = "create type mood as enum ('sad', 'ok'); create type pair as (a int, b text);
    create domain pairs as pair[]; create table other (id int primary key, n int);
    create table t (id int primary key, m mood, ps pairs, o other, v text);
    create table plain (id int primary key, v text)";

/// The columns of the row of this number, as its schema version has them, but for the first and what is in front of types.
fn of_row(capture: &Capture, at: usize) -> String {
    let columns = &capture.events()[at].columns;
    columns.split(", ").skip(1).map(|column| column.split_once(' ').unwrap().1).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_those_that_they_have_from_then_on() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, TABLES).await;
    // Whoever may change a type needs no right of rowcast's.
    run(&client, "create role app; alter type mood owner to app; grant all on schema public to app").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let steps = [
        ("", "mood(sad|ok) pairs(_pair(a,b)) other(id,n) text"),
        (
            "set role app; alter type mood add value 'so-so' before 'ok'; reset role",
            "mood(sad|so-so|ok) pairs(_pair(a,b)) other(id,n) text",
        ),
        (
            "alter type mood rename value 'sad' to 'low'",
            "mood(low|so-so|ok) pairs(_pair(a,b)) other(id,n) text",
        ),
        (
            "alter type pair rename attribute a to first",
            "mood(low|so-so|ok) pairs(_pair(first,b)) other(id,n) text",
        ),
        (
            "alter table other rename column n to m",
            "mood(low|so-so|ok) pairs(_pair(first,b)) other(id,m) text",
        ),
        ("alter type mood rename to feeling", "feeling(low|so-so|ok) pairs(_pair(first,b)) other(id,m) text"),
        (
            "alter domain pairs rename to couples",
            "feeling(low|so-so|ok) couples(_pair(first,b)) other(id,m) text",
        ),
    ];
    for (at, (change, types)) in steps.into_iter().enumerate() {
        run(&client, change).await;
        run(&client, &format!("insert into t (id, m) values ({at}, 'ok')")).await;
        capture.wait(at + 1).await;
        assert_eq!(of_row(&capture, at), types, "{change}");
    }
    // What was told before keeps what it was told with.
    for (at, (change, types)) in steps.into_iter().enumerate() {
        assert_eq!(of_row(&capture, at), types, "{change}");
    }
    // Nothing of it concerns a table that has no such type, and a change that is taken back concerns none.
    let before = capture.journal.schemas().len();
    run(&client, "begin; alter type pair rename attribute b to second; rollback").await;
    run(&client, "insert into t (id) values (100); insert into plain values (1, '')").await;
    capture.wait(steps.len() + 2).await;
    assert_eq!(capture.journal.schemas().len(), before + 1);
    capture.stop().await;
}

/// In one transaction with rows before it and behind it, sent whole and in pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_a_large_transaction() {
    for streaming in [Streaming::Off, Streaming::On] {
        let (server, directory) = (Server::start(IN_PIECES), Directory::new());
        let client = sql(&server).await;
        run(&client, TABLES).await;
        let capture = Capture::start(Config { streaming, ..config(&server) }, directory.path()).await;
        run(&client, "insert into t (id, m) values (0, 'ok')").await;
        capture.wait(1).await;
        let rows = |first: u32| {
            let last = first + 1999;
            format!(
                "insert into t (id, v) select g, repeat('x', 150) from generate_series({first}, {last}) g"
            )
        };
        let change = "alter type pair rename attribute a to first";
        run(&client, &format!("begin; {}; {change}; {}; commit", rows(1), rows(2001))).await;
        run(&client, "insert into t (id) values (5000)").await;
        let events = capture.wait(4002).await;
        assert_eq!(of_row(&capture, 0), "mood(sad|ok) pairs(_pair(a,b)) other(id,n) text");
        for at in [2001, 4000, 4001] {
            let expected = "mood(sad|ok) pairs(_pair(first,b)) other(id,n) text";
            assert_eq!(of_row(&capture, at), expected, "row {at}, {streaming:?}");
        }
        assert_eq!(events.len(), 4002);
        capture.stop().await;
    }
}

/// A table that is known already, first written when its type has changed; and one that another session has described in
/// a transaction that is open when the type changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_row_and_beside_an_open_transaction() {
    let (server, directory) = (Server::start(IN_PIECES), Directory::new());
    let (client, open) = (sql(&server).await, sql(&server).await);
    run(&client, TABLES).await;
    let early = Config { streaming: Streaming::On, ..config(&server) };
    let capture = Capture::start(early, directory.path()).await;
    run(&client, "insert into t (id, m) values (0, 'ok')").await;
    capture.wait(1).await;
    let rows = |first: u32, mood: &str| {
        let last = first + 1999;
        format!(
            "insert into t (id, m, v) select g, '{mood}', repeat('x', 150) from generate_series({first}, {last}) g"
        )
    };
    run(&client, &format!("begin; alter type pair rename attribute a to first; {}; commit", rows(1, "ok")))
        .await;
    capture.wait(2001).await;
    let expected = "mood(sad|ok) pairs(_pair(first,b)) other(id,n) text";
    assert_eq!([of_row(&capture, 1), of_row(&capture, 2000)], [expected, expected]);

    run(&open, &format!("begin; {}", rows(10_000, "ok"))).await;
    let sent = "select stream_txns from pg_stat_replication_slots where slot_name = 'rowcast'";
    until("it is sent", async || value(&client, sent).await.parse::<u32>().unwrap() >= 2).await;
    run(&client, "alter type mood add value 'new'").await;
    run(&open, &format!("{}; commit", rows(20_000, "new"))).await;
    capture.wait(6001).await;
    let expected = "mood(sad|ok|new) pairs(_pair(first,b)) other(id,n) text";
    assert_eq!([of_row(&capture, 4001), of_row(&capture, 6000)], [expected, expected]);
    capture.stop().await;
}

/// Of each column it is known how many attributes the values have that are still to come.
#[tokio::test]
async fn several_composites_that_have_changed_since() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create type addr as (a int, b int); create table t (id int primary key, x addr, y addr)")
        .await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    run(&client, "insert into t values (1, (1, 2), (3, 4)); alter type addr add attribute c int").await;
    run(&client, "insert into t values (2, (1, 2, 3), (4, 5, 6))").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let expected = ["insert public.t 1,(1,2),(3,4)", "insert public.t 2,(1,2,3),(4,5,6)"];
    assert_eq!(capture.briefs(2).await, expected);
    // And within one transaction.
    run(
        &client,
        "begin; insert into t values (3, (1, 2, 3), (4, 5, 6)); alter type addr add attribute d int;
         insert into t values (4, (1, 2, 3, 4), (5, 6, 7, 8)); alter type addr add attribute e int;
         insert into t values (5, (1, 2, 3, 4, 5), (6, 7, 8, 9, 10)); commit",
    )
    .await;
    let all = capture.briefs(5).await;
    assert_eq!(all[4], "insert public.t 5,(1,2,3,4,5),(6,7,8,9,10)");
    capture.stop().await;
}

/// Told as it is, the last of them would have some 200,000 parts.
#[tokio::test]
async fn row_types_of_row_types_of_row_types() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let nested = |level: u32| format!("; create type c{level} as (a c{0}, b c{0})", level - 1);
    let types = "create type c0 as (x int)".to_owned() + &(1..=16).map(nested).collect::<String>();
    run(&client, &types).await;
    run(
        &client,
        "create table deep (id int primary key, v c16, few c2); create table plain (id int primary key)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into deep values (1, null); insert into plain values (1)").await;
    assert_eq!(capture.briefs(2).await, ["insert public.deep 1,NULL,NULL", "insert public.plain 1"]);
    assert_eq!(of_row(&capture, 0), "c16 c2(a,b)");
    run(&client, "insert into deep values (2, row(row(null, null), null), row(row(row(1), null), null))")
        .await;
    let briefs = capture.briefs(3).await;
    assert!(briefs[2].starts_with("insert public.deep 2,(\"(,)\",),"), "{briefs:?}");
    capture.stop().await;
}

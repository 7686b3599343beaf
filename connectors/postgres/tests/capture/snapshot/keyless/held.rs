//! Commits that the stream has sent and that are not seen yet: they wait for a standby that is not there.

use tokio::task::JoinHandle;

use super::super::hidden::{commits_wait, patient, standbys};
use super::*;
use crate::capture::harness::confirmed;

/// Events of the transaction that waits: two rows that come, and 16 that go.
const HELD: usize = 18;

/// Has a commit wait; gives who waits for it. Nothing of a table can be read until it is let go.
pub(super) async fn hold(
    server: &Server,
    client: &Client,
    capture: &Capture,
    statements: &str,
) -> JoinHandle<()> {
    let before = capture.journal.newest();
    standbys(client, "nobody").await;
    commits_wait(server, client).await;
    let (session, statements) = (patient(server).await, statements.to_owned());
    let waiting = tokio::spawn(async move { run(&session, &statements).await });
    until("it to be sent", async || capture.journal.newest() > before).await;
    waiting
}

pub(super) async fn let_go(client: &Client, waiting: JoinHandle<()>) {
    standbys(client, "").await;
    waiting.await.unwrap();
}

async fn is_tried_again(capture: &Capture) {
    until("it to be tried again", async || {
        let snapshots = capture.report().snapshots;
        !snapshots.is_empty() && snapshots.iter().any(|shown| shown.chunks_repeated > 3)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_seen_yet_is_waited_for_also_over_a_crash() {
    for crashes in [false, true] {
        let server = Server::start("");
        let (client, directory) = (sql(&server).await, Directory::new());
        run(&client, TABLES).await;
        let mut capture = Capture::start(config(&server), directory.path()).await;
        let change = "insert into plain values (1, 'held'), (1, 'held'); delete from whole where n = 7";
        let waiting = hold(&server, &client, &capture, change).await;
        capture.wait(HELD).await;
        if crashes {
            let end = capture.events()[HELD - 1].end_lsn;
            until("it to be confirmed", async || confirmed(&client).await >= end).await;
            capture.crash().await;
            capture = Capture::start(config(&server), directory.path()).await;
        }
        let since = ask(&capture, "public.*").await["public.plain"];
        run(&client, "insert into plain values (1, 'held')").await;
        is_tried_again(&capture).await;
        capture.wait(HELD + 1).await;
        let_go(&client, waiting).await;
        read_whole(&capture).await;
        both_are_equal(&client, &capture.events(), since).await;
        capture.stop().await;
    }
}

/// Around every step, with crashes between.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_around_every_step() {
    let server = Server::start("");
    let (client, directory, seed) = (sql(&server).await, Directory::new(), seed());
    run(&client, TABLES).await;
    let mut capture = Capture::start(initial(&server), directory.path()).await;
    let clients = [patient(&server).await, patient(&server).await, patient(&server).await];
    let writers = Writers::start_with(clients, seed, transaction).await;
    let mut random = StdRng::seed_from_u64(!seed);
    let mut since: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..12 {
        standbys(&client, "nobody").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(5..150))).await;
        if round % 4 == 3 {
            capture.crash().await;
            capture = Capture::start(initial(&server), directory.path()).await;
        }
        for table in ["public.plain", "public.whole"] {
            let wanted = Command::Start { tables: vec![table.to_owned()], condition: None };
            // Another one may be under way.
            if let Ok(ordered) = capture.status.ask_for_snapshot(wanted).await {
                since.extend(ordered.since);
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(5..200))).await;
        standbys(&client, "").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(5..300))).await;
    }
    let done = writers.stop().await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    println!("{done} transactions");
    let events = capture.events();
    let since = |table: &str| since.get(table).copied().unwrap_or(0);
    is_equal(&client, &events, since("public.plain"), ("plain", &["n", "v"])).await;
    is_equal(&client, &events, since("public.whole"), ("whole", &["n", "v", "big"])).await;
    capture.stop().await;
}

/// Who begins first is read for first; what everybody is told the sinks that begin later have, too.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_and_sinks_that_begin_at_several_places_wait_for_the_same_table() {
    let server = Server::start("");
    let (client, directory, config) = (sql(&server).await, Directory::new(), config(&server));
    run(&client, "create table plain (n int); insert into plain select i % 3 from generate_series(1, 100) i; create table other (n int)").await;
    let [a, c]: [Sink<'_>; 2] = [("a", Some(5)), ("c", Some(6))];
    let capture = Capture::start(config.clone(), directory.path()).await;
    let waiting = hold(&server, &client, &capture, "insert into other values (1)").await;
    let since = ask(&capture, "public.plain").await["public.plain"];
    run(&client, "insert into plain values (1), (7)").await;
    caught_up(&client, &capture).await;
    capture.crash().await;
    let capture = Capture::start_for(config.clone(), directory.path(), &[a]).await;
    run(&client, "insert into plain values (1), (7)").await;
    caught_up(&client, &capture).await;
    capture.crash().await;
    let capture = Capture::start_for(config.clone(), directory.path(), &[a, c]).await;
    until("all of them to be listed", async || {
        capture.report().snapshots.iter().filter(|shown| shown.channel == "public.plain").count() == 3
    })
    .await;
    run(&client, "insert into plain values (1), (7)").await;
    let_go(&client, waiting).await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let plain = ("plain", &["n"][..]);
    is_equal(&client, &capture.events(), since, plain).await;
    for sink in ["a", "c"] {
        assert!(capture.place_of(sink) > since);
        is_equal(&client, &capture.events_for(sink), capture.place_of(sink), plain).await;
    }
    capture.stop().await;
}

//! A commit that the stream has sent and nobody sees yet: it waits for a synchronous standby that is not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowcast_engine::journal::Options;
use tokio::task::JoinHandle;

use super::load::{Writers, seed};
use super::*;
use crate::capture::harness::confirmed;

/// Lets commits wait, or go.
pub(super) async fn standbys(client: &Client, names: &str) {
    // Alone, since it cannot be a part of a transaction.
    client.batch_execute(&format!("alter system set synchronous_standby_names = '{names}'")).await.unwrap();
    run(client, "select pg_reload_conf()").await;
}

/// A session whose commits wait; ours do not.
pub(super) async fn patient(server: &Server) -> Client {
    let client = sql(server).await;
    run(&client, "set synchronous_commit = on").await;
    client
}

const WAITS: &str = "exists (select from pg_stat_activity where wait_event = 'SyncRep')";

/// The server takes a moment to let commits wait: until then one is tried. The one that waits is let go with the others.
pub(super) async fn commits_wait(server: &Server, client: &Client) {
    until("commits to wait", async || {
        let probe = patient(server).await;
        let tried = tokio::spawn(async move { probe.batch_execute("create temp table probe (a int)").await });
        while !tried.is_finished() {
            if value(client, WAITS).await == "true" {
                return true;
            }
        }
        false
    })
    .await;
}

/// A transaction that the stream has sent and that is not visible; its session ends when it is let go.
async fn held(server: &Server, client: &Client, directory: &Directory) -> (Capture, JoinHandle<()>) {
    run(client, "create table t (id int primary key, v text); insert into t select i, 'old' from generate_series(1, 100) i").await;
    let capture = Capture::start(config(server), directory.path()).await;
    standbys(client, "nobody").await;
    commits_wait(server, client).await;
    let session = patient(server).await;
    let waiting = tokio::spawn(async move {
        run(&session, "update t set v = 'new' where id = 7; delete from t where id = 8").await;
    });
    // Both statements are one transaction.
    capture.wait(2).await;
    (capture, waiting)
}

/// What makes it hard, at this moment: the stream has sent the commit, its record lies below the position of a snapshot that is
/// taken now, and that snapshot sees the row as it was. Whoever goes by positions takes it for newer than the event.
async fn is_hidden(client: &Client, commit: &Seen) {
    let Seen { xid, end_lsn, .. } = commit;
    let hidden = format!(
        "select concat_ws(' ', pg_current_wal_insert_lsn() >= '{end_lsn}', pg_visible_in_snapshot('{xid}', pg_current_snapshot()),
                          (select string_agg(v, ' ' order by id) from public.t where id in (7, 8)))"
    );
    assert_eq!(value(client, &hidden).await, "t f old old");
}

/// While it is not seen no row is written; once it is let go, rows and events are the table.
async fn waits_and_ends_equal(client: &Client, capture: Capture, waiting: JoinHandle<()>) {
    is_hidden(client, &capture.events()[1]).await;
    let wanted = rows_of_t(None);
    capture.status.ask_for_snapshot(wanted).await.unwrap();
    until("chunks to be read again", async || {
        capture.report().snapshots.iter().any(|shown| shown.chunks_repeated > 3)
    })
    .await;
    assert_eq!(capture.events().len(), 2, "nothing is written that could be older");
    is_hidden(client, &capture.events()[1]).await;
    standbys(client, "").await;
    waiting.await.unwrap();
    until("the rows", async || capture.status.read_tables().contains_key("public.t")).await;
    read_whole(&capture).await;
    assert_eq!(rebuilt(&capture.events(), "public.t", 2), actual(client, "t", &["id", "v"]).await);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_does_not_undo_a_commit_that_is_not_seen_yet() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    let (capture, waiting) = held(&server, &client, &directory).await;
    waits_and_ends_equal(&client, capture, waiting).await;
}

/// What the stream had sent before a crash is still not seen after it: the journal has to be asked.
#[tokio::test(flavor = "multi_thread")]
async fn nor_after_a_crash() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    let (capture, waiting) = held(&server, &client, &directory).await;
    // Confirmed, so that the server does not send it again.
    let end = capture.events()[1].end_lsn;
    until("it to be confirmed", async || confirmed(&client).await >= end).await;
    capture.crash().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    waits_and_ends_equal(&client, capture, waiting).await;
}

/// However much was written since, as long as no later transaction has ended, which would be named.
#[tokio::test(flavor = "multi_thread")]
async fn nor_when_it_lies_far_back() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table large (v text); alter table large alter v set storage external").await;
    let (capture, waiting) = held(&server, &client, &directory).await;
    let end = capture.events()[1].end_lsn;
    let open = sql(&server).await;
    run(&open, "begin; insert into large select repeat(md5(i::text), 100) from generate_series(1, 30000) i")
        .await;
    let far = rowcast_engine::Lsn(end.0 + (70 << 20));
    until("the position to be far behind it", async || capture.journal.position().lsn > far).await;
    waits_and_ends_equal(&client, capture, waiting).await;
    run(&open, "rollback").await;
}

/// Nor where the journal cannot be asked, since retention has removed it: whoever has not ended may be it.
#[tokio::test(flavor = "multi_thread")]
async fn nor_when_retention_has_removed_it() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table other (v text)").await;
    let (capture, waiting) = held(&server, &client, &directory).await;
    let commit = capture.events().remove(1);
    until("it to be confirmed", async || confirmed(&client).await >= commit.end_lsn).await;
    capture.crash().await;
    let options =
        Options { max_size: Some(3 << 20), segment_bytes: 1 << 20, ..Options::new(directory.path()) };
    let mut capture = Capture::launch_with(config(&server), options);
    capture.streams().await;
    until("it to be removed", async || {
        run(&client, "insert into other select repeat('x', 1000) from generate_series(1, 500)").await;
        capture.journal.held_after(commit.id - 1).is_some()
    })
    .await;
    is_hidden(&client, &commit).await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    until("chunks to be read again", async || {
        capture.report().snapshots.iter().any(|shown| shown.chunks_repeated > 3)
    })
    .await;
    let of_t =
        || capture.events().into_iter().filter(|event| event.channel == "public.t").collect::<Vec<_>>();
    assert_eq!(of_t(), [], "nothing is written that could be older");
    is_hidden(&client, &commit).await;
    standbys(&client, "").await;
    waiting.await.unwrap();
    read_whole(&capture).await;
    assert_eq!(rebuilt(&of_t(), "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    capture.stop().await;
}

/// Commits that wait, and are let go, around every step of many chunks, with crashes between.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_around_every_step() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key, v text, big text); alter table t alter big set storage external;
         insert into t select i, 'v', repeat(i || ' ', 900) from generate_series(0, 3999, 2) i",
    )
    .await;
    let seed = seed();
    let mut capture = Capture::start(initial(&server), directory.path()).await;
    let clients =
        [patient(&server).await, patient(&server).await, patient(&server).await, patient(&server).await];
    let writers = Writers::start(clients, seed).await;
    let (mut random, mut repeated) = (StdRng::seed_from_u64(!seed), 0);
    for round in 0..13 {
        standbys(&client, "nobody").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(5..150))).await;
        if round % 3 == 2 {
            capture.crash().await;
            capture = Capture::start(initial(&server), directory.path()).await;
        }
        if capture.report().snapshots.is_empty() {
            let wanted = rows_of_t(None);
            // Another one may be under way, not listed yet.
            let _ = capture.status.ask_for_snapshot(wanted).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(5..150))).await;
        let seen = |capture: &Capture| {
            capture.report().snapshots.iter().map(|shown| shown.chunks_repeated).sum::<u64>()
        };
        repeated += seen(&capture);
        if round == 12 && repeated == 0 {
            // On a slow machine chunks are few.
            until("a chunk to meet a commit that waits", async || {
                if capture.report().snapshots.is_empty() {
                    let _ = capture.status.ask_for_snapshot(rows_of_t(None)).await;
                }
                repeated += seen(&capture);
                repeated > 0
            })
            .await;
        }
        standbys(&client, "").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(5..150))).await;
    }
    let done = writers.stop().await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    println!("{done} transactions, {repeated} chunks were seen to be read again, {} events", events.len());
    assert!(repeated > 0, "no chunk met a commit that waits");
    let (built, real) = (rebuilt(&events, "public.t", 3), actual(&client, "t", &["id", "v", "big"]).await);
    for (key, row) in &real {
        assert_eq!(built.get(key), Some(row), "row {key}");
    }
    assert_eq!(built.len(), real.len());
    capture.stop().await;
}

/// Lets go, one by one, what has waited for a moment: as a standby does that is far away.
fn answer_late(client: Client, stopped: Arc<AtomicBool>) -> JoinHandle<()> {
    // The session that has tried whether commits wait ends, and waits at that for good.
    const LET_GO: &str = "select pg_cancel_backend(pid) from pg_stat_activity
        where wait_event = 'SyncRep' and query ~ '^(update|insert)' and clock_timestamp() - query_start > interval '100 ms'
        order by query_start limit 1";
    tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            client.batch_execute(LET_GO).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// Has a table read; gives how many of its chunks were seen to be read again.
async fn read_of(capture: &Capture, table: &str) -> u64 {
    let wanted = Command::Start { tables: vec![table.to_owned()], condition: None };
    capture.status.ask_for_snapshot(wanted).await.unwrap();
    let mut repeated = 0;
    until("the table to be read", async || {
        let shown = capture.report().snapshots;
        repeated = repeated.max(shown.iter().map(|shown| shown.chunks_repeated).sum());
        shown.is_empty() && capture.status.read_tables().contains_key(table)
    })
    .await;
    repeated
}

/// No moment comes at which all that was streamed is visible.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_seen_late_and_never_end() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key, v text); alter table t alter v set storage external;
         insert into t select i, repeat(i || ' ', 1000) from generate_series(1, 5000) i;
         create table plain (n int, v text); insert into plain select i, 'v' from generate_series(1, 500) i",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    standbys(&client, "nobody").await;
    commits_wait(&server, &client).await;
    let stopped = Arc::new(AtomicBool::new(false));
    let late = answer_late(sql(&server).await, Arc::clone(&stopped));
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(patient(&server).await);
    }
    let Ok(clients) = <[Client; 16]>::try_from(clients) else { unreachable!() };
    let change = |random: &mut StdRng| {
        let id = random.random_range(1..5000);
        let row = random.random_range(1..500);
        match random.random_range(0..2) {
            0 => format!("update t set v = 'new' where id = {id}"),
            _ => format!("insert into plain values ({row}, 'more')"),
        }
    };
    let writers = Writers::start_with(clients, seed(), change).await;
    let mut repeated = 0;
    until("a chunk to meet a commit that is not seen", async || {
        repeated += read_of(&capture, "public.t").await;
        repeated > 0
    })
    .await;
    let whole = read_of(&capture, "public.plain").await;
    let transactions = writers.stop().await;
    stopped.store(true, Ordering::Relaxed);
    late.await.unwrap();
    standbys(&client, "").await;
    println!(
        "{transactions} transactions, {repeated} chunks and {whole} snapshots were seen to be taken again"
    );
    assert!(transactions > 20, "commits came all the while: {transactions}");
    caught_up(&client, &capture).await;
    let events = capture.events();
    assert_eq!(rebuilt(&events, "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    let plain = events.iter().filter(|event| event.channel == "public.plain" && event.op == Op::Read).count();
    assert!(plain > 500, "{plain} rows of the one without a key");
    capture.stop().await;
}

//! What is left to be read is told as soon as anything is told of the source.

use rowcast_engine::snapshots::{Shown, State};

use super::*;

/// Whoever waits for the end asks for nothing else.
fn is_left(capture: &Capture) -> bool {
    !capture.report().snapshots.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_before_the_source_is_there() {
    let mut server = Server::start("jit = off");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 10000)").await;
    run(&client, "create table u (id int primary key); insert into u values (1); analyze t").await;
    // The rows of the second chunk do not come while somebody else has that lock.
    run(&client, "alter database postgres set enable_seqscan = off").await;
    let locker = sql(&server).await;
    run(&locker, "select pg_advisory_lock(7)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let first = "id <= 2000 or pg_advisory_xact_lock_shared(7) is not null";
    capture.status.ask_for_snapshot(rows_of_t(Some(first))).await.unwrap();
    until("the first chunk", async || capture.report().snapshots.iter().any(|shown| shown.rows == 2000))
        .await;
    let note = async |wanted: &str| {
        let note = capture.journal.notes().get("snapshot public.t").map(|note| note.to_vec());
        String::from_utf8(note.unwrap_or_default()).unwrap().contains(wanted)
    };
    until("its note", async || note("\"rows\":2000").await).await;
    capture.crash().await;
    server.stop_in_order();

    let capture = Capture::launch(config(&server), directory.path());
    until("it to try", async || capture.report().source.state == "reconnecting").await;
    let shown = capture.report().snapshots;
    let estimate = shown.first().map_or(0, |shown| shown.estimate);
    assert!((9000..=10_000).contains(&estimate), "nearly all rows meet the condition: {estimate}");
    let expected = Shown {
        channel: "public.t".to_owned(),
        state: State::Waiting,
        ad_hoc: true,
        rows: 2000,
        estimate,
        condition_bytes: first.len(),
        ..Shown::default()
    };
    assert_eq!(shown, [expected]);
    server.relaunch();
    until("the rows", async || {
        let left = is_left(&capture);
        let done = capture.status.read_tables().contains_key("public.t");
        assert!(done || left, "nothing is left, and not all is read");
        done
    })
    .await;
    read_whole(&capture).await;
    assert_eq!(capture.status.read_tables()["public.t"], 10_000);
    capture.stop().await;
}

/// Whom rows are for is not known before each sink has said where it begins; that may take as long as its target is away.
#[tokio::test]
async fn before_the_tables_are_listed() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 10)").await;
    run(&client, "create table u (id int primary key); insert into u values (1)").await;
    let mut capture = Capture::launch(initial(&server), directory.path());
    let sink = "k".to_owned();
    capture.status.expect_sinks([&sink].into_iter(), &capture.journal);
    capture.streams().await;
    let told: Vec<(String, State)> =
        capture.report().snapshots.into_iter().map(|shown| (shown.channel, shown.state)).collect();
    let waits = |channel: &str| (channel.to_owned(), State::Waiting);
    assert_eq!(told, [waits("public.t"), waits("public.u")]);
    capture.status.sink_began(&sink, None);
    until("the rows", async || {
        let left = is_left(&capture);
        let read = capture.status.read_tables().len();
        assert!(read == 2 || left, "nothing is left, and not all is read");
        read == 2
    })
    .await;
    read_whole(&capture).await;
    capture.stop().await;
}

//! What nobody can know is told as a gap; asked for anew, the table is read.

use rowcast_engine::journal::Options;

use super::held::{hold, let_go};
use super::*;

/// The gap of a table, for this reason; then it is asked for again.
async fn is_a_gap(capture: &Capture, client: &Client, words: &str, table: (&str, &[&str])) {
    let channel = format!("public.{}", table.0);
    let given_up = || capture.status.dropped_tables().get(&channel).cloned();
    until("it to be given up", async || given_up().is_some()).await;
    let why = given_up().unwrap();
    assert!(why.contains(words), "{why}");
    read_whole(capture).await;
    let of_table = |event: &&Seen| event.op == Op::Gap && event.channel == channel;
    let gaps: Vec<String> = capture.events().iter().filter(of_table).map(Seen::brief).collect();
    assert_eq!(gaps, [format!("gap {channel} no_key")]);
    let since = ask(capture, &channel).await[&channel];
    run(client, &format!("insert into {} select * from {0} limit 1", table.0)).await;
    is_read(capture, client, since, table).await;
    assert!(!capture.status.dropped_tables().contains_key(&channel));
}

/// Whoever has followed since then has the table.
async fn is_read(capture: &Capture, client: &Client, since: u64, table: (&str, &[&str])) {
    read_whole(capture).await;
    caught_up(client, capture).await;
    is_equal(client, &capture.events(), since, table).await;
}

/// Which rows a condition chooses cannot be followed.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_condition() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table plain (n int, v text); insert into plain values (1, 'a')").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "select rowcast.snapshot('plain', 'n = 1')").await;
    is_a_gap(&capture, &client, "a condition chooses rows", ("plain", &["n", "v"])).await;
    capture.stop().await;
}

/// Rows of two shapes cannot be compared; where none of before were told, there is nothing to compare.
#[tokio::test(flavor = "multi_thread")]
async fn altered_since_it_was_wanted() {
    for told in [true, false] {
        let server = Server::start("");
        let (client, directory) = (sql(&server).await, Directory::new());
        run(&client, &format!("{TABLES}; create table other (n int)")).await;
        let capture = Capture::start(config(&server), directory.path()).await;
        let waiting = hold(&server, &client, &capture, "insert into other values (1)").await;
        let since = ask(&capture, "public.whole").await["public.whole"];
        if told {
            run(&client, "insert into whole values (1, 'told', 'x')").await;
        }
        run(
            &client,
            "alter table whole add column more int default 5; update whole set n = n + 1 where n = 7",
        )
        .await;
        let_go(&client, waiting).await;
        let table = ("whole", &["n", "v", "big"][..]);
        if told {
            is_a_gap(&capture, &client, "columns or their types were changed", table).await;
        } else {
            is_read(&capture, &client, since, table).await;
        }
        capture.stop().await;
    }
}

/// No event says that it has been altered, and it would be found when all of it has been read: that is not done again and again.
#[tokio::test(flavor = "multi_thread")]
async fn altered_since_it_was_wanted_without_a_change_behind() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, &format!("{TABLES}; create table other (n int)")).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let waiting = hold(&server, &client, &capture, "insert into other values (1)").await;
    ask(&capture, "public.whole").await;
    run(&client, "insert into whole values (1, 'told', 'x'); alter table whole add column more int").await;
    let_go(&client, waiting).await;
    let table = ("whole", &["n", "v", "big"][..]);
    is_a_gap(&capture, &client, "columns or their types were changed", table).await;
    capture.stop().await;
}

/// A label that is added changes no row, whether or not the stream says that it was.
#[tokio::test(flavor = "multi_thread")]
async fn not_for_a_label_that_was_added() {
    for (is_said, change) in [
        (true, "add value 'worse' before 'sad'"),
        (false, "add value 'worse' before 'sad'"),
        (true, "rename value 'sad' to 'blue'"),
    ] {
        let server = Server::start("");
        let (client, directory) = (sql(&server).await, Directory::new());
        run(
            &client,
            "create type mood as enum ('sad', 'ok'); create table moods (n int, m mood);
             insert into moods select i % 5, 'sad' from generate_series(1, 100) i; create table other (n int)",
        )
        .await;
        let capture = Capture::start(config(&server), directory.path()).await;
        // As the stream knows it from here on.
        run(&client, "insert into moods values (7, 'ok')").await;
        capture.wait(1).await;
        if !is_said {
            run(
                &client,
                "do $$ declare t text; begin for t in select evtname from pg_event_trigger loop
                 execute format('alter event trigger %I disable', t); end loop; end $$",
            )
            .await;
        }
        let waiting = hold(&server, &client, &capture, "insert into other values (1)").await;
        let since = ask(&capture, "public.moods").await["public.moods"];
        run(&client, "insert into moods values (8, 'sad')").await;
        run(&client, &format!("alter type mood {change}")).await;
        run(&client, "insert into moods values (9, 'ok')").await;
        let_go(&client, waiting).await;
        let table = ("moods", &["n", "m"][..]);
        if change.starts_with("rename") {
            is_a_gap(&capture, &client, "their types were changed", table).await;
        } else {
            is_read(&capture, &client, since, table).await;
        }
        capture.stop().await;
    }
}

/// What would only be given up is refused at once: a gap would be everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_a_condition_is_refused() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table plain (n int, v text)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let order = |condition: &str| Command::Start {
        tables: vec!["public.plain".to_owned()],
        condition: Some(condition.to_owned()),
    };
    let refused = capture.status.ask_for_snapshot(order("n = 1")).await.unwrap_err();
    assert!(refused.to_string().contains("public.plain has no key"), "{refused}");
    assert!(capture.events().is_empty() && capture.report().snapshots.is_empty());
    capture.stop().await;
}

/// A partition that goes takes rows with it that events have told.
#[tokio::test(flavor = "multi_thread")]
async fn told_rows_that_are_gone_without_a_word() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table parts (n int) partition by range (n); create table low partition of parts for values from (0) to (10);
         create table high partition of parts for values from (10) to (20); insert into parts values (1), (11), (11);
         alter table parts replica identity full; alter table low replica identity full;
         alter table high replica identity full; create table other (n int)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let waiting = hold(&server, &client, &capture, "insert into other values (1)").await;
    ask(&capture, "public.parts").await;
    run(&client, "insert into parts values (12), (2); alter table parts detach partition high").await;
    let_go(&client, waiting).await;
    is_a_gap(&capture, &client, "rows that are not in it any more", ("parts", &["n"])).await;
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_retention_has_removed() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table plain (n int, v text); insert into plain values (1, 'a'); create table other (n int)",
    )
    .await;
    let options = Options {
        segment_bytes: 64 << 10,
        // What is in memory can be read when its file is gone.
        cache_bytes: 0,
        max_size: Some(256 << 10),
        ..Options::new(directory.path())
    };
    let mut capture = Capture::launch_with(config(&server), options);
    capture.streams().await;
    let waiting = hold(&server, &client, &capture, "insert into other values (1)").await;
    let since = ask(&capture, "public.plain").await["public.plain"];
    let table = || vec!["public.plain".to_owned()];
    capture.status.ask_for_snapshot(Command::Pause(table())).await.unwrap();
    until("the oldest events to go", async || {
        run(&client, "insert into plain select i, repeat('x', 100) from generate_series(1, 200) i").await;
        capture.journal.oldest() > since + 1
    })
    .await;
    let_go(&client, waiting).await;
    capture.status.ask_for_snapshot(Command::Resume(table())).await.unwrap();
    until("it to be given up", async || {
        let dropped = capture.status.dropped_tables();
        dropped.get("public.plain").is_some_and(|why| why.contains("does not hold all events"))
    })
    .await;
    capture.stop().await;
}

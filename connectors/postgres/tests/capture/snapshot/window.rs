//! What happens to a table while one of its chunks is read: it is emptied, and it is changed.

use super::*;
use crate::capture::interceptor::Interceptor;

pub(super) const TABLE: &str = "create table t (id int primary key, v text);
    insert into t select i, 'old' from generate_series(1, 20000) i";

pub(super) async fn ask(capture: &Capture) {
    let wanted = rows_of_t(None);
    capture.status.ask_for_snapshot(wanted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_and_filled_and_altered_while_it_is_read() {
    let server = Server::start("");
    let client = sql(&server).await;
    run(&client, TABLE).await;
    emptied_and_altered(&client, config(&server)).await;
}

/// Of the table that this client changes.
pub(super) async fn emptied_and_altered(client: &Client, config: rowcast_postgres::Config) {
    let directory = Directory::new();
    let capture = Capture::start(config, directory.path()).await;
    for round in 0..6 {
        ask(&capture).await;
        for step in 0..4 {
            run(client, &format!(
                "begin; truncate t; insert into t select i, 'r{round}.{step}' from generate_series(1, 3000) i; commit;
                 alter table t add column c{round}_{step} int default {step};
                 update t set c{round}_{step} = 7 where id % 100 = 0;
                 insert into t select i, 'more' from generate_series(3001, 20000) i"
            ))
            .await;
        }
        until("the rows", async || capture.report().snapshots.is_empty()).await;
        read_whole(&capture).await;
    }
    caught_up(client, &capture).await;
    // The newest column is there only from its ALTER on, with no event for the rows before.
    let added = (0..6).flat_map(|round| (0..4).map(move |step| format!("c{round}_{step}")));
    let columns: Vec<String> = ["id", "v"].map(str::to_owned).into_iter().chain(added).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let told = rebuilt(&capture.events(), "public.t", columns.len());
    let real = actual(client, "t", &columns).await;
    assert!(told.keys().eq(real.keys()), "{} rows of {}", told.len(), real.len());
    let mut whole = 0;
    for (key, row) in &real {
        let told = &told[key];
        assert!(told.len() >= row.len() - 1 && row.starts_with(told), "row {key}: {told:?} of {row:?}");
        whole += usize::from(told.len() == row.len());
    }
    assert!(whole >= 17_030, "{whole} rows only have the newest column");
    capture.stop().await;
}

/// Two chunks of the table have been read, and none of their rows can have been written, when this is done to it; it comes
/// in the stream before any row is written.
async fn between_two_reads_and_their_rows(
    changes: &str,
) -> (Server, Client, Directory, Interceptor, Capture) {
    // A vacuum's transaction would show that the stream has passed what was read.
    let (server, directory) = (Server::start("autovacuum = off"), Directory::new());
    let client = sql(&server).await;
    run(&client, TABLE).await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    way.hold();
    // The end of the log, which rows wait for, lies behind all that has been streamed.
    run(&client, "begin; insert into t values (0, ''); rollback").await;
    ask(&capture).await;
    until("a chunk to be read", async || way.chunks() == 1).await;
    way.pass_chunk();
    until("another one to be read beside it", async || way.chunks() == 2).await;
    run(&client, changes).await;
    until("the changes to be on their way", async || way.has_message()).await;
    assert_eq!(capture.events().len(), 0, "written before the stream has passed it");
    way.pass_stream();
    (server, client, directory, way, capture)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_comes_back_that_was_read_before_the_table_was_emptied() {
    // A row that was put in the place of a read one would hide that the read one is left out.
    let changes = "truncate t; insert into t select i, 'new' from generate_series(19000, 30000) i";
    let (_server, client, _directory, way, capture) = between_two_reads_and_their_rows(changes).await;
    way.pass_all_chunks();
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    assert_eq!(events[0].op, Op::Truncate);
    let old: Vec<&Seen> = events.iter().filter(|event| event.new.ends_with(",old")).collect();
    assert!(old.is_empty(), "{} rows came back: {:?}", old.len(), old[0]);
    // What lies behind the two chunks is read as it is now.
    assert!(events.iter().any(|event| event.op == Op::Read));
    assert_eq!(rebuilt(&events, "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_read_before_a_column_was_added_are_read_again() {
    let changes = "alter table t add column c int default 5; update t set c = 7 where id % 100 = 0";
    let (_server, client, _directory, way, capture) = between_two_reads_and_their_rows(changes).await;
    way.pass_chunk();
    // Held up before the end of the third read: the board still has the table.
    until("a chunk to be read again", async || {
        capture.report().snapshots.iter().any(|shown| shown.chunks_repeated >= 1)
    })
    .await;
    let events = capture.events();
    assert!(events.iter().all(|event| event.op == Op::Update), "rows of the table as it was");
    way.pass_all_chunks();
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    let read: Vec<&Seen> = events.iter().filter(|event| event.op == Op::Read).collect();
    assert_eq!((read.len(), events.len() - read.len()), (20_000, 200));
    assert!(read.iter().all(|event| event.columns == "id int4, v text, c int4"), "{}", read[0].columns);
    assert_eq!(rebuilt(&events, "public.t", 3), actual(&client, "t", &["id", "v", "c"]).await);
    capture.stop().await;
}

/// All rows are changed at once, again and again, while they are read, and their large values are in no event: more than
/// could be read again by their keys.
#[tokio::test(flavor = "multi_thread")]
async fn changed_as_a_whole_while_it_is_read() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, writer) = (sql(&server).await, sql(&server).await);
    let table =
        "create table t (id int primary key, v text, big text); alter table t alter big set storage external;
                 insert into t select i, 'v', repeat(i || ' ', 500) from generate_series(1, 8000) i";
    run(&client, table).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let writing = tokio::spawn(async move {
        for round in 0..6 {
            run(&writer, &format!("update t set v = 'round {round}'")).await;
        }
    });
    ask(&capture).await;
    writing.await.unwrap();
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    assert!(events.iter().any(|event| event.op == Op::Update && event.new.ends_with("UNCHANGED")));
    assert_eq!(rebuilt(&events, "public.t", 3), actual(&client, "t", &["id", "v", "big"]).await);
    capture.stop().await;
}

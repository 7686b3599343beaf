//! What happens to a table while one of its chunks is read: it is emptied, and it is changed.

use super::*;

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
    // Of the first columns: later ones are there only from their ALTER on, with no event for the rows before.
    let events: Vec<Seen> = capture
        .events()
        .into_iter()
        .map(|event| {
            let new = event.new.splitn(3, ',').take(2).collect::<Vec<_>>().join(",");
            Seen { new, ..event }
        })
        .collect();
    assert_eq!(rebuilt(&events, "public.t", 2), actual(client, "t", &["id", "v"]).await);
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

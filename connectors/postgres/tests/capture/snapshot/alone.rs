//! Rows that are read for sinks alone, which begin with them.

use super::*;

const A: Sink<'static> = ("a", Some(5));
const B: Sink<'static> = ("b", None);

fn reads(events: &[Seen]) -> usize {
    events.iter().filter(|event| event.op == Op::Read).count()
}

async fn fresh(server: &Server, rows: u32) -> Client {
    let client = sql(server).await;
    let table = "create table t (id int primary key, v text)";
    run(&client, &format!("{table}; insert into t select i, 'v' || i from generate_series(1, {rows}) i"))
        .await;
    client
}

#[tokio::test]
async fn they_come_beside_the_stream_and_nobody_else_sees_them() {
    let server = Server::start("");
    let client = fresh(&server, 5000).await;
    run(&client, "create table keyless (a int); insert into keyless values (1)").await;
    let directory = Directory::new();
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (5001, 'event')").await;
    capture.wait(1).await;
    capture.stop().await;

    let two = [A, B, ("c", Some(7))];
    let capture = Capture::start_for(config(&server), directory.path(), &two).await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let briefs = |events: &[Seen]| events.iter().map(Seen::brief).collect::<Vec<_>>();
    assert_eq!(briefs(&capture.events()), ["insert public.t 5001,event"]);
    assert_eq!(capture.events_for("b").len(), 1);
    for name in ["a", "c"] {
        let events = capture.events_for(name);
        assert_eq!((reads(&events), events.len()), (5002, 5003), "one reading serves both");
        assert!(briefs(&events).contains(&"read public.keyless 1".to_owned()));
        assert!(events.iter().all(|event| event.channel == "public.keyless" || event.channel == "public.t"));
    }
    assert_eq!(capture.events_for("a"), capture.events_for("c"));
    capture.stop().await;

    // What was wished for and has been read is not read again; a sink that begins anew is read for anew.
    let capture = Capture::start_for(config(&server), directory.path(), &two).await;
    caught_up(&client, &capture).await;
    assert_eq!(reads(&capture.events_for("a")), 5002);
    capture.stop().await;
    let anew = [("a", Some(6)), B, ("c", Some(7))];
    let capture = Capture::start_for(config(&server), directory.path(), &anew).await;
    until("the rows again", async || reads(&capture.events_for("a")) == 2 * 5002).await;
    read_whole(&capture).await;
    assert_eq!((reads(&capture.events_for("c")), reads(&capture.events())), (5002, 0));
    capture.stop().await;
}

#[tokio::test]
async fn a_first_start_reads_the_tables_once_for_everybody() {
    let server = Server::start("");
    let client = fresh(&server, 100).await;
    let directory = Directory::new();
    let capture = Capture::start_for(initial(&server), directory.path(), &[A, B]).await;
    until("the rows", async || reads(&capture.events()) == 100).await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    assert_eq!(reads(&capture.events_for("a")), 100);
    capture.stop().await;
    let capture = Capture::start_for(initial(&server), directory.path(), &[A, B]).await;
    caught_up(&client, &capture).await;
    assert_eq!(reads(&capture.events_for("a")), 100, "the wish is answered over restarts, too");
    capture.stop().await;
}

#[tokio::test]
async fn what_is_for_a_sink_that_is_gone_is_not_read_until_it_is_back() {
    let server = Server::start("");
    let client = fresh(&server, 150_000).await;
    let directory = Directory::new();
    let capture = Capture::start_for(config(&server), directory.path(), &[A]).await;
    until("some rows", async || reads(&capture.events_for("a")) > 0).await;
    capture.crash().await;

    let capture = Capture::start_for(config(&server), directory.path(), &[B]).await;
    read_whole(&capture).await;
    assert!(!capture.journal.notes().contains_key("rows for a"));
    let before = reads(&capture.events_for("a"));
    assert!(before < 150_000, "{before}");
    capture.stop().await;

    // Who does not know what sinks there are gives up nothing.
    let capture = Capture::start_for(config(&server), directory.path(), &[A, B]).await;
    until("more rows", async || reads(&capture.events_for("a")) > before).await;
    capture.crash().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    read_whole(&capture).await;
    assert!(capture.journal.notes().contains_key("rows for a"));
    let table = rebuilt(&capture.events_for("a"), "public.t", 2);
    assert_eq!(table, actual(&client, "t", &["id", "v"]).await);
    assert_eq!(reads(&capture.events()), 0);
    capture.stop().await;
}

#[tokio::test]
async fn a_table_can_be_read_for_everybody_and_for_a_sink_one_after_the_other() {
    let server = Server::start("");
    let client = fresh(&server, 30_000).await;
    let directory = Directory::new();
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "select rowcast.snapshot('t', 'id <= 20000')").await;
    until("the wish", async || is_wished(&capture.journal)).await;
    capture.crash().await;
    let capture = Capture::start_for(config(&server), directory.path(), &[A]).await;
    run(&client, "update t set v = 'new' where id % 100 = 0").await;
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let everybody = rebuilt(&capture.events(), "public.t", 2);
    let updated = (1..=300).filter(|number| number * 100 > 20_000).count();
    assert_eq!(everybody.len(), 20_000 + updated);
    assert_eq!(rebuilt(&capture.events_for("a"), "public.t", 2), actual(&client, "t", &["id", "v"]).await);
    capture.stop().await;
}

/// The table that would go first, since it has no rows, waits for what somebody else has paused.
#[tokio::test]
async fn one_that_cannot_begin_keeps_no_other_table_back() {
    let server = Server::start("");
    let client = fresh(&server, 500).await;
    run(&client, "create table audit (a int)").await;
    let directory = Directory::new();
    let audit = || vec!["public.audit".to_owned()];
    let one_at_a_time = rowcast_postgres::Config { snapshot_tables: 1, ..config(&server) };
    let capture = Capture::start(one_at_a_time, directory.path()).await;
    let endless = rows_of_t(Some("pg_sleep(3600) is not null"));
    let after = Command::Start { tables: audit(), condition: None };
    let cancel = Command::Cancel(vec!["public.t".to_owned()]);
    for order in [endless, after, Command::Pause(audit()), cancel] {
        capture.status.ask_for_snapshot(order).await.unwrap();
    }
    capture.stop().await;
    let capture = Capture::start_for(config(&server), directory.path(), &[A]).await;
    until("the rows of the other table", async || reads(&capture.events_for("a")) == 500).await;
    paused(&capture).await;
    capture.status.ask_for_snapshot(Command::Resume(audit())).await.unwrap();
    read_whole(&capture).await;
    capture.stop().await;
}

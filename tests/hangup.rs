//! SIGHUP: looks again, unless it says that the terminal is gone.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::Client;

use crate::support::process::Directory;
use crate::support::rowcast::PROGRAM;
use crate::support::{Postgres, Rowcast, SOON, wait_for};

fn hang_up(rowcast: &Rowcast) {
    let pid = Pid::from_raw(rowcast.pid().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
}

#[tokio::test]
async fn a_hang_up_by_hand_looks_again() {
    let database = Postgres::shared().await.create_database("hangup").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    let client = database.client().await;
    // Nothing else than SIGHUP makes the missing trigger anew.
    client.batch_execute("drop event trigger rowcast").await.unwrap();
    hang_up(&rowcast);
    wait_for("the trigger to be made anew", SOON, async || {
        let there = "select count(*) from pg_event_trigger where evtname = 'rowcast'";
        let count: i64 = client.query_one(there, &[]).await.unwrap().get(0);
        if count == 1 { Ok(()) } else { Err(rowcast.log()) }
    })
    .await;
    assert_eq!((rowcast.ended(), rowcast.status().await["healthy"].as_bool()), (None, Some(true)));
    assert!(rowcast.log().contains("Received SIGHUP: compares"), "{}", rowcast.log());
    assert_eq!(rowcast.terminate().await, 0);
}

/// How long it takes until a new table is published.
async fn publishes(client: &Client, rowcast: &Rowcast, table: &str, is_told: bool) -> Duration {
    let start = Instant::now();
    client.batch_execute(&format!("create table {table} (id integer primary key)")).await.unwrap();
    if is_told {
        hang_up(rowcast);
    }
    wait_for("the table to be published", SOON, async || {
        // It has the slot's name, which is the database's.
        let there = "select from pg_publication_tables where pubname = current_database() and tablename = $1";
        match client.query_opt(there, &[&table]).await.unwrap() {
            Some(_) => Ok(()),
            None => Err(rowcast.log()),
        }
    })
    .await;
    start.elapsed()
}

/// Without event triggers, which its role may not make, nothing tells it of a new table before it looks by itself.
#[tokio::test]
async fn a_hang_up_takes_up_a_new_table() {
    let database = Postgres::shared().await.create_database("taken").await;
    let (client, role) = (database.client().await, database.name());
    let sql = format!(
        "create role {role} login replication password 'sesame'; grant create on database {role} to {role};
         grant all on schema public to {role}; set role {role}; create table t (id integer primary key)"
    );
    client.batch_execute(&sql).await.unwrap();
    let (_, rest) = database.url().rsplit_once('@').expect("a URL with a user");
    let url = format!("postgres://{role}:sesame@{rest}");
    let mut rowcast = Rowcast::on(&url).set(&format!("source.slot={role}")).start().await;
    let triggers = "select count(*) from pg_event_trigger where evtname like 'rowcast%'";
    assert_eq!(client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0), 0);
    let (mut by_itself, mut told) = (Vec::new(), Vec::new());
    for number in 0..7 {
        let is_told = number > 1;
        let took = publishes(&client, &rowcast, &format!("new_{number}"), is_told).await;
        if is_told { &mut told } else { &mut by_itself }.push(took);
    }
    println!("published by itself after {by_itself:?}, told after {told:?}");
    // A table that comes right behind a look waits for the next one as long as can be: all but the first would, if nothing
    // else than looks found them. A busy machine is not late each time.
    let (longest, shortest) = (by_itself.iter().max().unwrap(), told.iter().min().unwrap());
    assert!(*shortest * 2 < *longest, "its own looks have found them: {by_itself:?}, {told:?}");
    assert_eq!(rowcast.terminate().await, 0);
    client.batch_execute(&format!("reset role; drop owned by {role}; drop role {role}")).await.unwrap();
}

/// Has it run at a terminal of its own, by `how`; and the terminal go. Gives what reads its log, and its process.
async fn without_its_terminal(name: &str, how: &str) -> (Directory, impl Fn() -> String, Pid) {
    let database = Postgres::shared().await.create_database(name).await;
    let directory = Directory::new(name);
    let path = directory.path().to_owned();
    let run = format!(
        "echo $$ >{}; exec {how} {PROGRAM} run --source {} --set source.slot={} --listen 127.0.0.1:0 --data {} 2>{}",
        path.join("pid").display(),
        database.url(),
        database.name(),
        path.join("data").display(),
        path.join("log").display()
    );
    // A terminal of its own, which closes when this program dies.
    let mut terminal = tokio::process::Command::new("script")
        .args(["-qec", &run, "/dev/null"])
        // nohup leaves a file where it is run.
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("script");
    let read = move |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let log = {
        let read = read.clone();
        move || read("log")
    };
    wait_for(
        "the stream",
        SOON * 2,
        async || {
            if log().contains("Streaming changes") { Ok(()) } else { Err(log()) }
        },
    )
    .await;
    tokio::time::timeout(Duration::from_secs(10), terminal.kill()).await.unwrap().unwrap();
    let pid = Pid::from_raw(read("pid").trim().parse().unwrap()).unwrap();
    (directory, log, pid)
}

#[tokio::test]
async fn a_terminal_that_is_gone_ends_it() {
    // The tests themselves may have been started with nohup.
    let (_directory, log, _) = without_its_terminal("terminal", "env --default-signal=HUP").await;
    wait_for("the end", SOON, async || {
        if log().contains("Received SIGHUP") && log().contains("Stopped") { Ok(()) } else { Err(log()) }
    })
    .await;
    assert!(!log().contains("compares what is captured"), "{}", log());
}

/// Whoever has started it so wants it to go on: SIGHUP means to look again, and nothing else.
#[tokio::test]
async fn with_nohup_it_outlives_its_terminal() {
    let (_directory, log, pid) = without_its_terminal("nohup", "nohup").await;
    wait_for(
        "the look",
        SOON,
        async || {
            if log().contains("compares what is captured") { Ok(()) } else { Err(log()) }
        },
    )
    .await;
    kill_process(pid, Signal::TERM).unwrap();
    wait_for("the end", SOON, async || if log().contains("Stopped") { Ok(()) } else { Err(log()) }).await;
    assert!(log().contains("Received SIGTERM"), "{}", log());
}

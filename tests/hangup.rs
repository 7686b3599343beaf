//! SIGHUP: looks again, unless it says that the terminal is gone.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::process::Directory;
use crate::support::rowcast::PROGRAM;
use crate::support::{Postgres, Rowcast, SOON, wait_for};

#[tokio::test]
async fn a_hang_up_by_hand_looks_again() {
    let database = Postgres::shared().await.create_database("hangup").await;
    database.execute("create table t (id integer primary key)").await;
    let mut rowcast = Rowcast::of(&database).start().await;
    let client = database.client().await;
    // Nothing else than SIGHUP makes the missing trigger anew.
    client.batch_execute("drop event trigger rowcast").await.unwrap();
    let pid = Pid::from_raw(rowcast.pid().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
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

#[tokio::test]
async fn a_terminal_that_is_gone_ends_it() {
    let database = Postgres::shared().await.create_database("terminal").await;
    let directory = Directory::new("terminal");
    let data = directory.path().join("data");
    let run = format!(
        "exec {PROGRAM} run --source {} --set source.slot={} --listen 127.0.0.1:0 --data {} 2>{}",
        database.url(),
        database.name(),
        data.display(),
        directory.path().join("log").display()
    );
    // A terminal of its own, which closes when this program dies.
    let mut terminal = tokio::process::Command::new("script")
        .args(["-qec", &run, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("script");
    let log = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    wait_for(
        "the stream",
        SOON * 2,
        async || {
            if log().contains("Streaming changes") { Ok(()) } else { Err(log()) }
        },
    )
    .await;
    tokio::time::timeout(Duration::from_secs(10), terminal.kill()).await.unwrap().unwrap();
    wait_for("the end", SOON, async || {
        if log().contains("Received SIGHUP") && log().contains("Stopped") { Ok(()) } else { Err(log()) }
    })
    .await;
    assert!(!log().contains("compares what is captured"), "{}", log());
}

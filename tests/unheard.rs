//! What may go wrong around the program and is none of its business: a log that nobody can write or read, and a journal
//! that takes long to open.

use std::fs;

use crate::support::{Postgres, Rowcast, SOON, http, soon, wait_for};

/// A log on a full disk, and one whose reader has gone.
#[tokio::test]
async fn a_log_that_cannot_be_written_ends_nothing() {
    for (name, redirected) in [("log_full", "2>/dev/full"), ("log_unread", "2> >(true)")] {
        let database = Postgres::shared().await.create_database(name).await;
        database.execute("create table t (id integer primary key)").await;
        let run = format!("exec \"$@\" {redirected}");
        let mut rowcast = Rowcast::of(&database).under(&["bash", "-c", &run, "bash"]).start().await;
        // It is told, or would be.
        database.execute("select pg_logical_emit_message(true, 'rowcast.event.public.t', 'no json')").await;
        database.execute("insert into t values (1)").await;
        wait_for("the row", SOON, async || {
            let page =
                http::get(rowcast.address(), "/v1/events?channel=public.t&from=earliest&limit=5").await?;
            let count = page.json()["events"].as_array().map_or(0, Vec::len);
            if count == 1 { Ok(()) } else { Err(page.json().to_string()) }
        })
        .await;
        assert_eq!(rowcast.status().await["healthy"], true, "{redirected}");
        assert_eq!(rowcast.terminate().await, 0, "{redirected}");
    }
}

/// Many segments without an index take minutes. A pipe stands for them, in the place of a sink's position, which is read before:
/// whoever opens it waits for a writer.
#[tokio::test]
async fn a_signal_ends_it_while_the_journal_is_being_opened() {
    let database = Postgres::shared().await.create_database("opening").await;
    let mut rowcast = Rowcast::of(&database);
    let cursors = rowcast.data().join("cursors");
    fs::create_dir_all(&cursors).unwrap();
    let cursor = cursors.join("kafka.json");
    assert!(std::process::Command::new("mkfifo").arg(&cursor).status().unwrap().success());
    rowcast.spawn();
    let pid = rowcast.pid().unwrap();
    wait_for("the signals to be caught", SOON, async || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
        // SIGTERM is the fifteenth.
        let mask = u64::from_str_radix(caught.trim(), 16).unwrap();
        if mask >> 14 & 1 == 1 { Ok(()) } else { Err(rowcast.log()) }
    })
    .await;
    assert_eq!(soon("the end", rowcast.terminate()).await, 0, "{}", rowcast.log());
    assert!(rowcast.log().contains("Stopped before everything was open"), "{}", rowcast.log());
}

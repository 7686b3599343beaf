//! Servers whose log is not the one that was captured: restored from a backup, with the same identifiers, positions
//! and transaction numbers; and promoted standbys.

use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Broken, Journal, Options, StreamPosition, open};
use rowcast_postgres::{Config, OnGap};

use super::breaks::{POLICIES, REASONS, gaps, goes_on, one_row, stays};
use super::harness::{Capture, Directory, config, run, set, sql, until, value};
use super::measured::one_of;
use super::said::logged;
use crate::support::Server;

pub(super) fn at(server: &Server, of: &Config) -> Config {
    Config { url: config(server).url, ..of.clone() }
}

/// A server that was copied with one captured row, went on to three, and was put back to the copy.
pub(super) async fn put_back(policy: OnGap) -> (Server, Directory, Config) {
    let (mut server, directory, config) = one_row("", policy).await;
    server.stop_in_order();
    let backup = server.copy();
    server.launch("");
    let config = at(&server, &config);
    // At once, as those that come in their place later: so both have the same positions.
    let client = sql(&server).await;
    run(&client, "insert into t values (2)").await;
    run(&client, "insert into t values (3)").await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    capture.wait(3).await;
    capture.stop().await;
    drop(client);
    server.stop_in_order();
    server.restore(&backup);
    server.launch("");
    let config = at(&server, &config);
    (server, directory, config)
}

async fn end(server: &Server) -> Lsn {
    value(&sql(server).await, "select pg_current_wal_lsn()").await.parse().unwrap()
}

fn opened(directory: &Directory) -> Journal {
    open(Options::new(directory.path()), Arc::new(RealDisk)).unwrap()
}

async fn stored(directory: &Directory) -> Lsn {
    let journal = opened(directory);
    // Dropped only, its thread would hold the directory for a moment more.
    journal.close().await;
    journal.position().lsn
}

/// Transactions with the very numbers and positions that others had: nothing but what they hold tells them apart.
async fn are_where_others_were(capture: &Capture, rows: &[&str], others: &[&str]) {
    let is_told = |row: &&str| capture.events().iter().any(|event| event.new == *row);
    until("the rows in their place", async || rows.iter().all(is_told)).await;
    let events = capture.events();
    let of = |row: &str| events.iter().find(|event| event.new == row).map(|event| (event.xid, event.end_lsn));
    for (row, other) in rows.iter().zip(others) {
        assert_eq!(of(row), of(other), "row {row} is where row {other} was");
    }
}

const BEFORE: [&str; 3] = ["insert public.t 1", "insert public.t 2", "insert public.t 3"];

#[tokio::test]
async fn a_restored_server_that_is_behind() {
    for policy in POLICIES {
        let (server, directory, config) = put_back(policy).await;
        let capture = goes_on(config.clone(), &directory, "restored from a backup", "source_restored").await;
        run(&sql(&server).await, "insert into t values (4)").await;
        let expected = [&BEFORE[..], &["gap source_restored", "insert public.t 4"]].concat();
        stays(config, capture, &directory, &expected).await;
    }
}

/// The new rows are as long as the old ones: positions and transaction numbers coincide.
#[tokio::test]
async fn a_restored_server_that_went_the_same_way() {
    for policy in POLICIES {
        let (server, directory, config) = put_back(policy).await;
        let client = sql(&server).await;
        run(&client, "insert into t values (4)").await;
        run(&client, "insert into t values (5)").await;
        let capture = goes_on(config.clone(), &directory, "restored from a backup", "source_restored").await;
        are_where_others_were(&capture, &["4", "5"], &["2", "3"]).await;
        run(&client, "insert into t values (6)").await;
        let expected = ["gap source_restored", "insert public.t 4", "insert public.t 5", "insert public.t 6"];
        stays(config, capture, &directory, &[&BEFORE[..], &expected].concat()).await;
    }
}

#[tokio::test]
async fn a_restored_server_that_is_ahead() {
    for policy in POLICIES {
        let (server, directory, config) = put_back(policy).await;
        let client = sql(&server).await;
        let position = stored(&directory).await;
        run(&client, "insert into t values (4)").await;
        run(&client, "insert into t values (5)").await;
        until("the server to be ahead", async || {
            run(&client, "insert into other select generate_series(1, 100)").await;
            end(&server).await > position
        })
        .await;
        run(&client, "insert into t values (6)").await;
        let words = "is not what the journal holds there";
        let capture = goes_on(config.clone(), &directory, words, "source_restored").await;
        are_where_others_were(&capture, &["4", "5"], &["2", "3"]).await;
        let expected = ["gap source_restored", "insert public.t 4", "insert public.t 5", "insert public.t 6"];
        stays(config, capture, &directory, &[&BEFORE[..], &expected].concat()).await;
    }
}

/// What comes instead of the captured rows is nothing that is captured: what misses is noticed all the same.
#[tokio::test]
async fn a_restored_server_that_lacks_rows() {
    for (policy, comes) in [(OnGap::Stop, true), (OnGap::Stop, false), (OnGap::Continue, false)] {
        let (server, directory, config) = put_back(policy).await;
        let client = sql(&server).await;
        let position = stored(&directory).await;
        until("the server to be ahead", async || {
            run(&client, "insert into other select generate_series(1, 100)").await;
            end(&server).await > position
        })
        .await;
        if comes {
            run(&client, "insert into t values (4)").await;
        }
        let capture =
            goes_on(config.clone(), &directory, "does not have transaction", "source_restored").await;
        if !comes {
            run(&client, "insert into t values (4)").await;
        }
        let expected = [&BEFORE[..], &["gap source_restored", "insert public.t 4"]].concat();
        stays(config, capture, &directory, &expected).await;
    }
}

/// It was seen to be behind; that it has caught up meanwhile changes nothing, also after a restart of ours.
#[tokio::test]
async fn a_break_is_not_forgotten() {
    let (server, directory, config) = put_back(OnGap::Stop).await;
    let client = sql(&server).await;
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("restored from a backup").await;
    let position = capture.journal.position().lsn;
    capture.stop().await;
    until("the server to be ahead", async || {
        run(&client, "insert into other select generate_series(1, 100)").await;
        end(&server).await > position
    })
    .await;
    // A person who does not look first is not told that all is well.
    let capture = Capture::start(Config { adopt: true, ..config.clone() }, directory.path()).await;
    assert_eq!(gaps(&capture).len(), 1);
    capture.stop().await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, "insert into t values (4)").await;
    let expected = [&BEFORE[..], &["gap source_restored", "insert public.t 4"]].concat();
    stays(config, capture, &directory, &expected).await;
}

/// Each look at the server finds the same: that is said once, and nothing else meanwhile.
#[tokio::test]
async fn a_break_that_is_found_again_and_again_is_said_once() {
    let (server, directory, config) = put_back(OnGap::Stop).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (4); insert into t values (5)").await;
    // Beyond the journal's position, which older servers move by empty transactions, too: only comparing shows the break.
    run(&client, "select pg_switch_wal()").await;
    set(&client, "log_replication_commands = on").await;
    let streamed = || logged(directory.path(), "Streaming changes").len();
    let streamed_before = streamed();
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("restored from a backup").await;
    let comparisons = || server.log().matches("START_REPLICATION SLOT").count();
    let before = comparisons();
    until("more looks", async || {
        let report = capture.report();
        assert!(report.source.state == "waiting" && !report.healthy, "{report:?}");
        let told = one_of("rowcast_source_broken", "reason", &REASONS);
        assert_eq!(told.as_deref(), Some("source_restored"));
        comparisons() >= before + 2
    })
    .await;
    assert_eq!(logged(directory.path(), "Capture waits, the doors go on serving").len(), 1);
    // Once: the first time it was not known yet.
    assert!(streamed() <= streamed_before + 1);
    assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "source_restored");
    let expected = [&BEFORE[..], &["gap source_restored", "insert public.t 4", "insert public.t 5"]].concat();
    stays(config, capture, &directory, &expected).await;
}

/// A server that repeats what the journal lacks, and then what both have: whatever the reason, a gap is the end of it.
#[tokio::test]
async fn one_adoption_is_enough_for_what_lies_below_what_both_have() {
    for policy in POLICIES {
        let (server, directory) = (Server::start(""), Directory::new());
        let client = sql(&server).await;
        run(&client, "create table t (id int primary key); create table other (id int primary key)").await;
        run(&client, "create publication rowcast for table t, other").await;
        run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
        let some =
            Config { manage: false, on_gap: policy, tables: vec!["public.t".to_owned()], ..config(&server) };
        let all = Config { tables: vec!["public.*".to_owned()], ..some.clone() };
        // Nothing is confirmed, since a sink has nothing.
        let ingest = |journal| Ingest::new(journal).required(vec!["sink".to_owned()]);
        let capture = Capture::launch_into(ingest(opened(&directory)), some, &[]);
        run(&client, "insert into t values (1)").await;
        run(&client, "insert into other values (1)").await;
        run(&client, "insert into t values (2)").await;
        capture.wait(2).await;
        capture.stop().await;
        let mut capture = Capture::launch_into(ingest(opened(&directory)), all.clone(), &[]);
        capture.streams().await;
        capture.stop().await;
        // What explains it is forgotten.
        let journal = opened(&directory);
        let position = StreamPosition { captured_since: Lsn::ZERO, ..journal.position() };
        Ingest::new(journal.clone()).identify(position, &[]).await.unwrap();
        journal.close().await;

        let mut capture = Capture::launch_into(ingest(opened(&directory)), all.clone(), &[]);
        if policy == OnGap::Stop {
            capture.waits("is not what the journal holds there").await;
            assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "source_restored");
        }
        until("the gap", async || capture.status.adopted().is_some()).await;
        capture.streams().await;
        run(&client, "insert into t values (3)").await;
        let expected = ["insert public.t 1", "insert public.t 2", "gap source_restored", "insert public.t 3"];
        assert_eq!(capture.briefs(4).await, expected);
        // The slot stands where it was, and all comes once more.
        capture.crash().await;
        let capture = Capture::launch_into(ingest(opened(&directory)), all.clone(), &[]);
        run(&client, "insert into other values (2)").await;
        let expected = [&expected[..], &["insert public.other 2"]].concat();
        assert_eq!(capture.briefs(5).await, expected);
        stays(all, capture, &directory, &expected).await;
    }
}

/// The slot stands below where a publication was made that the stream reads: the server cannot show it what lies between, so
/// a new history does not begin there.
#[tokio::test]
async fn a_new_history_begins_where_all_that_is_read_can_be_shown() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table late (id int)").await;
    run(&client, "create publication asked for table t").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let config = Config { manage: false, publication: "asked".to_owned(), ..config(&server) };
    // Nothing is confirmed, since a sink has nothing.
    let ingest = |journal| Ingest::new(journal).required(vec!["sink".to_owned()]);
    let mut capture = Capture::launch_into(ingest(opened(&directory)), config.clone(), &[]);
    capture.streams().await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    run(&client, "create publication asked_inserts for table late with (publish = 'insert, truncate')").await;
    until("the gap", async || gaps(&capture).len() == 1).await;
    capture.stop().await;
    let journal = opened(&directory);
    let stored = journal.position();
    let (reason, detail) = ("source_restored".to_owned(), "It was seen to be another one".to_owned());
    let broken = Some(Broken { reason, detail, at: stored.lsn });
    Ingest::new(journal.clone()).identify(StreamPosition { broken, ..stored }, &[]).await.unwrap();
    journal.close().await;

    let adopting = Config { adopt: true, ..config.clone() };
    let mut capture = Capture::launch_into(ingest(opened(&directory)), adopting, &[]);
    capture.streams().await;
    run(&client, "insert into t values (2)").await;
    let expected =
        ["insert public.t 1", "gap public.late not_published", "gap source_restored", "insert public.t 2"];
    stays(config, capture, &directory, &expected).await;
}

/// The address led to a stale copy for a while, and leads to the right server again: nothing is lost, nothing is told.
#[tokio::test]
async fn a_wrong_address_that_is_mended_leaves_no_gap() {
    let (mut server, directory, config) = one_row("", OnGap::Stop).await;
    server.stop_in_order();
    let mut stale = server.copy();
    server.launch("");
    let right = at(&server, &config);
    let capture = Capture::start(right.clone(), directory.path()).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (2)").await;
    capture.wait(2).await;
    capture.stop().await;
    stale.launch("");
    let capture = Capture::launch(at(&stale, &config), directory.path());
    capture.waits("restored from a backup").await;
    capture.stop().await;
    run(&client, "insert into t values (3)").await;
    let capture = Capture::start(right.clone(), directory.path()).await;
    stays(right, capture, &directory, &BEFORE).await;
}

/// A primary with one captured row and a standby of it, which has a copy of the slot.
pub(super) async fn pair(policy: OnGap) -> (Server, Server, Directory, Config) {
    let (mut primary, directory, config) = one_row("", policy).await;
    primary.stop_in_order();
    let mut standby = primary.copy();
    primary.launch("");
    standby.write("standby.signal", "");
    let (dir, port) = (primary.dir().display(), primary.port);
    standby.launch(&format!("primary_conninfo = 'host={dir} port={port} user=postgres'"));
    let config = at(&primary, &config);
    (primary, standby, directory, config)
}

pub(super) async fn caught_up(primary: &Server, standby: &Server) {
    let target = end(primary).await;
    let client = sql(standby).await;
    until("the standby", async || {
        let replayed: Lsn = value(&client, "select pg_last_wal_replay_lsn()").await.parse().unwrap();
        replayed >= target
    })
    .await;
}

#[tokio::test]
async fn a_promoted_standby_that_has_everything_goes_on() {
    let (mut primary, standby, directory, config) = pair(OnGap::Stop).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&sql(&primary).await, "insert into t values (2)").await;
    capture.wait(2).await;
    capture.stop().await;
    // Not captured yet.
    run(&sql(&primary).await, "insert into t values (3)").await;
    caught_up(&primary, &standby).await;
    primary.stop_in_order();
    standby.promote();
    let config = at(&standby, &config);
    let mut capture = Capture::launch(config.clone(), directory.path());
    capture.streams().await;
    run(&sql(&standby).await, "insert into t values (4)").await;
    let expected = [&BEFORE[..], &["insert public.t 4"]].concat();
    stays(config, capture, &directory, &expected).await;
}

/// A primary that is down, and its standby, promoted without the newest row that was captured.
pub(super) async fn promoted_too_early(policy: OnGap) -> (Server, Server, Directory, Config) {
    let (mut primary, mut standby, directory, config) = pair(policy).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&sql(&primary).await, "insert into t values (2)").await;
    capture.wait(2).await;
    // Both have this; the standby's slot is from before it.
    caught_up(&primary, &standby).await;
    standby.stop_in_order();
    run(&sql(&primary).await, "insert into t values (3)").await;
    capture.wait(3).await;
    capture.stop().await;
    primary.stop_in_order();
    standby.launch("");
    standby.promote();
    let config = at(&standby, &config);
    (primary, standby, directory, config)
}

#[tokio::test]
async fn a_standby_that_was_promoted_too_early() {
    for policy in POLICIES {
        let (_primary, standby, directory, config) = promoted_too_early(policy).await;
        let capture = goes_on(config.clone(), &directory, "left timeline 1 at", "timeline").await;
        // The server repeats what both have, and that is compared with the old history.
        capture.crash().await;
        let capture =
            Capture::start(Config { on_gap: OnGap::Stop, ..config.clone() }, directory.path()).await;
        run(&sql(&standby).await, "insert into t values (4)").await;
        let expected = [&BEFORE[..], &["gap timeline", "insert public.t 4"]].concat();
        stays(config, capture, &directory, &expected).await;
    }
}

/// A promotion was followed, and the address leads to the old primary: which knows of no other timeline than its own.
#[tokio::test]
async fn the_old_primary_comes_back() {
    let (mut primary, standby, directory, config) = pair(OnGap::Stop).await;
    caught_up(&primary, &standby).await;
    primary.stop_in_order();
    standby.promote();
    let right = at(&standby, &config);
    let capture = Capture::start(right.clone(), directory.path()).await;
    run(&sql(&standby).await, "insert into t values (2)").await;
    capture.wait(2).await;
    capture.stop().await;
    primary.launch("");
    let wrong = at(&primary, &config);
    let capture = Capture::launch(wrong.clone(), directory.path());
    capture.waits("timeline 1, which did not come of timeline 2").await;
    capture.stop().await;
    // For a while only: nothing is lost.
    run(&sql(&standby).await, "insert into t values (3)").await;
    let capture = Capture::start(right, directory.path()).await;
    assert_eq!(capture.briefs(3).await, BEFORE);
    capture.stop().await;
    // For good: behind a gap it goes on.
    let capture = goes_on(wrong.clone(), &directory, "did not come of timeline 2", "timeline").await;
    run(&sql(&primary).await, "insert into t values (4)").await;
    let expected = [&BEFORE[..], &["gap timeline", "insert public.t 4"]].concat();
    stays(wrong, capture, &directory, &expected).await;
}

//! Servers whose log is not the one that was captured: restored from a backup, with the same identifiers, positions
//! and transaction numbers; and promoted standbys.

use rowcast_engine::Lsn;
use rowcast_postgres::{Config, OnGap};

use super::breaks::{POLICIES, gaps, goes_on, one_row, stays};
use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

fn at(server: &Server, of: &Config) -> Config {
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

async fn stored(directory: &Directory) -> Lsn {
    let options = rowcast_engine::journal::Options::new(directory.path());
    let disk = std::sync::Arc::new(rowcast_engine::journal::disk::RealDisk);
    let journal = rowcast_engine::journal::open(options, disk).unwrap();
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

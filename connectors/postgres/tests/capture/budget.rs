//! What the server keeps of its log for a slot that nobody reads on from: told, and given up before the disk is full.

use std::time::Duration;

use rowcast_engine::journal::Options;
use rowcast_postgres::{Config, OnGap};
use tokio_postgres::Client;

use super::breaks::{one_row, stays};
use super::harness::{Capture, Directory, run, sql, until, value};
use super::interceptor::{Fate, Interceptor};
use super::restored::put_back;

const BUDGET: u64 = 64 << 20;

fn with_budget(config: &Config) -> Config {
    Config { wal_budget: Some(BUDGET), ..config.clone() }
}

/// Some 16 MB of log that nobody captures.
pub(super) async fn write(client: &Client) {
    run(client, "insert into other select generate_series(1, 1000); select pg_switch_wal()").await;
}

/// What is kept; `None` when the slot is gone.
pub(super) async fn kept(client: &Client) -> Option<u64> {
    let sql =
        "select (select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 from pg_replication_slots
               where slot_name = 'rowcast')";
    value(client, sql).await.parse().ok()
}

/// Writes on until the slot is gone, at a rate that lets a look come; gives the most that was kept.
async fn until_given_up(client: &Client) -> u64 {
    let mut most = 0;
    until("the slot to be given up", async || {
        let Some(kept) = kept(client).await else { return true };
        most = most.max(kept);
        write(client).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        false
    })
    .await;
    most
}

#[tokio::test]
async fn a_capture_that_waits_for_a_person_gives_up_its_slot() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (2)").await;
    run(&client, "select pg_replication_slot_advance('rowcast', pg_current_wal_insert_lsn())").await;
    let capture = Capture::launch(with_budget(&config), directory.path());
    capture.waits("beyond the journal's position").await;
    let most = until_given_up(&client).await;
    assert!(most > BUDGET && most < BUDGET * 6, "kept {most}");
    // It is said when the server has answered.
    let words = "has given up the replication slot rowcast";
    until(words, async || capture.report().source.reason.is_some_and(|why| why.contains(words))).await;
    let reason = capture.waits(words).await;
    assert!(
        reason.contains("source.wal_budget (64MB)") && reason.contains("beyond the journal's"),
        "{reason}"
    );
    capture.slot_is("missing").await;
    // It is known after a restart, too.
    capture.stop().await;
    let capture = Capture::launch(with_budget(&config), directory.path());
    capture.waits("has given up the replication slot rowcast").await;
    let adopted = capture.status.adopt().await.unwrap().unwrap();
    assert!(adopted.reason == "source_lost" && adopted.detail.contains("wal_budget"), "{adopted:?}");
    run(&client, "insert into t values (3)").await;
    let expected = ["insert public.t 1", "gap source_lost", "insert public.t 3"];
    stays(config, capture, &directory, &expected).await;
}

/// The journal is full because of a sink that is behind: the stream is open, and nothing is read from it.
#[tokio::test]
async fn a_capture_that_waits_for_room_gives_up_its_slot() {
    for policy in [OnGap::Stop, OnGap::Continue] {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        let small = |size: u64| Options {
            max_size: Some(size),
            segment_bytes: 1 << 20,
            min_free: 0,
            holds: [("sink".to_owned(), 0)].into(),
            ..Options::new(directory.path())
        };
        let mut capture = Capture::launch_with(with_budget(&config), small(4 << 20));
        capture.streams().await;
        run(
            &client,
            "create table big (id int primary key, v text); alter publication rowcast add table big",
        )
        .await;
        let insert = "insert into t select generate_series(1000, 200000)";
        run(&client, insert).await;
        until("the journal to be full", async || capture.report().source.state == "paused").await;
        let most = until_given_up(&client).await;
        assert!(most > BUDGET && most < BUDGET * 6, "kept {most}");
        until("the words", async || {
            capture.report().reasons.iter().any(|reason| reason.contains("has given up the replication slot"))
        })
        .await;
        assert!(capture.report().reasons.iter().any(|reason| reason.contains("waits for room")));
        // None is made anew as long as there is no room, whatever the policy.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(kept(&client).await, None);
        let stored = capture.journal.position().lsn;
        capture.crash().await;

        // There is room again: behind a gap it goes on.
        let mut capture = Capture::launch_with(config.clone(), small(1 << 30));
        if policy == OnGap::Stop {
            // Why is remembered, unless the crash came before that.
            capture.waits("replication slot rowcast").await;
            assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "source_lost");
        }
        capture.streams().await;
        assert_eq!(capture.status.adopted().unwrap().reason, "source_lost");
        assert!(capture.journal.position().lsn > stored);
        let newest = capture.journal.newest();
        run(&client, "insert into t values (-1)").await;
        until("the row", async || capture.journal.newest() > newest).await;
        capture.stop().await;
    }
}

/// What is somebody else's is not dropped; and a capture that moves keeps its slot, however much that keeps.
#[tokio::test]
async fn slots_that_are_not_given_up() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    let moving = Capture::start(with_budget(&config), directory.path()).await;
    let (pin, written) = (sql(&server).await, async || value(&client, "select pg_current_wal_lsn()").await);
    // Somebody's transaction keeps the log, and rowcast is not behind.
    run(&pin, "begin; insert into other values (0)").await;
    let before = written().await;
    for _ in 0..12 {
        write(&client).await;
    }
    assert_ne!(before, written().await);
    until("the concern", async || {
        moving.report().source.concern.is_some_and(|concern| concern.contains("source.wal_budget"))
    })
    .await;
    assert!(!moving.report().healthy);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(kept(&client).await.unwrap() > BUDGET);
    assert_eq!((moving.report().source.state, moving.report().source.reconnects), ("streaming", 0));
    run(&pin, "commit").await;
    moving.stop().await;

    let second = Directory::new();
    let robber = Capture::start(Config { adopt: true, ..config.clone() }, second.path()).await;
    robber.stop().await;
    let robbed = Capture::launch(with_budget(&config), directory.path());
    robbed.waits("taken over by another installation").await;
    while kept(&client).await.unwrap() < BUDGET * 2 {
        write(&client).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(kept(&client).await.is_some(), "another installation's slot was dropped");
    robbed.waits("taken over by another installation").await;
    robbed.stop().await;

    // One that has no more of ours than its name.
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'test_decoding')").await;
    let replaced = Capture::launch(with_budget(&config), second.path());
    replaced.waits("another one has its name").await;
    while kept(&client).await.unwrap() < BUDGET * 2 {
        write(&client).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(kept(&client).await.is_some(), "a slot of another plugin was dropped");
    replaced.stop().await;
}

/// An error for good has ended capture; the doors serve on, and the slot is looked after still.
#[tokio::test]
async fn a_capture_that_has_stopped_gives_up_its_slot() {
    gives_up_once_stopped(false).await;
}

/// `rowcast run --adopt` runs on like any other.
#[tokio::test]
async fn a_capture_that_was_to_adopt_and_has_stopped_gives_up_its_slot() {
    gives_up_once_stopped(true).await;
}

/// What ends capture for good on any version: from now on inserts come as something that nobody knows.
fn spoil(way: &Interceptor) {
    way.rule(|message| {
        if message.first() == Some(&b'I') {
            message[0] = b'Z';
        }
        Fate::Pass
    });
}

const SPOILED: &str = "unknown message tag";

async fn gives_up_once_stopped(adopt: bool) {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    let way = Interceptor::start(&server).await;
    let config = Config { url: way.config().url, ..config };
    let capture = Capture::start(Config { adopt, ..with_budget(&config) }, directory.path()).await;
    spoil(&way);
    run(&client, "insert into t values (2)").await;
    until("the end", async || capture.report().source.state == "stopped").await;
    let reason = capture.report().source.reason.unwrap_or_default();
    assert!(reason.contains(SPOILED), "{reason}");
    let most = until_given_up(&client).await;
    assert!(most > BUDGET && most < BUDGET * 6, "kept {most}");
    until("the words", async || {
        let source = capture.report().source;
        let told = source.reason.is_some_and(|reason| reason.contains("has given up the replication slot"));
        source.state == "stopped" && told
    })
    .await;
    capture.crash().await;
    way.rule(|_| Fate::Pass);
    let capture = Capture::launch(config, directory.path());
    capture.waits("is gone").await;
    assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "source_lost");
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(3).await[1..], ["gap source_lost", "insert public.t 3"]);
    capture.stop().await;
}

/// Without a budget nothing is given up, and people are told all the same how much is kept.
#[tokio::test]
async fn what_is_kept_is_told_when_capture_has_stopped() {
    const WARNING: u64 = 32 << 20;
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    let way = Interceptor::start(&server).await;
    let config = Config { wal_warning: WARNING, url: way.config().url, ..config };
    let capture = Capture::start(config, directory.path()).await;
    capture.slot_is("active").await;
    spoil(&way);
    run(&client, "insert into t values (2)").await;
    until("the end", async || capture.report().source.state == "stopped").await;
    while kept(&client).await.unwrap() <= WARNING {
        write(&client).await;
    }
    capture.slot_is("inactive").await;
    until("what is kept", async || capture.report().source.wal_retained_bytes > Some(WARNING)).await;
    until("the concern", async || capture.report().source.concern.is_some()).await;
    let source = capture.report().source;
    assert!(source.state == "stopped" && source.reason.unwrap().contains(SPOILED));
    assert!(capture.fails().await.to_string().contains(SPOILED));
}

#[tokio::test]
async fn a_limit_of_the_servers_is_told_before_it_is_reached() {
    let settings = "max_slot_wal_keep_size = 128MB\nmax_wal_size = 64MB\nmin_wal_size = 32MB";
    let (server, directory, config) = one_row(settings, OnGap::Stop).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (2)").await;
    run(&client, "select pg_replication_slot_advance('rowcast', pg_current_wal_insert_lsn())").await;
    let capture = Capture::launch(config, directory.path());
    capture.waits("beyond the journal's position").await;
    until("the concern", async || {
        if kept(&client).await.unwrap() < 110 << 20 {
            write(&client).await;
        }
        capture.report().source.concern.is_some_and(|concern| concern.contains("more the slot is lost"))
    })
    .await;
    let report = capture.report();
    assert!(
        report.reasons.iter().any(|reason| reason.contains("max_slot_wal_keep_size")),
        "{:?}",
        report.reasons
    );
    assert!(report.source.wal_safe_bytes.is_some());
    capture.stop().await;
}

/// Somebody lets a break pass while the server goes on writing: what is being read for that is not taken away under it.
#[tokio::test]
async fn an_adoption_that_is_under_way_keeps_its_slot() {
    let (server, directory, config) = put_back(OnGap::Stop).await;
    let client = sql(&server).await;
    run(&client, "insert into t values (4)").await;
    let way = Interceptor::start(&server).await;
    let config = Config { url: way.config().url, ..with_budget(&config) };
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("restored from a backup").await;
    way.hold();
    let status = capture.status.clone();
    let adoption = tokio::spawn(async move { status.adopt().await });
    until("the slot to be read", async || way.has_message()).await;
    while kept(&client).await.unwrap() < BUDGET * 2 {
        write(&client).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(kept(&client).await.is_some() && !adoption.is_finished());
    way.pass_stream();
    assert_eq!(adoption.await.unwrap().unwrap().unwrap().reason, "source_restored");
    let expected = ["insert public.t 1", "insert public.t 2", "insert public.t 3", "gap source_restored"];
    stays(config, capture, &directory, &[&expected[..], &["insert public.t 4"]].concat()).await;
}

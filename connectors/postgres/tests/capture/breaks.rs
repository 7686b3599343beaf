//! Histories that do not go on: each is noticed, waits for a person or goes on by itself as configured, and leaves
//! one gap behind.

use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::sql_client;
use rowcast_postgres::{Config, OnGap};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, Seen, config, run, sql, until, value, version};
use super::measured;
use super::said::logged;
use super::snapshot::caught_up;
use crate::support::Server;
use rowcast_engine::adoption::Adopted;

/// Why a history does not go on.
pub(super) const REASONS: [&str; 8] = [
    "source_lost",
    "source_restored",
    "timeline",
    "another_cluster",
    "slot_recreated",
    "journal_behind",
    "journal_lost",
    "taken_over",
];

/// From here on the server says since when nobody has read a slot.
const SAYS_SINCE_WHEN: u32 = 170_000;

pub(super) const POLICIES: [OnGap; 2] = [OnGap::Stop, OnGap::Continue];

/// Captures a history that is broken: waits and is adopted, or goes on by itself. Either way there is one more gap.
pub(super) async fn goes_on(config: Config, directory: &Directory, words: &str, reason: &str) -> Capture {
    let policy = config.on_gap;
    let mut capture = Capture::launch(config, directory.path());
    if policy == OnGap::Stop {
        capture.waits(words).await;
        let told = measured::one_of("rowcast_source_broken", "reason", &REASONS);
        assert_eq!(told.as_deref(), Some(reason));
        assert!(capture.status.adopted().is_none());
        assert_eq!(gaps(&capture).iter().filter(|gap| gap.new == reason).count(), 0, "told before its time");
        let adopted = capture.status.adopt().await.unwrap().unwrap();
        assert!(adopted.reason == reason && adopted.detail.contains(words), "{adopted:?}");
    }
    until("the gap", async || capture.status.adopted().is_some()).await;
    let adopted = capture.status.adopted().unwrap();
    assert!(adopted.reason == reason && adopted.detail.contains(words), "{adopted:?}");
    capture.streams().await;
    assert_eq!(measured::one_of("rowcast_source_broken", "reason", &REASONS), None);
    is_logged(directory, policy, &adopted);
    let gaps = gaps(&capture);
    assert_eq!(gaps.iter().map(|gap| (gap.id, &*gap.new)).collect::<Vec<_>>(), [(adopted.gap, reason)]);
    assert_eq!(capture.status.adopt().await.unwrap(), None, "there is nothing more to adopt");
    capture
}

/// The log says that it waits, unless it goes on by itself, and that the gap is there, with the reason.
fn is_logged(directory: &Directory, policy: OnGap, adopted: &Adopted) {
    let reason = format!("reason=\"{}\"", adopted.reason);
    let with_reason = |words: &str| {
        let mut lines = logged(directory.path(), words);
        lines.retain(|line| line.contains(&reason));
        lines
    };
    let waiting = with_reason("Capture waits, the doors go on serving");
    assert!(policy != OnGap::Stop || !waiting.is_empty(), "{}", adopted.reason);
    assert!(
        waiting.iter().all(|line| line.contains("ERROR") && line.contains("rowcast adopt")),
        "{waiting:?}"
    );
    let recorded = with_reason(&format!("gap={} ", adopted.gap));
    assert!(recorded.len() == 1 && recorded[0].contains("WARN"), "{recorded:?}");
    assert!(recorded[0].contains("Recorded a gap in the history"), "{recorded:?}");
}

pub(super) fn gaps(capture: &Capture) -> Vec<Seen> {
    capture.events().into_iter().filter(|event| event.brief().starts_with("gap ")).collect()
}

/// Events as they are now, and the same after one more start: later rows flow, and nothing comes again.
pub(super) async fn stays(config: Config, capture: Capture, directory: &Directory, expected: &[&str]) {
    assert_eq!(capture.briefs(expected.len()).await, expected);
    capture.stop().await;
    let config = Config { on_gap: OnGap::Stop, ..config };
    let client = sql_client(&Conninfo::parse(&config.url).unwrap()).await.unwrap();
    let capture = Capture::start(config, directory.path()).await;
    caught_up(&client, &capture).await;
    assert_eq!(capture.briefs(expected.len()).await, expected);
    capture.stop().await;
}

/// A server with one captured row, and a stopped capture of it.
pub(super) async fn one_row(settings: &str, policy: OnGap) -> (Server, Directory, Config) {
    one_row_on(Server::start(settings), policy).await
}

/// The same on a server that runs.
pub(super) async fn one_row_on(server: Server, policy: OnGap) -> (Server, Directory, Config) {
    let directory = Directory::new();
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key); create table other (id int)").await;
    let config = Config { tables: vec!["public.t".to_owned()], on_gap: policy, ..config(&server) };
    let capture = Capture::start(config.clone(), directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    capture.stop().await;
    decoded(&server).await;
    (server, directory, config)
}

/// Makes the slot by hand, and waits until the server's statistics are those of this one.
pub(super) async fn make_anew(client: &Client) {
    run(client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    // Before version 15 they come a moment later.
    let anew = "select coalesce(sum(total_txns), 0) = 0 from pg_stat_replication_slots";
    until("the statistics", async || value(client, anew).await == "true").await;
}

/// Waits until the server's statistics say that the slot has been read: before 15 they come a moment later.
async fn decoded(server: &Server) {
    let client = sql(server).await;
    let sql = "select total_txns > 0 from pg_stat_replication_slots where slot_name = 'rowcast'";
    until("the statistics", async || value(&client, sql).await == "true").await;
}

#[tokio::test]
async fn another_cluster() {
    for policy in POLICIES {
        let (_first, directory, _) = one_row("", policy).await;
        let (server, _elsewhere, config) = one_row("", policy).await;
        let client = sql(&server).await;
        // The other one's slot is not ours.
        run(&client, "select pg_drop_replication_slot('rowcast'); drop schema rowcast cascade").await;
        let capture =
            goes_on(config.clone(), &directory, "another database cluster", "another_cluster").await;
        run(&client, "insert into t values (2)").await;
        stays(
            config,
            capture,
            &directory,
            &["insert public.t 1", "gap another_cluster", "insert public.t 2"],
        )
        .await;
    }
}

#[tokio::test]
async fn a_slot_made_anew_by_hand() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        run(&client, "select pg_drop_replication_slot('rowcast'); insert into t values (2)").await;
        make_anew(&client).await;
        run(&client, "insert into t values (3)").await;
        let capture = goes_on(config.clone(), &directory, "dropped and created anew", "slot_recreated").await;
        run(&client, "insert into t values (4)").await;
        let expected = ["insert public.t 1", "gap slot_recreated", "insert public.t 3", "insert public.t 4"];
        stays(config, capture, &directory, &expected).await;
    }
}

#[tokio::test]
async fn a_slot_that_was_moved() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        run(&client, "insert into t values (2)").await;
        run(&client, "select pg_replication_slot_advance('rowcast', pg_current_wal_insert_lsn())").await;
        run(&client, "insert into t values (3)").await;
        let capture = goes_on(config.clone(), &directory, "it was moved by hand", "journal_behind").await;
        let expected = ["insert public.t 1", "gap journal_behind", "insert public.t 3"];
        stays(config, capture, &directory, &expected).await;
    }
}

#[tokio::test]
async fn a_slot_that_is_gone() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        run(&client, "select pg_drop_replication_slot('rowcast'); insert into t values (2)").await;
        let capture = goes_on(config.clone(), &directory, "is gone", "source_lost").await;
        run(&client, "insert into t values (3)").await;
        let expected = ["insert public.t 1", "gap source_lost", "insert public.t 3"];
        stays(config, capture, &directory, &expected).await;
    }
}

#[tokio::test]
async fn a_slot_whose_log_was_removed() {
    for policy in POLICIES {
        let settings = "max_slot_wal_keep_size = 1MB\nmax_wal_size = 32MB\nmin_wal_size = 32MB";
        let (server, directory, config) = one_row(settings, policy).await;
        let client = sql(&server).await;
        let lost = "select count(*) from pg_replication_slots where wal_status = 'lost'";
        until("the slot to be lost", async || {
            run(&client, "insert into other values (1); select pg_switch_wal(); checkpoint").await;
            value(&client, lost).await == "1"
        })
        .await;
        run(&client, "insert into t values (2)").await;
        let waiting = Config { on_gap: OnGap::Stop, ..config.clone() };
        let capture = Capture::launch(waiting, directory.path());
        capture.slot_is("wal_removed").await;
        capture.stop().await;
        let capture = goes_on(config.clone(), &directory, "is lost", "source_lost").await;
        run(&client, "insert into t values (3)").await;
        let expected = ["insert public.t 1", "gap source_lost", "insert public.t 3"];
        stays(config, capture, &directory, &expected).await;
    }
}

/// What another reader has confirmed is not sent again: the journal lacks it, and says so before anything else.
#[tokio::test]
async fn a_slot_that_pg_recvlogical_has_read_from() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    // While it reads it is waited for, and named.
    let mut reader = server.recvlogical("rowcast").spawn().unwrap();
    until("the other reader", async || {
        value(&client, "select count(*) from pg_replication_slots where active").await == "1"
    })
    .await;
    let mut capture = Capture::launch(config.clone(), directory.path());
    capture.slot_is("in_use").await;
    until("its name", async || {
        capture.report().source.reason.is_some_and(|reason| reason.contains("application pg_recvlogical"))
    })
    .await;
    reader.kill().unwrap();
    reader.wait().unwrap();
    capture.streams().await;
    capture.stop().await;
    run(&client, "insert into t values (2)").await;
    let end = value(&client, "pg_current_wal_insert_lsn()").await;
    run(&client, "insert into t values (3)").await;
    server.steal("rowcast", &end);
    let capture = Capture::launch(config.clone(), directory.path());
    let reason = capture.waits("beyond the journal's position").await;
    assert!(reason.contains("something else has read from it"), "{reason}");
    assert_eq!(capture.events().len(), 1);
    capture.slot_is("inactive").await;
    if version(&client).await >= SAYS_SINCE_WHEN {
        until("its idleness", async || capture.gauge("slot_inactive_seconds") >= 2.0).await;
    }
    capture.stop().await;
    let config = Config { on_gap: OnGap::Continue, ..config };
    let capture =
        goes_on(config.clone(), &directory, "beyond the journal's position", "journal_behind").await;
    let expected = ["insert public.t 1", "gap journal_behind", "insert public.t 3"];
    stays(config, capture, &directory, &expected).await;
}

/// The policy is to need nobody: also where somebody reads on for longer than our own sender is waited for.
#[tokio::test]
async fn a_reader_in_the_way_of_a_gap_is_waited_for() {
    for policy in [OnGap::Continue, OnGap::Resnapshot] {
        let (server, directory, config) = one_row("wal_sender_timeout = 3s", policy).await;
        let client = sql(&server).await;
        run(&client, "insert into t values (2)").await;
        run(&client, "select pg_replication_slot_advance('rowcast', pg_current_wal_insert_lsn())").await;
        let mut reader = server.recvlogical("rowcast").spawn().unwrap();
        let active = "select count(*) from pg_replication_slots where active";
        until("the other reader", async || value(&client, active).await == "1").await;
        let mut capture = Capture::launch(config.clone(), directory.path());
        until("another try", async || {
            let source = capture.report().source;
            assert_ne!(source.state, "stopped", "{source:?}");
            let named = source.reason.is_some_and(|reason| reason.contains("is being read by process"));
            named && source.reconnects > 0
        })
        .await;
        assert!(capture.status.adopted().is_none());
        reader.kill().unwrap();
        reader.wait().unwrap();
        capture.streams().await;
        assert_eq!(capture.status.adopted().unwrap().reason, "journal_behind");
        run(&client, "insert into t values (3)").await;
        let told = |brief: &str| capture.events().iter().any(|event| event.brief() == brief);
        until("the row", async || told("insert public.t 3")).await;
        assert!(!told("insert public.t 2"));
        capture.stop().await;
    }
}

#[tokio::test]
async fn a_journal_from_an_older_backup() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        let backup = Directory::new();
        backup.copy_from(directory.path());
        let capture = Capture::start(config.clone(), directory.path()).await;
        run(&client, "insert into t values (2)").await;
        let newest = capture.wait(2).await[1].id;
        capture.stop().await;
        let capture = goes_on(config.clone(), &backup, "restored from a backup", "journal_behind").await;
        run(&client, "insert into t values (3)").await;
        let events = capture.wait(3).await;
        assert!(events[1].id > newest && events[2].id > newest, "a number is given twice");
        let expected = ["insert public.t 1", "gap journal_behind", "insert public.t 3"];
        stays(config, capture, &backup, &expected).await;
    }
}

#[tokio::test]
async fn a_wiped_directory() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        let wiped = Directory::new();
        run(&client, "insert into t values (2)").await;
        let mut capture = match policy {
            // There is nothing to serve: before the first success it ends.
            OnGap::Stop => {
                let error = Capture::launch(config.clone(), wiped.path()).fails().await;
                assert!(error.to_string().contains("its data directory was lost"), "{error}");
                assert!(error.remedy().unwrap().contains("rowcast adopt"));
                Capture::launch(Config { adopt: true, ..config.clone() }, wiped.path())
            }
            OnGap::Continue | OnGap::Resnapshot => Capture::launch(config.clone(), wiped.path()),
        };
        capture.streams().await;
        let lost = config.clone();
        stays(lost, capture, &wiped, &["gap taken_over", "insert public.t 2"]).await;

        // The name of the installation was kept, the journal was not.
        let named = Directory::new();
        std::fs::create_dir(named.path()).unwrap();
        std::fs::copy(wiped.path().join("installation"), named.path().join("installation")).unwrap();
        let config = Config { adopt: policy == OnGap::Stop, ..config };
        let mut capture = Capture::launch(config.clone(), named.path());
        capture.streams().await;
        stays(Config { adopt: false, ..config }, capture, &named, &["gap journal_lost"]).await;
        drop(directory);
    }
}

#[tokio::test]
async fn two_installations_on_one_slot() {
    let (server, first, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    let second = Directory::new();
    let owner = Capture::start(config.clone(), first.path()).await;
    // Not as long as the other one reads, neither by policy nor by a person's word.
    for (refused, words) in [
        (Config { on_gap: OnGap::Continue, ..config.clone() }, "belongs to another installation"),
        (Config { adopt: true, ..config.clone() }, "is being read by process"),
    ] {
        let error = Capture::launch(refused, second.path()).fails().await;
        assert!(error.to_string().contains(words), "{error}");
    }
    run(&client, "insert into t values (2)").await;
    assert_eq!(owner.briefs(2).await, ["insert public.t 1", "insert public.t 2"]);
    owner.stop().await;

    let capture = Capture::start(Config { adopt: true, ..config.clone() }, second.path()).await;
    run(&client, "insert into t values (3)").await;
    assert_eq!(capture.briefs(2).await, ["gap taken_over", "insert public.t 3"]);
    // The first one waits. It may not have the slot while the second one reads.
    let robbed = Capture::launch(config.clone(), first.path());
    robbed.waits("taken over by another installation").await;
    let error = robbed.status.adopt().await.unwrap_err();
    assert!(error.to_string().contains("is being read by process"), "{error}");
    robbed.waits("taken over by another installation").await;
    assert!(gaps(&robbed).is_empty());
    capture.stop().await;
    assert_eq!(robbed.status.adopt().await.unwrap().unwrap().reason, "taken_over");
    run(&client, "insert into t values (4)").await;
    let expected = ["insert public.t 1", "insert public.t 2", "gap taken_over", "insert public.t 4"];
    stays(config.clone(), robbed, &first, &expected).await;
    let capture = Capture::launch(config, second.path());
    capture.waits("taken over by another installation").await;
    capture.stop().await;
}

#[tokio::test]
async fn an_adoption_that_is_cut_off_leaves_one_gap() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    let second = Directory::new();
    // The source lets itself be read, and does not take the new owner's name.
    run(
        &client,
        "create function no() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
         create trigger no before update on rowcast.installation execute function no();
         insert into t values (2)",
    )
    .await;
    let adopting = Config { adopt: true, ..config.clone() };
    let error = Capture::launch(adopting.clone(), second.path()).fails().await;
    assert!(error.to_string().contains("Cannot claim"), "{error}");
    let owner = "select count(distinct installation) from rowcast.installation";
    assert_eq!(value(&client, owner).await, "1");
    run(&client, "drop trigger no on rowcast.installation").await;
    let capture = Capture::start(config.clone(), second.path()).await;
    stays(config.clone(), capture, &second, &["gap taken_over", "insert public.t 2"]).await;

    // A new slot that was made, and no more: still a break.
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    run(&client, "update rowcast.installation set slot_birth = null").await;
    run(&client, "select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await;
    let capture = Capture::launch(config.clone(), second.path());
    capture.waits("created anew").await;
    assert_eq!(capture.status.adopt().await.unwrap().unwrap().reason, "slot_recreated");
    run(&client, "insert into t values (3)").await;
    let expected = ["gap taken_over", "insert public.t 2", "gap slot_recreated", "insert public.t 3"];
    stays(config, capture, &second, &expected).await;
    drop(directory);
}

#[tokio::test]
async fn a_word_that_comes_while_the_server_is_away_is_answered() {
    let (mut server, directory, config) = one_row("", OnGap::Stop).await;
    let client = sql(&server).await;
    run(&client, "select pg_drop_replication_slot('rowcast')").await;
    let capture = Capture::launch(config.clone(), directory.path());
    capture.waits("is gone").await;
    drop(client);
    server.stop_in_order();
    let error = capture.status.adopt().await.unwrap_err();
    assert!(error.to_string().contains("unreachable"), "{error}");
    capture.waits("is gone").await;
    assert!(gaps(&capture).is_empty());
    capture.stop().await;
}

#[tokio::test]
async fn a_new_tables_gap_survives_a_crash() {
    let (server, directory, config) = one_row("", OnGap::Stop).await;
    let config = Config { tables: vec!["public.*".to_owned()], ..config };
    let client = sql(&server).await;
    run(&client, "create table late (id int primary key); insert into late values (1)").await;
    let capture = Capture::launch(config.clone(), directory.path());
    let published = "select count(*) from pg_publication_tables where tablename = 'late'";
    until("the new table", async || value(&client, published).await == "1").await;
    capture.crash().await;
    run(&client, "insert into late values (2)").await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    let expected = ["insert public.t 1", "gap public.late new_table", "insert public.late 2"];
    stays(config, capture, &directory, &expected).await;
}

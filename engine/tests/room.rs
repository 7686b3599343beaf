//! A full disk: capture waits, who publishes is turned away, readers are served, and all of it goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::ingest::{self, finish_spill, spill_parts};
use rowcast_engine::journal::{self, Journal, Options, Spill, State};
use rowcast_engine::record::{Builder, Part};
use rowcast_engine::{Error, Kind, Lsn};

use crate::disk::{CREATE, FakeDisk, Fault, Ill, LIST, OPEN, RENAME, SYNC_DIR};
use crate::support::{Fixture, read_all, unlocked};

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("Waited {SOON:?} for {what}"))
}

async fn until(journal: &Journal, what: &str, wanted: fn(&State) -> bool) {
    soon(what, journal.state().wait_for(wanted)).await.unwrap();
}

fn is_full(state: &State) -> bool {
    matches!(state, State::Full(_))
}

fn is_open(state: &State) -> bool {
    *state == State::Open
}

async fn fixture(dir: &std::path::Path, disk: &FakeDisk) -> Fixture {
    let journal =
        journal::open(Options { ahead_bytes: 0, ..Options::new(dir) }, Arc::new(disk.clone())).unwrap();
    Fixture::over(journal).await
}

fn assert_turned_away(error: &Error) {
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.to_string().starts_with("The journal takes no events now"), "{error}");
    assert!(error.remedy().unwrap().contains("Nothing was stored"), "{error}");
}

/// A transaction that nobody waits for.
pub(crate) async fn hand_over(fixture: &mut Fixture) {
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "no room");
    fixture.commit(&mut builder);
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
}

#[tokio::test]
async fn who_publishes_is_told_at_once_and_nothing_of_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = fixture(dir.path(), &disk).await;
    fixture.transaction(5, "room").await;
    disk.fill(true);
    // The disk says so to this one itself; the state tells the next.
    for _ in 0..2 {
        let publish = fixture.journal().publish(&[("custom.event", b"1")], 1);
        assert_turned_away(&soon("a refusal", publish).await.unwrap_err());
    }
    disk.fill(false);
    until(fixture.journal(), "room", is_open).await;
    let before = fixture.journal().newest();
    let id = fixture.journal().publish(&[("custom.event", b"2")], 1).await.unwrap();
    assert_eq!(id, before + 1, "no number was given to what was not stored");
    fixture.transaction(1, "after").await;
    fixture.journal().close().await;
    drop(fixture);
    assert_eq!(journal::check(dir.path(), &disk).unwrap().events, 7);
}

/// A sync that fails says nothing of what is on the disk: the next opening may find it.
#[tokio::test]
async fn who_published_what_may_be_stored_is_not_told_that_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let journal = fixture(dir.path(), &disk).await.journal().clone();
    disk.fail_syncs();
    let error = soon("an error", journal.publish(&[("custom.event", b"1")], 1)).await.unwrap_err();
    assert!(error.may_be_done() && error.to_string().contains("is not known"), "{error}");
    assert!(!error.remedy().unwrap().contains("Nothing was stored"), "{error}");
    // What comes later is not even begun.
    let error = soon("a refusal", journal.publish(&[("custom.event", b"2")], 1)).await.unwrap_err();
    assert!(!error.may_be_done(), "{error}");
    drop(journal);
    unlocked(dir.path());
    disk.plan(None);
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    assert_eq!(journal.count(0, u64::MAX - 1), 1, "it was stored");
    journal.close().await;
}

#[tokio::test]
async fn who_published_beside_a_waiting_transaction_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = fixture(dir.path(), &disk).await;
    fixture.transaction(5, "room").await;
    disk.fill(true);
    hand_over(&mut fixture).await;
    // In the queue behind a writer that waits, or turned away by the state: told in both cases.
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let journal = fixture.journal().clone();
            tokio::spawn(async move { journal.publish(&[("custom.event", b"1")], 1).await })
        })
        .collect();
    for task in tasks {
        assert_turned_away(&soon("a refusal", task).await.unwrap().unwrap_err());
    }
    assert!(is_full(&fixture.journal().state().borrow()));
    disk.fill(false);
    soon("the transaction", fixture.durable()).await;
    until(fixture.journal(), "room", is_open).await;
    assert_eq!(read_all(fixture.journal(), 0).len(), 6, "the transaction alone");
}

#[tokio::test]
async fn a_journal_that_starts_on_a_full_disk_serves_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    disk.fill(true);
    let refused = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap_err();
    assert!(refused.remedy().unwrap().contains("Make room"), "nothing to serve yet: {refused}");
    disk.fill(false);

    let mut first = fixture(dir.path(), &disk).await;
    first.transaction(5, "before").await;
    let seen = read_all(first.journal(), 0);
    first.journal().close().await;
    drop(first);
    disk.fill(true);
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    until(&journal, "the full state", is_full).await;
    assert_eq!(read_all(&journal, 0), seen);
    assert_turned_away(&journal.publish(&[("custom.event", b"1")], 1).await.unwrap_err());
    // An end while it waits is an end like any other, and so is the next start.
    soon("the end", journal.close()).await;
    drop(journal);
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    disk.fill(false);
    let mut second = Fixture::over(journal).await;
    until(second.journal(), "room", is_open).await;
    second.rows = 5;
    second.transaction(2, "after").await;
    let all = read_all(second.journal(), 0);
    assert_eq!((&all[..5], all.len()), (&seen[..], 7));
}

/// The first 3 MB and the rest of a huge transaction.
pub(crate) fn huge(fixture: &mut Fixture) -> (Builder, Vec<Part>) {
    let (mut builder, text) = (Builder::new(), "z".repeat(1000));
    fixture.begin(&mut builder);
    for _ in 0..3000 {
        fixture.row(&mut builder, &text);
    }
    let parts = builder.take_open_parts();
    fixture.row(&mut builder, &text);
    (builder, parts)
}

pub(crate) async fn adopt(fixture: &Fixture, spill: Spill) {
    let room = fixture.ingest.room().await.unwrap();
    room.adopt(fixture.journal(), spill, Lsn(fixture.lsn), 1_800_000_000_000_000);
    soon("the huge transaction", fixture.durable()).await;
}

#[tokio::test]
async fn a_huge_transaction_waits_for_room_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = fixture(dir.path(), &disk).await;
    let (mut builder, parts) = huge(&mut fixture);
    let spill = fixture.journal().spill().unwrap();
    disk.fill(true);
    let writing = tokio::spawn(spill_parts(spill, parts));
    until(fixture.journal(), "the full state", is_full).await;
    assert_turned_away(&fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap_err());
    // The writer itself has room for its tick, and must not say that all is well.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(is_full(&fixture.journal().state().borrow()));
    disk.fill(false);
    let spill = soon("the write", writing).await.unwrap().unwrap();
    let rest = builder.take_tail(Lsn(fixture.lsn));
    adopt(&fixture, finish_spill(spill, rest).await.unwrap()).await;
    until(fixture.journal(), "room", is_open).await;
    assert_eq!(read_all(fixture.journal(), 0).len(), 3001);
}

#[tokio::test]
async fn nobody_waits_for_room_on_behalf_of_one_who_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = fixture(dir.path(), &disk).await;
    let (_, parts) = huge(&mut fixture);
    let spill = fixture.journal().spill().unwrap();
    disk.fill(true);
    let writing = tokio::spawn(spill_parts(spill, parts));
    until(fixture.journal(), "the full state", is_full).await;
    assert!(disk.names().iter().any(|name| name.ends_with(".tmp")));
    writing.abort();
    soon("the file to go", async {
        while disk.names().iter().any(|name| name.ends_with(".tmp")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // Nobody writes any more, so the next look finds no reason to wait.
    until(fixture.journal(), "the state to follow", is_open).await;
}

#[tokio::test]
async fn several_huge_transactions_at_once_are_each_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = fixture(dir.path(), &disk).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let (builder, parts) = huge(&mut fixture);
        open.push((fixture.lsn, builder, parts, fixture.journal().spill().unwrap()));
    }
    // Each is written a part at a time, in turn, with small ones and custom events between.
    let mut rounds = 0;
    while open.iter().any(|(_, _, parts, _)| !parts.is_empty()) {
        let mut next = Vec::new();
        for (lsn, builder, mut parts, spill) in open {
            let rest = parts.split_off(parts.len().min(1));
            next.push((lsn, builder, rest, spill_parts(spill, parts).await.unwrap()));
        }
        open = next;
        fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap();
        rounds += 1;
    }
    let aborted = open.remove(1);
    drop(aborted);
    // They commit in another order than they began.
    open.reverse();
    for (_, mut builder, _, spill) in open {
        fixture.lsn += 1000;
        let rest = builder.take_tail(Lsn(fixture.lsn));
        let spill = ingest::finish_spill(spill, rest).await.unwrap();
        adopt(&fixture, spill).await;
        fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap();
    }
    assert!(rounds > 1);
    let journal = fixture.journal();
    let stored = journal.transactions_above(Lsn(0), 100).unwrap();
    assert_eq!(stored.len(), 3);
    assert_eq!(journal.summary().segments, 3 + 1 + 3);
    journal.close().await;
    drop(fixture);
    assert!(disk.names().iter().all(|name| !name.ends_with(".tmp")));
    let report = journal::check(dir.path(), &disk).unwrap();
    assert_eq!(report.events, 3 * 3001 + rounds + 3);
}

/// A directory may need a block for a name.
#[tokio::test]
async fn a_huge_transaction_waits_for_room_for_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let mut fixture = fixture(dir.path(), &disk).await;
    let (mut builder, parts) = huge(&mut fixture);
    let spill = spill_parts(fixture.journal().spill().unwrap(), parts).await.unwrap();
    let rest = builder.take_tail(Lsn(fixture.lsn));
    let spill = finish_spill(spill, rest).await.unwrap();
    disk.plan(Some(Fault { calls: RENAME, after: 0, ill: Ill::Full, times: u32::MAX, waits: u32::MAX }));
    let journal = fixture.journal().clone();
    let adopted = adopt(&fixture, spill);
    tokio::join!(adopted, async {
        until(&journal, "the full state", is_full).await;
        assert!(read_all(&journal, 0).is_empty(), "not shown before it is there");
        disk.plan(None);
    });
    until(&journal, "room", is_open).await;
    assert_eq!(read_all(&journal, 0).len(), 3001);
}

/// What a transaction that is open takes counts: the history that nobody needs gives way to it, and no more than that.
#[tokio::test]
async fn history_gives_way_to_a_transaction_that_is_open() {
    for needed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            segment_bytes: 20_000,
            max_size: Some(3 << 20),
            ahead_bytes: 0,
            holds: if needed { [("idle".to_owned(), 0)].into() } else { [].into() },
            ..Options::new(dir.path())
        };
        let journal = journal::open(options, Arc::new(FakeDisk::default())).unwrap();
        let mut fixture = Fixture::over(journal).await;
        for _ in 0..20 {
            fixture.transaction(100, &"y".repeat(1000)).await;
        }
        let oldest = fixture.journal().oldest();
        let (_builder, parts) = huge(&mut fixture);
        let spill = spill_parts(fixture.journal().spill().unwrap(), parts).await.unwrap();
        if needed {
            // Two looks.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert_eq!(fixture.journal().oldest(), oldest, "a sink may still need it");
            assert!(is_open(&fixture.journal().state().borrow()), "and nobody waits for that");
            continue;
        }
        soon("history to go", async {
            while fixture.journal().oldest() == oldest {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        drop(spill);
        // Which was counted by a look that goes on may be: this is answered behind it.
        fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap();
        // It counts no more: all that is left may stay.
        let left = fixture.journal().oldest();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(fixture.journal().oldest(), left);
    }
}

/// Files are opened where a segment is made, where its directory is synced, and where retention looks.
#[tokio::test]
async fn where_no_more_files_can_be_opened_capture_waits_and_goes_on() {
    for calls in [CREATE, SYNC_DIR, CREATE | OPEN | SYNC_DIR | LIST] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FakeDisk::default());
        let options = || Options { segment_bytes: 1000, ahead_bytes: 0, ..Options::new(dir.path()) };
        let journal = journal::open(options(), Arc::new(disk.clone())).unwrap();
        let mut fixture = Fixture::over(journal).await;
        fixture.transaction(1, &"x".repeat(1000)).await;
        let fault = Fault { calls, after: 0, ill: Ill::Files, times: u32::MAX, waits: u32::MAX };
        disk.plan(Some(fault));
        hand_over(&mut fixture).await;
        let too_many = |state: &State| matches!(state, State::Full(why) if why.contains("too many files are open") && why.contains("ulimit -n"));
        until(fixture.journal(), "the wait", too_many).await;
        assert_turned_away(&fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap_err());
        disk.plan(None);
        soon("the transaction", fixture.durable()).await;
        until(fixture.journal(), "files", is_open).await;
        assert_eq!(read_all(fixture.journal(), 0).len(), 2);
        fixture.journal().close().await;
        drop(fixture);
        assert_eq!(journal::check(dir.path(), &disk).unwrap().missing, None);
        // At a start a person is told what to do, or it waits as well.
        for after in 0..30 {
            disk.plan(Some(Fault { calls: CREATE | OPEN | SYNC_DIR | LIST, after, times: 1, ..fault }));
            crate::support::unlocked(dir.path());
            match journal::open(options(), Arc::new(disk.clone())) {
                Ok(journal) => journal.close().await,
                Err(error) => assert!(error.remedy().unwrap().contains("ulimit -n"), "{after}: {error}"),
            }
        }
    }
}

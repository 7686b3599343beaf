//! What the journal promises: numbers, order, wholeness, opening, seeking, retention.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::event::{Event, Marks, Op};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, Read, StreamPosition};
use rowcast_engine::record::Builder;
use rowcast_engine::{Kind, Lsn, ingest};

use crate::cuts::batch_ends;
use crate::damage::segments;
use crate::disk::{FakeDisk, Fault, Ill, SYNC};
use crate::support::{Fixture, insert, read_all, without_indexes};

#[tokio::test]
async fn events_come_back_in_order_and_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    for rows in [1, 3, 500, 2] {
        fixture.transaction(rows, "x").await;
    }
    let seen = read_all(fixture.journal(), 0);
    assert_eq!(seen.len(), 506);
    assert!(seen.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "numbers are contiguous here");
    let lasts: Vec<_> = seen.iter().filter(|event| event.2).map(|event| event.1).collect();
    assert_eq!(lasts, [0, 2, 499, 1], "the last event of each transaction is marked, and only it");
    assert_eq!(fixture.journal().newest(), seen.last().unwrap().0);
}

#[tokio::test]
async fn numbers_go_on_above_after_reopening_and_the_position_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(10, "x").await;
    let (before, lsn) = (read_all(fixture.journal(), 0), fixture.lsn);
    fixture.journal().close().await;
    drop(fixture);

    let mut options = Options::new(dir.path());
    options.seen = before.last().unwrap().0 + 5_000_000_000;
    let seen_elsewhere = options.seen;
    let mut fixture = Fixture::open(options).await;
    let position = fixture.journal().position();
    assert_eq!((position.lsn, position.slot.as_str(), position.system), (Lsn(lsn), "rowcast", 7));
    assert_eq!(read_all(fixture.journal(), 0), before, "a reopened journal reads the same");
    fixture.transaction(1, "y").await;
    let all = read_all(fixture.journal(), 0);
    assert!(all.last().unwrap().0 > seen_elsewhere, "what a sink has seen is never given again");
    assert_eq!(all.len(), 11);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Fixture::open(Options::new(dir.path())).await;
    let refused = |what: &str| {
        let errors = [
            journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap_err(),
            journal::repair(dir.path(), &RealDisk, 0, false).unwrap_err(),
            journal::repair(dir.path(), &RealDisk, 0, true).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), Kind::Journal, "{what}");
            assert!(error.to_string().contains("in use by another process"), "{what}: {error}");
            assert!(error.remedy().unwrap().contains("Stop the other rowcast"), "{what}");
        }
    };
    refused("as it is");
    let lock = dir.path().join("lock");
    std::fs::remove_file(&lock).unwrap();
    refused("somebody has removed the lock by hand");
    assert!(!lock.exists(), "who is refused leaves nothing");
    std::fs::write(&lock, "").unwrap();
    refused("somebody has made another");
    first.journal().close().await;
    drop(first);
    Fixture::open(Options::new(dir.path())).await.journal().close().await;
}

#[tokio::test]
async fn an_earlier_version_that_locks_the_file_alone_is_not_joined() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.journal().close().await;
    drop(fixture);
    let file = std::fs::File::open(dir.path().join("lock")).unwrap();
    file.try_lock().unwrap();
    for error in [
        journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap_err(),
        journal::repair(dir.path(), &RealDisk, 0, true).unwrap_err(),
    ] {
        assert!(error.to_string().contains("in use by another process"), "{error}");
    }
    drop(file);
    assert!(journal::repair(dir.path(), &RealDisk, 0, true).unwrap().is_sound());
}

#[tokio::test]
async fn a_torn_end_is_cut_and_a_broken_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    for _ in 0..20 {
        fixture.transaction(5, "some text").await;
    }
    let whole = read_all(fixture.journal(), 0);
    fixture.journal().close().await;
    drop(fixture);
    let path = segments(dir.path()).pop().unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 7).unwrap();
    // A crash that tears it has not come to writing this.
    std::fs::remove_file(path.with_extension("idx")).unwrap();
    let fixture = Fixture::open(Options::new(dir.path())).await;
    assert_eq!(read_all(fixture.journal(), 0), whole[..95], "the last transaction is gone, whole");
    fixture.journal().close().await;
    drop(fixture);

    let start = batch_ends(&std::fs::read(&path).unwrap()).into_iter().rfind(|end| *end <= 1000).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"garbage", 1000).unwrap();
    std::fs::remove_file(path.with_extension("idx")).unwrap();
    let error = journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap_err();
    let place = format!("{} is damaged at offset {start}: ", path.display());
    let checked = journal::check(dir.path(), &RealDisk).unwrap_err();
    assert!([&error, &checked].iter().all(|told| told.to_string().starts_with(&place)), "{error}, {checked}");
}

#[tokio::test]
async fn a_large_transaction_in_parts_is_shown_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let text = "y".repeat(1000);
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "small before");
    fixture.commit(&mut builder);
    fixture.begin(&mut builder);
    for _ in 0..5000 {
        fixture.row(&mut builder, &text);
    }
    assert!(builder.open_bytes() > 5_000_000);
    fixture.commit(&mut builder);
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "small after");
    fixture.commit(&mut builder);
    fixture.submit(&mut builder).await;
    let seen = read_all(fixture.journal(), 0);
    assert_eq!(seen.len(), 5002);
    let large = &seen[1..5001];
    // Rows so large that each fills a part: the last one too.
    let huge = "y".repeat(1 << 20);
    fixture.transaction(3, &huge).await;
    let lasts: Vec<_> = read_all(fixture.journal(), seen[5001].0).iter().map(|event| event.2).collect();
    assert_eq!(lasts, [false, false, true]);
    assert!(large.iter().enumerate().all(|(at, event)| event.1 as usize == at && event.2 == (at == 4999)));
    assert!(large.iter().all(|event| event.3 == large[0].3 && event.3 != 0), "every part knows its end LSN");
    let seen = read_all(fixture.journal(), 0);
    fixture.journal().close().await;
    drop(fixture);
    let fixture = Fixture::open(Options::new(dir.path())).await;
    assert_eq!(read_all(fixture.journal(), 0), seen);
}

#[tokio::test]
async fn a_spilled_transaction_becomes_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.transaction(3, "before").await;
    let text = "z".repeat(2000);
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    let mut spill = fixture.journal().spill().unwrap();
    for _ in 0..10_000 {
        fixture.row(&mut builder, &text);
        if builder.open_bytes() > 4 << 20 {
            spill = ingest::spill_parts(spill, builder.take_open_parts()).await.unwrap();
        }
    }
    // Others are not held up meanwhile.
    let custom = fixture.journal().publish(&[("orders.shipped", b"{}")], 1).await.unwrap();
    let parts = builder.take_tail(Lsn(fixture.lsn));
    spill = ingest::spill_parts(spill, parts).await.unwrap();
    let room = fixture.ingest.room().await.unwrap();
    room.adopt(fixture.journal(), spill, Lsn(fixture.lsn), 1_800_000_000_000_000);
    fixture.durable().await;
    fixture.transaction(2, "after").await;

    let ids_after_custom = read_all(fixture.journal(), custom);
    assert_eq!(ids_after_custom.len(), 10_002);
    let large = &ids_after_custom[..10_000];
    assert!(large.iter().enumerate().all(|(at, event)| event.1 as usize == at && event.2 == (at == 9999)));
    assert!(large.iter().all(|event| event.3 == large[0].3 && event.3 != 0));
    let stored = fixture.journal().transactions_above(Lsn(0), 100).unwrap();
    assert_eq!(stored.len(), 3);
    fixture.journal().close().await;
    drop(fixture);
    let fixture = Fixture::open(Options::new(dir.path())).await;
    assert_eq!(read_all(fixture.journal(), custom), ids_after_custom);
    assert_eq!(journal::check(dir.path(), &RealDisk).unwrap().events, 10_006);
}

#[tokio::test]
async fn rows_of_a_snapshot_become_a_segment_with_their_note() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    fixture.journal().note(&[("rows", b"7"), ("other", b"8")]).await.unwrap();
    fixture.transaction(3, "before").await;
    let position = fixture.journal().position();
    let end = fixture.journal().last_tx_end();
    let (mut builder, at) = (Builder::new(), Lsn(fixture.lsn - 20));
    builder.begin_snapshot_for(&["a".to_owned()], 1_800_000_000_000_000, at, 7);
    let mut spill = fixture.journal().spill().unwrap();
    let row = insert(7, &"z".repeat(2000));
    for _ in 0..3_000 {
        builder.read(fixture.orders.id, at, Marks::NONE, &row[1..]);
        spill = ingest::spill_parts(spill, builder.take_open_parts()).await.unwrap();
    }
    builder.read_gone(fixture.orders.id, at, &row[1..]);
    spill = ingest::finish_spill(spill, builder.finish_open(Lsn::ZERO)).await.unwrap();
    let room = fixture.ingest.room().await.unwrap();
    room.adopt_rows(fixture.journal(), spill, (position.lsn, 1_800_000_000_000_000), &["rows".to_owned()]);
    fixture.journal().noted("rows", |json| json.is_none()).await.unwrap();
    // To the stream it is nothing.
    assert_eq!((fixture.journal().position(), fixture.journal().last_tx_end()), (position, end));
    fixture.transaction(2, "after").await;
    let look = |journal: &Journal| {
        let (mut after, mut all) = (0, Vec::new());
        while let Read::Batches(batches) = journal.read(after).unwrap() {
            for batch in batches {
                let event = |event: Event<'_>| (event.op, event.tx.is_some(), event.is_for("b"));
                all.extend(batch.all_events().map(event));
                after = batch.last();
            }
        }
        let notes: Vec<String> = journal.notes().into_keys().collect();
        (all, notes, journal.transactions_above(Lsn(0), 100).unwrap().len())
    };
    let (all, notes, transactions) = look(fixture.journal());
    let of = |op, tx, everybody| all.iter().filter(|event| **event == (op, tx, everybody)).count();
    assert_eq!(
        (of(Op::Insert, true, true), of(Op::Read, false, false), of(Op::Delete, false, false)),
        (5, 3000, 1)
    );
    assert_eq!((all.len(), notes, transactions), (3006, vec!["other".to_owned()], 2));
    let seen = look(fixture.journal());
    fixture.journal().close().await;
    drop(fixture);
    for index in [true, false] {
        if !index {
            for file in std::fs::read_dir(dir.path()).unwrap().flatten() {
                if file.path().extension().is_some_and(|end| end == "idx") {
                    std::fs::remove_file(file.path()).unwrap();
                }
            }
        }
        let fixture = Fixture::open(Options::new(dir.path())).await;
        assert_eq!(look(fixture.journal()), seen);
        fixture.journal().close().await;
    }
    assert_eq!(journal::check(dir.path(), &RealDisk).unwrap().events, 3006);
}

#[tokio::test]
async fn an_unfinished_spill_vanishes() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    for _ in 0..3000 {
        fixture.row(&mut builder, &"z".repeat(1000));
    }
    let spill = fixture.journal().spill().unwrap();
    let spill = ingest::spill_parts(spill, builder.take_open_parts()).await.unwrap();
    let temporary = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|found| found == "tmp"))
            .count()
    };
    assert_eq!(temporary(), 1);
    drop(spill);
    assert_eq!(temporary(), 0);
}

#[tokio::test]
async fn seeking_by_time_by_count_and_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.segment_bytes = 4000;
    options.cache_bytes = 1000;
    let mut fixture = Fixture::open(options).await;
    let mut times = Vec::new();
    for _ in 0..300 {
        fixture.transaction(2, "seek").await;
        times.push((1_800_000_000_000_000 + i64::try_from(fixture.lsn).unwrap(), fixture.journal().newest()));
    }
    let journal = fixture.journal();
    assert!(journal.summary().segments > 3, "several segments: {:?}", journal.summary());
    for (time, newest) in &times {
        assert_eq!(journal.seek_time(*time).unwrap(), newest - 2, "inclusive");
    }
    assert_eq!(journal.seek_time(times.last().unwrap().0 + 1).unwrap(), journal.newest());
    let all = read_all(journal, 0);
    for count in [1, 2, 7, 599, 600, 10_000] {
        let got = read_all(journal, journal.seek_last(count));
        let from = all.len().saturating_sub(usize::try_from(count).unwrap());
        assert_eq!(got, all[from..]);
    }
    assert_eq!(read_all(journal, all[123].0), all[124..]);
    let above = journal.transactions_above(Lsn(fixture.lsn - 1000), 100).unwrap();
    assert_eq!(above.len(), 10);
    assert_eq!(above[0].end_lsn, Lsn(fixture.lsn - 900));
}

#[tokio::test]
async fn retention_by_size_removes_whole_segments_and_says_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.segment_bytes = 4000;
    options.max_size = Some(12_000);
    options.cache_bytes = 1000;
    let mut fixture = Fixture::open(options).await;
    let first = fixture.journal().newest() + 1;
    for _ in 0..300 {
        fixture.transaction(2, "old").await;
    }
    let journal = fixture.journal();
    let Read::Gone(gone) = journal.read(first).unwrap() else { panic!("the oldest should be gone") };
    assert_eq!((gone.from, gone.to), (first + 1, journal.oldest() - 1));
    assert!(journal.summary().bytes < 20_000);
    let seen = read_all(journal, gone.to);
    assert_eq!(seen.first().unwrap().0, journal.oldest());
    assert_eq!(seen.last().unwrap().0, journal.newest());
    fixture.journal().close().await;
    drop(fixture);
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    assert_eq!(read_all(fixture.journal(), gone.to), seen, "schemas of removed segments are still known");
    fixture.transaction(1, "new").await;
}

#[tokio::test]
async fn a_schema_version_keeps_its_number_when_retention_has_taken_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { segment_bytes: 4000, max_size: Some(12_000), ..Options::new(dir.path()) };
    let mut fixture = Fixture::open(options()).await;
    let orders = std::sync::Arc::clone(&fixture.orders);
    fixture.orders = fixture.journal().register(crate::support::table("gone")).unwrap();
    let gone = fixture.orders.id;
    fixture.transaction(1, "x").await;
    fixture.orders = orders;
    for _ in 0..300 {
        fixture.transaction(2, "x").await;
    }
    // Not every position that is stored says which numbers were given.
    let mut builder = Builder::new();
    fixture.lsn += 100;
    let position = StreamPosition { lsn: Lsn(fixture.lsn), ..fixture.journal().position() };
    builder.position(position.lsn, &serde_json::to_vec(&position).unwrap());
    fixture.submit(&mut builder).await;
    fixture.journal().close().await;
    drop(fixture);
    without_indexes(dir.path());
    let fixture = Fixture::open(options()).await;
    assert!(
        fixture.journal().schemas().iter().all(|schema| schema.table != "gone"),
        "retention has taken it"
    );
    let new = fixture.journal().register(crate::support::table("new")).unwrap();
    assert!(new.id > gone, "{} was given before", new.id);
}

#[tokio::test]
async fn retention_by_age_waits_for_a_sink() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.segment_bytes = 3000;
    options.retention = Duration::from_millis(300);
    let mut fixture = Fixture::open(options).await;
    fixture.journal().hold_above("kafka", fixture.journal().newest());
    for _ in 0..100 {
        fixture.transaction(2, "aging").await;
    }
    let held = fixture.journal().oldest();
    tokio::time::sleep(Duration::from_millis(400)).await;
    fixture.transaction(60, "aging").await;
    assert_eq!(fixture.journal().oldest(), held, "the sink has not had them");
    fixture.journal().hold_above("kafka", fixture.journal().newest());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while fixture.journal().oldest() == held {
        assert!(tokio::time::Instant::now() < deadline, "old segments go once the sink has them");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_missing_segment_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.segment_bytes = 3000;
    let mut fixture = Fixture::open(options).await;
    for _ in 0..200 {
        fixture.transaction(2, "here").await;
    }
    fixture.journal().close().await;
    drop(fixture);
    let paths = segments(dir.path());
    assert!(paths.len() > 3);
    std::fs::remove_file(&paths[2]).unwrap();
    let error = journal::open(Options::new(dir.path()), Arc::new(RealDisk)).unwrap_err();
    assert!(error.to_string().contains("a segment is missing or cut"), "{error}");
}

#[tokio::test]
async fn a_full_disk_pauses_and_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let options = Options { ahead_bytes: 0, ..Options::new(dir.path()) };
    let journal = journal::open(options, Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    fixture.transaction(5, "room").await;
    disk.fill(true);
    let mut builder = Builder::new();
    fixture.begin(&mut builder);
    fixture.row(&mut builder, "no room");
    fixture.commit(&mut builder);
    let room = fixture.ingest.room().await.unwrap();
    room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
    let mut state = fixture.journal().state();
    let full = state.wait_for(|state| matches!(state, journal::State::Full(_)));
    tokio::time::timeout(Duration::from_secs(5), full).await.unwrap().unwrap();
    assert_eq!(read_all(fixture.journal(), 0).len(), 5, "readers are served");
    assert!(fixture.journal().position().lsn < Lsn(fixture.lsn), "nothing is confirmed");
    let refused = fixture.journal().publish(&[("custom.event", b"1")], 1).await.unwrap_err();
    assert!(refused.to_string().contains("takes no events now"), "{refused}");
    disk.fill(false);
    fixture.durable().await;
    assert_eq!(read_all(fixture.journal(), 0).len(), 6);
    let open = state.wait_for(|state| *state == journal::State::Open);
    tokio::time::timeout(Duration::from_secs(5), open).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_taken_and_readers_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FakeDisk::default();
    let journal = journal::open(Options::new(dir.path()), Arc::new(disk.clone())).unwrap();
    let mut fixture = Fixture::over(journal).await;
    fixture.transaction(5, "good").await;
    // Once: another try would go well, and say of what the kernel has thrown away that it is there.
    disk.plan(Some(Fault { calls: SYNC, after: 0, ill: Ill::Broken, times: 1, waits: u32::MAX }));
    assert!(fixture.journal().publish(&[("custom.event", b"1")], 1).await.is_err());
    let mut state = fixture.journal().state();
    let failed = state.wait_for(|state| matches!(state, journal::State::Failed(_)));
    tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap().unwrap();
    let refused = async { while fixture.ingest.room().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("nothing more is taken");
    let (gap, note) = tokio::join!(
        fixture.journal().record_gap("", "source_lost", "gone", 0),
        fixture.journal().note(&[("wish", b"1")])
    );
    assert!(gap.is_err() && note.is_err(), "neither by those who need not wait for room");
    assert_eq!(read_all(fixture.journal(), 0).len(), 5);
}

#[tokio::test]
async fn places_are_found_though_new_tables_come_between_the_groups_of_a_round() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.cache_bytes = 1000;
    let mut fixture = Fixture::open(options).await;
    let text = "t".repeat(300_000);
    let mut seen = 0;
    for round in 0..8 {
        // Two groups at once, the second with a table that the segment does not know yet.
        for group in 0..2 {
            let mut builder = Builder::new();
            if group == 1 {
                fixture.orders =
                    fixture.journal().register(crate::support::table(&format!("t{round}"))).unwrap();
            }
            fixture.begin(&mut builder);
            fixture.row(&mut builder, &text);
            fixture.commit(&mut builder);
            let room = fixture.ingest.room().await.unwrap();
            room.append(fixture.journal(), builder.take(), Lsn(fixture.lsn));
            seen += 1;
        }
    }
    fixture.durable().await;
    let journal = fixture.journal();
    let all = read_all(journal, 0);
    assert_eq!(all.len(), seen);
    for (at, event) in all.iter().enumerate() {
        assert_eq!(read_all(journal, event.0), all[at + 1..], "read on from every event");
    }
}

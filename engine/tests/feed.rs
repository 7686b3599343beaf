//! The feed: live and replay by one path, shared views, gaps told.

use std::time::Duration;

use rowcast_engine::event::Op;
use rowcast_engine::feed::{Events, Feed, Filter, Framing, From, Next, Pattern, Subscription, ViewKey};
use rowcast_engine::journal::{Journal, Options, Read};
use rowcast_engine::record::Builder;
use rowcast_engine::{Stopper, stop};

use crate::support::{Fixture, table};

fn key(channel: &str, ops: &[Op]) -> ViewKey {
    let filter = Filter::new(vec![Pattern::parse(channel).unwrap()], ops);
    ViewKey { filter, framing: Framing::Ndjson, options: Default::default() }
}

async fn fixture(dir: &std::path::Path) -> (Fixture, Feed, Stopper) {
    let mut options = Options::new(dir);
    options.cache_bytes = 20_000;
    let fixture = Fixture::open(options).await;
    let (stopper, stop) = stop();
    let feed = Feed::new(fixture.journal().clone(), stop);
    (fixture, feed, stopper)
}

/// The next events; what is told of their schema is passed over.
async fn events(subscription: &mut Subscription) -> Events {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), subscription.next());
        match next.await.expect("an event in time").unwrap() {
            Next::Events(events) => return events,
            Next::Schema(_) => {}
            Next::Gap(gone) => panic!("a gap: {gone:?}"),
        }
    }
}

async fn ids(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let events = events(subscription).await;
        let lines = String::from_utf8(events.bytes().to_vec()).unwrap();
        for (line, frame) in lines.lines().zip(events.frames()) {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["id"], frame.id);
            ids.push(frame.id);
        }
        assert_eq!(lines.lines().count(), events.frames().len());
    }
    ids
}

#[tokio::test]
async fn replay_runs_into_live_without_a_seam() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    for _ in 0..400 {
        fixture.transaction(2, "a text that fills the cache soon").await;
    }
    let key = key("public.*", &[]);
    let start = feed.start(From::Earliest, &key.filter).await.unwrap();
    let mut subscription = feed.subscribe(key, start.position);
    let reader = tokio::spawn(async move { ids(&mut subscription, 1600).await });
    for _ in 0..400 {
        fixture.transaction(2, "live").await;
    }
    let ids = reader.await.unwrap();
    assert_eq!(ids.len(), 1600);
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[tokio::test]
async fn a_reader_of_nothing_advances_without_being_woken() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    let mut idle = feed.subscribe(key("public.other", &[]), fixture.journal().newest());
    assert!(idle.try_next().await.unwrap().is_none());
    fixture.transaction(5, "x").await;
    let newest = fixture.journal().newest();
    let waited = tokio::time::timeout(Duration::from_millis(200), idle.next()).await;
    assert!(waited.is_err(), "nothing for this reader");
    assert!(idle.try_next().await.unwrap().is_none());
    assert_eq!(idle.position(), newest);
}

#[tokio::test]
async fn readers_with_equal_wishes_share_a_view() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    let newest = fixture.journal().newest();
    let mut readers: Vec<_> =
        (0..50).map(|_| feed.subscribe(key("public.orders", &[Op::Insert]), newest)).collect();
    assert_eq!(feed.views(), 1);
    fixture.transaction(3, "shared").await;
    let mut bytes = Vec::new();
    for reader in &mut readers {
        bytes.push(events(reader).await.bytes());
    }
    assert!(bytes.iter().all(|other| other.as_ptr() == bytes[0].as_ptr()), "rendered once, in one place");
}

#[tokio::test]
async fn filters_by_channel_and_op() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    let items = fixture.journal().register(table("items")).unwrap();
    let newest = fixture.journal().newest();
    let mut orders = feed.subscribe(key("public.orders", &[]), newest);
    let mut custom = feed.subscribe(key("orders.*", &[Op::Message]), newest);
    let mut deletes = feed.subscribe(key("*", &[Op::Delete]), newest);
    fixture.transaction(1, "one").await;
    fixture.orders = items;
    fixture.transaction(1, "two").await;
    let message = fixture.journal().publish(&[("orders.shipped", b"{\"id\":7}")], 5).await.unwrap();
    fixture.orders = fixture.journal().register(table("orders")).unwrap();
    fixture.transaction(1, "three").await;
    let seen = ids(&mut orders, 2).await;
    assert_eq!(seen, [newest + 1, newest + 4].map(|id| id + (seen[0] - newest - 1)));
    assert_eq!(ids(&mut custom, 1).await, [message]);
    assert!(deletes.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn starts_are_answered_with_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    fixture.transaction(10, "x").await;
    let newest = fixture.journal().newest();
    let filter = Filter::new(vec![Pattern::All], &[]);
    let ahead = feed.start(From::After(newest + 5), &filter).await.unwrap();
    assert_eq!(ahead.position, newest);
    let (gone, reason) = ahead.gap.unwrap();
    assert_eq!((gone.from, gone.to, reason), (newest + 1, newest + 5, "ahead"));
    // However far away: what comes before that time is told, too.
    for time in ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        let start = feed.start(time.parse().unwrap(), &filter).await.unwrap();
        assert_eq!((start.position, start.gap), (newest, None), "{time}");
    }
    assert_eq!(feed.start(From::Last(4), &filter).await.unwrap().position, newest - 4);
    assert_eq!(feed.start(From::After(newest - 3), &filter).await.unwrap().gap, None);
    let none = Filter::new(vec![Pattern::parse("public.none").unwrap()], &[]);
    assert_eq!(feed.start(From::Last(4), &none).await.unwrap().position, newest);
}

#[tokio::test]
async fn a_recorded_gap_reaches_every_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, feed, _stopper) = fixture(dir.path()).await;
    let mut reader = feed.subscribe(key("public.orders", &[Op::Delete]), fixture.journal().newest());
    let id = fixture.journal().record_gap("", "source_lost", "The slot was dropped", 9).await.unwrap();
    let events = events(&mut reader).await;
    assert!(events.frames()[0].gap);
    let gap: serde_json::Value = serde_json::from_slice(&events.bytes()).unwrap();
    assert_eq!((gap["type"].as_str(), gap["reason"].as_str()), (Some("gap"), Some("source_lost")));
    assert_eq!(gap["from"], id);
}

#[tokio::test]
async fn a_number_of_a_lost_history_is_told_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    fixture.transaction(3, "before the backup").await;
    let (last, filter) = (fixture.journal().newest(), Filter::new(vec![Pattern::All], &[]));
    fixture.journal().close().await;
    drop((fixture, feed));
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let (_stopper, stop) = stop();
    let feed = Feed::new(fixture.journal().clone(), stop);
    fixture.transaction(3, "after the restore").await;
    // Numbers that were given after the backup was taken, and are gone with the disk.
    let start = feed.start(From::After(last + 5), &filter).await.unwrap();
    let (gone, reason) = start.gap.unwrap();
    assert_eq!((gone.from, reason), (last + 1, "source_lost"));
    assert_eq!(gone.to, fixture.journal().newest() - 3);
    assert_eq!(start.position, gone.to);
    for good in [last, gone.to, gone.to + 1] {
        assert_eq!(feed.start(From::After(good), &filter).await.unwrap().gap, None);
    }
}

/// Between numbers as between times: what is not held any more is told.
#[tokio::test]
async fn a_time_below_what_is_held_is_told_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    (options.segment_bytes, options.max_size) = (4_000, Some(20_000));
    let mut fixture = Fixture::open(options).await;
    let (_stopper, stop) = stop();
    let feed = Feed::new(fixture.journal().clone(), stop);
    let filter = Filter::new(vec![Pattern::All], &[]);
    fixture.transaction(1, "the first").await;
    let (first, early) = (fixture.journal().newest(), time_of(&fixture));
    let start = feed.start(From::Time(early), &filter).await.unwrap();
    assert_eq!((start.position, start.gap), (first - 1, None), "nothing was removed");
    let before = feed.start(From::Time(early - 1_000_000), &filter).await.unwrap();
    assert_eq!((before.position, before.gap), (first - 1, None), "nor was anything before it");
    while fixture.journal().oldest() == first {
        fixture.transaction(1, &"x".repeat(500)).await;
    }
    fixture.transaction(1, "the last").await;
    let journal = fixture.journal().clone();
    let (oldest, late) = (journal.oldest(), time_of(&fixture));
    let start = feed.start(From::Time(early), &filter).await.unwrap();
    let (gone, reason) = start.gap.expect("a gap");
    assert_eq!((gone.to, reason, start.position), (oldest - 1, "retention", oldest - 1));
    assert!(gone.from > first && gone.from <= gone.to, "{gone:?}");
    let start = feed.start(From::Time(late), &filter).await.unwrap();
    assert_eq!((start.position, start.gap), (journal.newest() - 1, None), "it is held");
    // Of what is held first nothing lies before it but what was removed.
    let held = first_time(&journal);
    assert_eq!(feed.start(From::Time(held), &filter).await.unwrap().gap, None);
    assert!(feed.start(From::Time(held - 1), &filter).await.unwrap().gap.is_none());
    assert!(feed.start(From::Time(held - 100), &filter).await.unwrap().gap.is_some());
}

/// The commit time of the newest transaction.
/// Transactions that were written together stand in one batch.
#[tokio::test]
async fn a_time_is_found_within_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    let (mut builder, mut times) = (Builder::new(), Vec::new());
    for _ in 0..5 {
        fixture.begin(&mut builder);
        fixture.row(&mut builder, "a");
        fixture.row(&mut builder, "b");
        fixture.commit(&mut builder);
        times.push(time_of(&fixture));
    }
    fixture.submit(&mut builder).await;
    fixture.durable().await;
    let (journal, filter) = (fixture.journal(), key("*", &[]).filter);
    let before = journal.seek_earliest();
    assert_eq!(journal.seek_time(times[4]).unwrap(), before, "it is one batch");
    for (at, time) in (0..).zip(&times) {
        let start = feed.start(From::Time(*time), &filter).await.unwrap();
        assert_eq!((start.position, start.gap), (before + 2 * at, None));
        assert_eq!(feed.start(From::Time(time - 1), &filter).await.unwrap().position, before + 2 * at);
    }
    let latest = feed.start(From::Time(times[4] + 1), &filter).await.unwrap();
    assert_eq!(latest.position, journal.newest());
}

fn time_of(fixture: &Fixture) -> i64 {
    1_800_000_000_000_000 + i64::try_from(fixture.lsn).unwrap()
}

/// The commit time of the oldest one that is held.
fn first_time(journal: &Journal) -> i64 {
    let Read::Batches(batches) = journal.read(journal.seek_earliest()).unwrap() else { panic!("none") };
    batches[0].header().time_min
}

/// Views are as many as clients' wishes, tables are not.
#[tokio::test]
async fn what_is_told_of_a_table_is_there_once_for_all_views() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    let newest = fixture.journal().newest();
    fixture.transaction(1, "x").await;
    let pattern = |text: &str| Pattern::parse(text).unwrap();
    let filter = |count: usize| Filter::new(vec![pattern("public.*"), pattern(&format!("a.{count}"))], &[]);
    let mut readers: Vec<_> = (0..1000)
        .map(|count| feed.subscribe(ViewKey { filter: filter(count), ..key("*", &[]) }, newest))
        .collect();
    assert_eq!(feed.views(), 1000);
    let mut told = Vec::new();
    for reader in &mut readers {
        let next = tokio::time::timeout(Duration::from_secs(10), reader.next()).await;
        let Next::Schema(record) = next.expect("a record in time").unwrap() else { panic!("no record") };
        told.push(record);
    }
    assert!(told.iter().all(|record| record.as_ptr() == told[0].as_ptr()));
}

/// What a reader is told: versions as `schema N`, events as `N: number`; and its place after each.
async fn told(subscription: &mut Subscription, count: usize) -> Vec<(String, u64)> {
    let mut told = Vec::new();
    while told.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
        match next.expect("something in time").unwrap() {
            Next::Schema(record) => {
                let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
                assert_eq!(
                    (&record["type"], record["columns"].as_array().unwrap().len()),
                    (&"schema".into(), 2)
                );
                told.push((format!("schema {}", record["schema"]), subscription.position()));
            }
            Next::Events(events) => {
                for frame in events.frames() {
                    let event: serde_json::Value = serde_json::from_slice(&events.frame(frame)).unwrap();
                    told.push((format!("{}: {}", event["schema"], frame.id), subscription.position()));
                }
            }
            Next::Gap(gone) => panic!("a gap: {gone:?}"),
        }
    }
    told
}

#[tokio::test]
async fn a_schema_version_is_told_before_its_first_event() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    let orders = std::sync::Arc::clone(&fixture.orders);
    let items = fixture.journal().register(table("items")).unwrap();
    let before = fixture.journal().newest();
    let mut live = feed.subscribe(key("public.*", &[]), before);
    let mut only_items = feed.subscribe(key("public.items", &[]), before);
    // Two tables that take turns in one batch.
    let mut builder = rowcast_engine::record::Builder::new();
    fixture.begin(&mut builder);
    for schema in [&orders, &orders, &items, &orders] {
        fixture.orders = std::sync::Arc::clone(schema);
        fixture.row(&mut builder, "x");
    }
    fixture.commit(&mut builder);
    fixture.submit(&mut builder).await;
    let last = fixture.journal().newest();
    let (o, i) = (orders.id, items.id);
    let expected = [
        (format!("schema {o}"), before),
        (format!("{o}: {}", last - 3), last - 2),
        (format!("{o}: {}", last - 2), last - 2),
        (format!("schema {i}"), last - 2),
        (format!("{i}: {}", last - 1), last),
        (format!("{o}: {last}"), last),
    ];
    // A reader that is cut off behind a record comes back before the events that it has not got.
    assert_eq!(told(&mut live, 6).await, expected);
    let mut late = feed.subscribe(key("public.*", &[]), before);
    assert_eq!(told(&mut late, 6).await, expected);
    assert_eq!(
        told(&mut only_items, 2).await,
        [(format!("schema {i}"), before), (format!("{i}: {}", last - 1), last)]
    );
    // Another version of the table is told, the ones before are not told again.
    let mut altered = table("orders");
    altered.columns[1].not_null = true;
    for schema in [items, fixture.journal().register(altered).unwrap()] {
        fixture.orders = schema;
        fixture.transaction(1, "x").await;
    }
    let new = fixture.orders.id;
    let expected = [
        (format!("{i}: {}", last + 1), last + 1),
        (format!("schema {new}"), last + 1),
        (format!("{new}: {}", last + 2), last + 2),
    ];
    assert_eq!(told(&mut live, 3).await, expected);
}

/// Clients that stop reading cost little, however many they are, and get everything all the same.
#[tokio::test]
async fn many_replays_that_stand_still_keep_little() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fixture, feed, _stopper) = fixture(dir.path()).await;
    for _ in 0..40 {
        fixture.transaction(1, &"a text".repeat(8000)).await;
    }
    let journal = fixture.journal();
    let (ahead, little) = (journal.read(0).unwrap(), journal.read_little(0).unwrap());
    let bytes = |read: &Read| match read {
        Read::Batches(batches) => batches.iter().map(|batch| batch.byte_len()).sum::<usize>(),
        other => panic!("{other:?}"),
    };
    assert!(bytes(&ahead) > 500_000 && bytes(&little) < 120_000, "{} {}", bytes(&ahead), bytes(&little));
    let mut readers: Vec<_> =
        (0..100).map(|_| feed.subscribe(key("public.*", &[]), journal.seek_earliest())).collect();
    for reader in &mut readers {
        ids(reader, 1).await;
    }
    // The last ones have no right to read ahead, as long as the first ones stand still.
    let all = ids(readers.last_mut().unwrap(), 39).await;
    assert!(all.is_sorted() && *all.last().unwrap() == journal.newest());
    drop(readers);
    let mut one = feed.subscribe(key("public.*", &[]), journal.seek_earliest());
    assert_eq!(ids(&mut one, 40).await[1..], all);
}

//! Many channels: whoever asks for one of them gets what is his, in order and once.

use rowcast_engine::event::{Body, Op};
use rowcast_engine::feed::{Feed, Filter, Framing, Next, Pattern, ViewKey};
use rowcast_engine::journal::Options;
use rowcast_engine::record::Builder;
use rowcast_engine::{Lsn, stop};

use crate::support::{Fixture, for_each_batch, without_indexes};

/// Of one transaction. Two of them are more than a batch can count.
const CHANNELS: usize = 40_000;

fn seen(fixture: &Fixture) -> Vec<(String, u32, bool)> {
    let mut seen = Vec::new();
    for_each_batch(fixture.journal(), 0, |batch, after| {
        assert!(batch.shares().len() <= 1 << 12, "a batch that every reader looks through whole");
        for event in batch.events().filter(|event| event.id > after) {
            let Body::Message { channel, .. } = event.body else { panic!("{event:?}") };
            let filter = Filter::new(vec![Pattern::Exact(channel.to_owned())], &[Op::Message]);
            assert!(event.seq % 1000 > 0 || filter.matches_batch(batch), "{channel}");
            seen.push((channel.to_owned(), event.seq, event.last));
        }
    });
    seen
}

#[tokio::test]
async fn of_more_channels_than_a_batch_can_name_every_reader_gets_his() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(Options::new(dir.path())).await;
    let last = format!("c.{}", 2 * CHANNELS - 1);
    let filter = Filter::new(vec![Pattern::Exact(last.clone())], &[]);
    let (_stopper, stop) = stop();
    let feed = Feed::new(fixture.journal().clone(), stop);
    let key = ViewKey { filter, framing: Framing::Ndjson, options: Default::default() };
    let mut subscription = feed.subscribe(key, fixture.journal().newest());
    let mut builder = Builder::new();
    for transaction in 0..2 {
        fixture.begin(&mut builder);
        for channel in transaction * CHANNELS..(transaction + 1) * CHANNELS {
            builder.message(&format!("c.{channel}"), Lsn(fixture.lsn - 50), b"1");
        }
        fixture.commit(&mut builder);
    }
    fixture.submit(&mut builder).await;
    let next = tokio::time::timeout(std::time::Duration::from_secs(20), subscription.next());
    let Next::Events(events) = next.await.expect("an event in time").unwrap() else { panic!("no event") };
    assert!(String::from_utf8_lossy(&events.bytes()).contains(&last));
    let expected: Vec<_> = (0..2 * CHANNELS)
        .map(|at| (format!("c.{at}"), u32::try_from(at % CHANNELS).unwrap(), (at + 1) % CHANNELS == 0))
        .collect();
    assert!(seen(&fixture) == expected, "all of them, each transaction whole");
    fixture.journal().close().await;
    drop((fixture, feed, subscription));
    without_indexes(dir.path());
    assert!(seen(&Fixture::open(Options::new(dir.path())).await) == expected, "and after a restart");
}

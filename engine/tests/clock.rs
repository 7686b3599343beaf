//! Clocks that people set: events are held as long as they were asked to be.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rowcast_engine::journal::Options;

use crate::support::Fixture;

const DAY: Duration = Duration::from_secs(86_400);

fn options(dir: &Path, retention: Duration) -> Options {
    Options { segment_bytes: 3000, retention, ..Options::new(dir) }
}

/// Makes all segments have been closed at this time.
fn closed_at(dir: &Path, at: Duration) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            let bytes = std::fs::read(&path).unwrap();
            let body = bytes.split_last_chunk::<4>().unwrap().0;
            let mut index: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert!(index["closed"].as_u64().unwrap() > 0);
            index["closed"] = u64::try_from(at.as_micros()).unwrap().into();
            let mut bytes = serde_json::to_vec(&index).unwrap();
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn segments_that_were_closed_while_the_clock_was_ahead_age_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(options(dir.path(), DAY)).await;
    for _ in 0..100 {
        fixture.transaction(2, "of a day that is yet to come").await;
    }
    let oldest = fixture.journal().oldest();
    assert!(fixture.journal().summary().segments > 2);
    fixture.journal().close().await;
    drop(fixture);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    closed_at(dir.path(), now + 10 * DAY);
    let fixture = Fixture::open(options(dir.path(), DAY)).await;
    assert_eq!(fixture.journal().oldest(), oldest, "they are not old yet");
    fixture.journal().close().await;
    drop(fixture);
    let fixture = Fixture::open(options(dir.path(), Duration::from_millis(300))).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while fixture.journal().oldest() == oldest {
        assert!(tokio::time::Instant::now() < deadline, "they never grow old");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

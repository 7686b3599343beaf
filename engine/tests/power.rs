//! Power cuts: whatever the disk forgets, what was visible and durable is there again.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rowcast_engine::journal::{self, Options};

use crate::disk::FakeDisk;
use crate::random::Random;
use crate::support::{Fixture, read_all, unlocked};

async fn life(disk: FakeDisk, dir: &Path, sizes: &[usize]) -> (Vec<crate::support::Seen>, u64) {
    let mut options = Options::new(dir);
    options.segment_bytes = 20_000;
    let journal = journal::open(options, Arc::new(disk)).unwrap();
    let mut fixture = Fixture::over(journal).await;
    for rows in sizes {
        fixture.transaction(*rows, "through the cut").await;
    }
    // Not closed: the power goes.
    (read_all(fixture.journal(), 0), fixture.journal().position().lsn.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_was_confirmed_survives(
        lives in prop::collection::vec((prop::collection::vec(1usize..200, 0..30), any::<u64>()), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut disk = FakeDisk::default();
            let mut before = Vec::new();
            for (sizes, seed) in &lives {
                unlocked(dir.path());
                let (all, lsn) = life(disk.clone(), dir.path(), sizes).await;
                assert_eq!(all[..before.len()], before[..], "numbers and contents as they were");
                assert_eq!(all.len(), before.len() + sizes.iter().sum::<usize>());
                assert!(all.last().is_none_or(|last| last.3 <= lsn));
                before = all;
                disk = disk.after_power_cut(&mut Random::new(*seed));
            }
        });
    }
}

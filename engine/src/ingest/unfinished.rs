//! Transactions that arrived before they committed, at their commit.

use super::on_its_own;
use crate::abort::{self, Point};
use crate::error::{Error, Result};
use crate::journal::Spill;
use crate::lsn::Lsn;
use crate::record::{Builder, Part, Recast, TxStart};

/// What is copied stays in memory up to this many bytes: below it is no large transaction.
const IN_MEMORY: usize = 16 << 20;

/// Finishes a file of which nothing is left out: says in it what was not known, and writes the last parts, if there are
/// any. The file is durable when it comes back.
pub async fn settle_spill(
    spill: Spill,
    start: TxStart<'static>,
    end_lsn: Lsn,
    parts: Vec<Part>,
) -> Result<Spill> {
    on_its_own(spill, move |spill| {
        spill.know(&start, parts.is_empty().then_some(end_lsn))?;
        spill.write(parts)?;
        spill.sync()?;
        abort::point(Point::SpillSynced);
        Ok(())
    })
    .await
}

/// Copies what stays of a transaction, from its file and its last parts, to the one that is open in `builder`; and
/// from there to the file `into` when there is more than memory should hold. Both come back, the transaction open.
pub async fn recast_spill(
    from: Spill,
    parts: Vec<Part>,
    recast: Recast,
    mut builder: Builder,
    mut into: Spill,
) -> Result<(Builder, Spill)> {
    let _abandon = into.on_behalf();
    let work = move || {
        let mut copy = |batch: &[u8]| {
            recast.copy_batch(batch, &mut builder)?;
            if builder.open_bytes() < IN_MEMORY { Ok(()) } else { into.write(builder.take_open_parts()) }
        };
        from.each(&mut copy)?;
        for part in parts {
            copy(&part.bytes)?;
        }
        Ok((builder, into))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("The copy of a large transaction was broken off").because(error))?
}

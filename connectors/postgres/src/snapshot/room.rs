//! Whether the journal has room for all that a snapshot is about to write.

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use tokio_postgres::Client;

use super::command::hurry;
use super::job::Job;
use super::task::Surroundings;
use crate::wire::{answering_client, sql_error};

/// What tables take without their indexes, the largest first; of a partitioned one, what its partitions do.
const SIZES: &str = "
select n.nspname::text, c.relname::text,
       (select coalesce(sum(pg_table_size(oid)), 0)::int8
        from (select c.oid union select relid from pg_partition_tree(c.oid)) parts (oid))
from unnest($1::text[], $2::text[]) t (schema, name)
join pg_namespace n on n.nspname = t.schema join pg_class c on c.relnamespace = n.oid and c.relname = t.name
order by 3 desc, 1, 2";

/// Warns where it has not, and nothing has the snapshot wait: retention would remove the first rows for the last ones.
pub(super) async fn look(around: Surroundings, jobs: Vec<Job>) {
    // What is for sinks alone waits for them. And one that has begun has been looked at.
    let is_new = jobs.iter().all(|job| job.progress.cursor.is_none());
    // How many rows meet a condition nobody knows.
    let whole: Vec<&Job> =
        jobs.iter().filter(|job| job.sinks.is_empty() && job.condition.is_none()).collect();
    if !is_new || whole.is_empty() {
        return;
    }
    let sizes = match sizes(&around, &whole).await {
        Ok(sizes) => sizes,
        // What is wrong is told by the readers.
        Err(error) => return tracing::debug!("Cannot see how large the tables of a snapshot are: {error}"),
    };
    let (all, room) = (sizes.iter().map(|(_, bytes)| bytes).sum::<u64>(), around.journal.max_size());
    let is_lost = all > room && !around.journal.waits_for_doors();
    if let Some((largest, bytes)) = sizes.first().filter(|_| is_lost) {
        warn(largest, *bytes, sizes.len(), all, room);
    }
}

fn warn(largest: &str, bytes: u64, tables: usize, all: u64, room: u64) {
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let among = match tables {
        1 => String::new(),
        tables => format!(", the largest of {tables} with {} MB together", megabytes(all)),
    };
    tracing::warn!(
        table = largest,
        hint = "Raise journal.max_size, read some rows at a time (rowcast snapshot TABLE --where …), or follow while they \
                are read. Rows that went are told as a gap, and can be read again",
        "The journal has no room for all rows of a snapshot: {largest} has {} MB{among}, and journal.max_size is {} MB. No \
         sink is there that it would wait for, so its first rows go before whoever comes later has read them",
        megabytes(bytes),
        megabytes(room)
    );
}

async fn sizes(around: &Surroundings, jobs: &[&Job]) -> Result<Vec<(String, u64)>> {
    let client: Client = answering_client(&around.source.info).await?;
    hurry(&client).await?;
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        jobs.iter().map(|job| (job.schema.as_str(), job.table.as_str())).unzip();
    let failed = |error| sql_error("Cannot ask for the sizes of tables", error);
    let rows = client.query(SIZES, &[&schemas, &names]).await.map_err(failed)?;
    let size = |row: &tokio_postgres::Row| {
        (Schema::channel_of(row.get(0), row.get(1)), u64::try_from(row.get::<_, i64>(2)).unwrap_or(0))
    };
    Ok(rows.iter().map(size).collect())
}

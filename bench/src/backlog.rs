//! Changes that wait in a slot, and copies of that slot to drain.

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

/// The slot and the publication that rowcast made before there was anything to drain.
pub(crate) const SLOT: &str = "bench";
/// The slot that keeps the place, and is never read.
const KEPT: &str = "bench_kept";

/// The table of all measurements.
const TABLE: &str = "create table bench(id bigint primary key, a int, b text, c timestamptz, d numeric)";

/// Where the backlog ends.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    /// Rows in it.
    pub(crate) rows: u64,
    /// The log's position behind it, as Postgres prints it.
    pub(crate) end: String,
}

/// Makes the empty table.
pub(crate) async fn create_table(client: &Client) -> Result<()> {
    execute(client, TABLE).await
}

/// Inserts `rows` rows in transactions of `per_transaction`, all of them behind the slot's position.
pub(crate) async fn fill(client: &Client, rows: u64, per_transaction: u64) -> Result<Backlog> {
    execute(client, &format!("select pg_copy_logical_replication_slot('{SLOT}', '{KEPT}')")).await?;
    execute(client, "set synchronous_commit = off").await?;
    let transactions = rows.div_ceil(per_transaction);
    execute(
        client,
        &format!(
            "do $$ begin
               for n in 0 .. {transactions} - 1 loop
                 insert into bench
                   select i, i % 1000, md5(i::text), clock_timestamp(), (i % 100000)::numeric / 100
                   from generate_series(n * {per_transaction} + 1, (n + 1) * {per_transaction}) i;
                 commit;
               end loop;
             end $$"
        ),
    )
    .await?;
    execute(client, "set synchronous_commit = on").await?;
    // Behind the backlog, so that a reader of its end is told that it has passed it.
    let end = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await;
    let end = end.map_err(|error| failed("pg_current_wal_insert_lsn", error))?.get(0);
    execute(client, "create table bench_end()").await?;
    execute(client, "checkpoint").await?;
    Ok(Backlog { rows: transactions * per_transaction, end })
}

/// Makes `name` a slot at the backlog's beginning.
pub(crate) async fn rewind(client: &Client, name: &str) -> Result<()> {
    drop_slot(client, name).await?;
    execute(client, &format!("select pg_copy_logical_replication_slot('{KEPT}', '{name}')")).await
}

/// Removes a slot if it is there.
pub(crate) async fn drop_slot(client: &Client, name: &str) -> Result<()> {
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name =";
    execute(client, &format!("{drop} '{name}'")).await
}

/// The process that serves a slot.
pub(crate) async fn walsender(client: &Client, slot: &str) -> Result<Option<u32>> {
    let query = "select active_pid from pg_replication_slots where slot_name = $1";
    let row = client.query_opt(query, &[&slot]).await.map_err(|error| failed(query, error))?;
    let pid = row.and_then(|row| row.get::<_, Option<i32>>(0));
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

/// Runs statements.
pub(crate) async fn execute(client: &Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(|error| failed(sql, error))
}

fn failed(sql: &str, error: tokio_postgres::Error) -> Error {
    Error::failed(format!("Postgres refuses: {sql}")).because(error)
}

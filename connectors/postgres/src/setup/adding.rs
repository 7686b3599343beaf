//! Takes new tables into the publications while capture is running.

use std::time::{Duration, Instant};

use rowcast_engine::{Error, Result};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::candidates::{Plan, Table};
use super::members::carry_out;
use super::publications::Known;
use super::trigger::Attempt;
use crate::capture::NEW_TABLE;
use crate::config::Source;
use crate::wire::sql_error;

/// Writers of a table wait behind us while we wait for it, so it must be short; the next round tries again. All locks of
/// one statement: a tree is locked with each partition. Over before the server looks for a deadlock on behalf of who waits
/// for one of them.
const LOCKS_TIMEOUT: &str = "
select set_config('statement_timeout', least(setting::int8, 1000)::text, true) from pg_settings where name = 'deadlock_timeout'";

/// Of the table's rows many may be dead.
const LOOK_TIMEOUT: &str = "set local statement_timeout = '1s'";

/// Our turn at the publication (`members::LOCK`), if it is to be had now.
const TURN: &str = "select pg_try_advisory_xact_lock(1920295796, hashtext($1))";

/// What follows waits for locks alone, and COMMIT for whom the server says. Whoever has the publication may want the table
/// next, which is ours by now.
const IN_HAND: &str = "set local statement_timeout = 0; set local lock_timeout = '10ms'";

/// Each table that is locked takes a second of a round.
const ROUND_MAX: Duration = Duration::from_secs(20);

/// Adds tables while capture is running, each as soon as no writer is in it, so that it is known for sure whether
/// rows came before. The stream itself says so then: whatever happens to us, it is told where it belongs.
pub(super) async fn add(
    client: &mut Client,
    source: &Source,
    new: &[Table],
    known: &mut Known,
    attempt: Attempt,
) -> Result<()> {
    known.busy.keep(new);
    let begun = Instant::now();
    for table in new {
        // The others come with the next look, which has more to do than this.
        if begun.elapsed() > ROUND_MAX {
            break;
        }
        // Who asks for it has seen to it that it is free, perhaps.
        if attempt == Attempt::Look && !known.busy.may_try(table, Instant::now()) {
            continue;
        }
        let came_back = known.left.contains(&table.oid);
        match add_one(client, source, table, came_back).await {
            Ok(had_rows) => {
                known.busy.forget(table);
                let (table, inserts_only) = (table.channel(), !table.identified);
                tracing::info!(table, inserts_only, had_rows, came_back, "Captures a new table");
            }
            // In use, or gone again: a later round looks once more.
            Err(error) => known.busy.note(table, &error, Instant::now()),
        }
        if client.is_closed() {
            return Err(Error::transient("The connection to Postgres broke while adding tables"));
        }
    }
    Ok(())
}

/// The table first. The publication then is not waited for: whoever creates tables has it until his transaction ends, and
/// may write to this one before. Ours it is for a moment only, since who creates a table meanwhile leaves it to a later look.
/// Of one that came back the gap is told by whoever remembers it, with rows and without.
async fn add_one(client: &mut Client, source: &Source, table: &Table, came_back: bool) -> Result<bool> {
    let failed = |error| sql_error("Cannot add it to the publication", error);
    let mut transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(LOCKS_TIMEOUT).await.map_err(failed)?;
    let lock = format!("lock table {} in share row exclusive mode", rows_of(table));
    transaction.batch_execute(&lock).await.map_err(failed)?;
    transaction.batch_execute(LOOK_TIMEOUT).await.map_err(failed)?;
    let had_rows = has_rows(&mut transaction, table).await.map_err(failed)?;
    transaction.batch_execute(IN_HAND).await.map_err(failed)?;
    if !transaction.query_one(TURN, &[&source.publication]).await.map_err(failed)?.get::<_, bool>(0) {
        return Err(Error::transient(
            "Cannot add it to the publication: a transaction that creates or changes tables has not ended; pg_locks shows \
             it, with an advisory lock",
        ));
    }
    let plan = Plan { new: vec![table.clone()], ..Plan::default() };
    carry_out(&transaction, source, &plan).await.map_err(failed)??;
    if had_rows && !came_back {
        let say = "select rowcast.say($1::text, convert_to($2::text, 'UTF8'))";
        // Other readers of the database's log have the table from another moment on.
        let prefix = format!("{NEW_TABLE}.{}", source.slot);
        transaction.execute(say, &[&prefix, &table.channel()]).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(had_rows)
}

/// Where its own rows lie: in its partitions, and not in what inherits from it, which is captured by itself.
fn rows_of(table: &Table) -> String {
    if table.partitioned { table.sql() } else { format!("only {}", table.sql()) }
}

async fn has_rows(transaction: &mut Transaction<'_>, table: &Table) -> Result<bool, tokio_postgres::Error> {
    // Where a policy hides rows even from the owner, rows cannot be ruled out.
    let hidden = "select relrowsecurity and relforcerowsecurity from pg_class where oid = $1";
    if transaction.query_one(hidden, &[&table.oid]).await?.get(0) {
        return Ok(true);
    }
    let sql = format!("select exists (select from {})", rows_of(table));
    let look = transaction.savepoint("look").await?;
    match look.query_one(&sql, &[]).await {
        Ok(row) => {
            look.commit().await?;
            Ok(row.get(0))
        }
        // It takes too long to see, and its writers wait: rows cannot be ruled out.
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            look.rollback().await?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

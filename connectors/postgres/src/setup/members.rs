//! Changes the tables of the two publications.

use std::time::{Duration, Instant};

use rowcast_engine::{Error, Kind, Result};
use tokio_postgres::{Client, Transaction};

use super::busy::Pauses;
use super::candidates::{self, Plan, Table};
use super::holders;
use super::loans;
use super::publications;
use super::server::Server;
use super::shared;
use super::trigger::Attempt;
use crate::config::Source;
use crate::tables::identifier;
use crate::wire::sql_error;

/// Changing a publication waits for other changes of the tables' definitions, and for VACUUM. Writers do not wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many tables are put in at once where nobody is in the way.
const AT_ONCE: usize = 200;

/// Whoever holds locks while he waits for another one may become part of a deadlock, which the server ends by failing one
/// of the two. It looks for one when somebody has waited for deadlock_timeout: four statements of this part of it are over
/// before.
const PART_OF_DEADLOCK_TIMEOUT: u32 = 5;

/// Held by whoever changes the tables of a publication; the event trigger does not wait for it. The number stands in
/// migration V2, too.
const LOCK: &str = "select pg_advisory_xact_lock(1920295796, hashtext($1))";

/// How long a statement may wait.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// For each lock.
    Lock(Duration),
    /// For all it does.
    Whole(Duration),
}

impl Limit {
    fn sql(self) -> String {
        match self {
            Self::Lock(time) => format!("set local lock_timeout = {}", time.as_millis()),
            Self::Whole(time) => format!("set local statement_timeout = {}", time.as_millis().max(1)),
        }
    }
}

/// Everything before a slot is there. Many at once hold locks on many tables, so that must be quick; where it is not, each
/// goes by itself: whoever holds one table and waits for none is in no deadlock.
pub(super) async fn fill(client: &mut Client, source: &Source, plan: Plan) -> Result<()> {
    let quick = Limit::Whole(quickly(client).await?);
    for part in parts(plan, AT_ONCE) {
        match apply(client, source, &part, quick).await {
            Ok(()) => continue,
            Err(error) if error.kind() != Kind::Transient || client.is_closed() => return Err(error),
            Err(error) => tracing::debug!("{error}: each table goes by itself"),
        }
        for one in parts(part, 1) {
            apply(client, source, &one, Limit::Lock(PATIENCE)).await?;
        }
    }
    Ok(())
}

async fn quickly(client: &Client) -> Result<Duration> {
    let sql = "select setting::int8 from pg_settings where name = 'deadlock_timeout'";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|error| sql_error("Cannot read when the server looks for deadlocks", error))?;
    let millis = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    Ok(Duration::from_millis(millis) / PART_OF_DEADLOCK_TIMEOUT)
}

/// The plan in parts of so many tables.
fn parts(plan: Plan, size: usize) -> impl Iterator<Item = Plan> {
    let of = |tables: Vec<Table>| tables.chunks(size).map(<[Table]>::to_vec).collect::<Vec<_>>().into_iter();
    let moved = of(plan.moved).map(|moved| Plan { moved, ..Plan::default() });
    let unwanted = of(plan.unwanted).map(|unwanted| Plan { unwanted, ..Plan::default() });
    moved.chain(unwanted).chain(of(plan.new).map(|new| Plan { new, ..Plan::default() }))
}

/// Everything in one transaction: a table is in one publication or in the other.
async fn apply(client: &mut Client, source: &Source, plan: &Plan, limit: Limit) -> Result<()> {
    let failed = |error| sql_error("Cannot change the tables of the publications", error);
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(&limit.sql()).await.map_err(failed)?;
    transaction.execute(LOCK, &[&source.publication]).await.map_err(failed)?;
    let plan = &with_filters(&transaction, source, plan).await.map_err(failed)?;
    carry_out(&transaction, source, plan).await.map_err(failed)??;
    transaction.commit().await.map_err(failed)?;
    for table in &plan.moved {
        let (table, inserts_only) = (table.channel(), !table.identified);
        tracing::warn!(
            table,
            inserts_only,
            "The replica identity has changed: the table changes its publication"
        );
    }
    Ok(())
}

/// The row filters of those that move, as SQL behind their column lists.
async fn with_filters(
    transaction: &Transaction<'_>,
    source: &Source,
    plan: &Plan,
) -> Result<Plan, tokio_postgres::Error> {
    let mut plan = plan.clone();
    for table in plan.moved.iter_mut().filter(|table| table.filters) {
        let sql = "select pg_get_expr(r.prqual, r.prrelid)
                   from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                   where r.prrelid = $1 and p.pubname in ($2, $3) order by p.pubname <> $2 limit 1";
        let row = transaction.query_one(sql, &[&table.oid, &source.publication, &source.inserts]).await?;
        if let Some(filter) = row.get::<_, Option<String>>(0) {
            table.written += &format!(" where ({filter})");
        }
    }
    Ok(plan)
}

/// Changes the publications, and looks behind that whether the tables were those that were meant: a name may have gone to
/// another table while its lock was waited for, and from here on it stays.
pub(super) async fn carry_out(
    transaction: &Transaction<'_>,
    source: &Source,
    plan: &Plan,
) -> Result<Result<()>, tokio_postgres::Error> {
    for statement in statements(source, plan) {
        transaction.batch_execute(&statement).await?;
    }
    let all = || plan.new.iter().chain(&plan.moved).chain(&plan.unwanted);
    let (names, oids): (Vec<String>, Vec<u32>) = all().map(|table| (table.sql(), table.oid)).unzip();
    let others = "select name from unnest($1::text[], $2::oid[]) t(name, meant) where to_regclass(name) is distinct from meant";
    Ok(match transaction.query_opt(&format!("{others} limit 1"), &[&names, &oids]).await? {
        None => Ok(()),
        Some(row) => {
            let name: &str = row.get(0);
            Err(Error::transient(format!("{name} is another table by now")))
        }
    })
}

fn statements(source: &Source, plan: &Plan) -> Vec<String> {
    let (all, inserts) = (identifier(&source.publication), identifier(&source.inserts));
    let leaving = || plan.moved.iter().chain(&plan.unwanted);
    let coming = || plan.moved.iter().chain(&plan.new);
    let only = |tables: Vec<String>, statement: &str| {
        (!tables.is_empty()).then(|| format!("{statement} {}", tables.join(", ")))
    };
    let plain = |table: &Table| format!("only {}", table.sql());
    // What somebody has chosen of its columns and rows goes with it.
    let written = |table: &Table| format!("only {}{}", table.sql(), table.written);
    [
        only(
            leaving().filter(|t| t.in_all).map(plain).collect(),
            &format!("alter publication {all} drop table"),
        ),
        only(
            leaving().filter(|t| t.in_inserts).map(plain).collect(),
            &format!("alter publication {inserts} drop table"),
        ),
        only(
            coming().filter(|t| t.identified).map(written).collect(),
            &format!("alter publication {all} add table"),
        ),
        only(
            coming().filter(|t| !t.identified).map(written).collect(),
            &format!("alter publication {inserts} add table"),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Moves and removes tables while capture is running, each by itself: the writers of one whose key is gone fail until
/// it is moved, whatever is in the way of another one. Writers go on meanwhile: what a transaction that is under way
/// writes is sent as before, or as from now on. `unlent`: those that cannot be moved now, nor lent what they lack.
pub(super) async fn change(
    client: &mut Client,
    source: &Source,
    plan: Plan,
    attempt: Attempt,
    unlent: &mut Pauses,
) -> Result<()> {
    unlent.keep(&plan.moved.iter().chain(&plan.unwanted).map(|table| table.oid).collect());
    for plan in parts(plan, 1) {
        let Err(error) = apply(client, source, &plan, Limit::Lock(PATIENCE)).await else { continue };
        if client.is_closed() {
            return Err(error);
        }
        for table in plan.moved.iter().chain(&plan.unwanted) {
            help(client, source, table, &error, attempt, unlent).await?;
        }
    }
    Ok(())
}

/// Says why one cannot be moved, and lends it what its writers need meanwhile.
async fn help(
    client: &mut Client,
    source: &Source,
    table: &Table,
    error: &Error,
    attempt: Attempt,
    unlent: &mut Pauses,
) -> Result<()> {
    let channel = table.channel();
    let holders = holders::holders(client, table.oid).await?;
    let in_the_way =
        holders.as_deref().map(|holders| format!(": in the way is {holders}")).unwrap_or_default();
    tracing::warn!(table = channel, "{error}{in_the_way}; it is tried again");
    if !(table.in_all && table.would_fail()) {
        return Ok(());
    }
    if holders.is_some() {
        // Everybody who uses the table would wait behind us, and for nothing.
        tracing::warn!(
            table = channel,
            hint = "They go on as soon as whoever is in the way has ended; SELECT pg_terminate_backend(PID);",
            "Its UPDATE and DELETE fail"
        );
        return Ok(());
    }
    if attempt == Attempt::Look && !unlent.may_try(table.oid, Instant::now()) {
        return Ok(());
    }
    if let Err(error) = loans::lend(client, source, table).await {
        let (_, pause) = unlent.note(table.oid, Instant::now());
        tracing::warn!(
            table = channel,
            again_in_seconds = pause.as_secs(),
            "{error}: its UPDATE and DELETE fail"
        );
    }
    Ok(())
}

/// Takes those out of the publication for all operations whose UPDATE and DELETE fail because of it, and changes nothing
/// else: that can be done whoever's turn it is.
///
/// # Errors
///
/// When the database cannot be asked. What is in the way of one table is logged.
pub(crate) async fn relieve(client: &mut Client, source: &Source, server: &Server) -> Result<()> {
    // They may be another one's by now.
    let others = shared::others(client, &source.slot).await?;
    if others.iter().any(|(_, name)| source.publications().contains(&name.as_str())) {
        return Ok(());
    }
    let mut there = Vec::new();
    for name in source.publications() {
        let Some(publication) = publications::read(client, server.version, name).await? else { continue };
        if !publication.is_kept(source) {
            return Ok(());
        }
        there.push(name);
    }
    if !there.contains(&source.publication.as_str()) {
        return Ok(());
    }
    let tables = candidates::read(client, source, server.version).await?;
    let failing = |tables: Vec<Table>| -> Vec<Table> {
        tables.into_iter().filter(|table| table.in_all && table.would_fail()).collect()
    };
    let Plan { moved, unwanted, .. } = candidates::plan(&tables, &source.tables);
    let (mut moved, mut unwanted) = (failing(moved), failing(unwanted));
    if there.len() == 1 {
        // Nowhere to go to. It is taken in again when capture goes on.
        unwanted.append(&mut moved);
    }
    let plan = Plan { moved, unwanted, ..Plan::default() };
    change(client, source, plan, Attempt::Full, &mut Pauses::default()).await
}

//! Brings schema `rowcast` of the source up to date.

use refinery::{Migration, Runner};
use rowcast_engine::{Error, Kind, Result};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::owners;
use super::server::Server;
use crate::tables::{identifier, shown};
use crate::wire::sql_error;

/// Numbered, forward only; a file that has been released never changes. In ASCII: a database may have any encoding.
const FILES: [(&str, &str); 15] = [
    ("V1__schema", include_str!("../../../../migrations/V1__schema.sql")),
    ("V2__capture", include_str!("../../../../migrations/V2__capture.sql")),
    ("V3__snapshot", include_str!("../../../../migrations/V3__snapshot.sql")),
    ("V4__signed", include_str!("../../../../migrations/V4__signed.sql")),
    ("V5__ddl_statement", include_str!("../../../../migrations/V5__ddl_statement.sql")),
    ("V6__lent", include_str!("../../../../migrations/V6__lent.sql")),
    ("V7__recoding", include_str!("../../../../migrations/V7__recoding.sql")),
    ("V8__partitions", include_str!("../../../../migrations/V8__partitions.sql")),
    ("V9__unpublished_keys", include_str!("../../../../migrations/V9__unpublished_keys.sql")),
    ("V10__types", include_str!("../../../../migrations/V10__types.sql")),
    ("V11__bereft", include_str!("../../../../migrations/V11__bereft.sql")),
    ("V12__settling", include_str!("../../../../migrations/V12__settling.sql")),
    ("V13__rights", include_str!("../../../../migrations/V13__rights.sql")),
    ("V14__chosen", include_str!("../../../../migrations/V14__chosen.sql")),
    ("V15__isolated", include_str!("../../../../migrations/V15__isolated.sql")),
];

/// Which of them have been applied.
const HISTORY: &str = "rowcast.migrations";

/// Definitions came without the rows that say which migrations made them.
pub(crate) const COPIED: &str = "It is a copy of the definitions without their history (pg_dump --schema-only makes one). Where no rowcast runs on this \
     database: DROP SCHEMA rowcast CASCADE; and rowcast makes it anew";

/// Everything in the schema is altered in time.
const FOREIGN: &str = "The user must own the schema rowcast and what is in it: `rowcast check` has the SQL";

/// Held while migrating, so that two programs that start at once do not do it twice. Any number that nobody else
/// uses: "rowcast" in ASCII.
const LOCK: i64 = 0x0072_6f77_6361_7374;

/// Another program's migration takes moments.
const LOCK_TIMEOUT: &str = "set lock_timeout = '30s'";

/// From here on who has a role's rights need not be let act as it.
const SETS_APART: u32 = 160_000;

/// Applies what is missing. Needs CREATE on the database only the first time.
pub(super) async fn apply(client: &mut Client, server: &Server) -> Result<()> {
    let pending = applied(client).await? < i64::try_from(FILES.len()).unwrap_or(i64::MAX);
    owners::unite(client, server, pending).await?;
    if !pending {
        return Ok(());
    }
    let failed = |error| sql_error("Cannot prepare the schema rowcast", error);
    client.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    client.execute("select pg_advisory_lock($1)", &[&LOCK]).await.map_err(failed)?;
    let applied = migrate(client, server).await;
    let unlocked = client.execute("select pg_advisory_unlock($1)", &[&LOCK]).await.map_err(failed);
    client.batch_execute("reset lock_timeout").await.map_err(failed)?;
    applied.and(unlocked.map(drop))
}

/// How many there are in the database; a newer rowcast may have applied more than we know.
async fn applied(client: &Client) -> Result<i64> {
    let failed = |error| sql_error("Cannot read the history of schema rowcast", error);
    let there = client.query_one("select to_regclass($1) is not null", &[&HISTORY]).await.map_err(failed)?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let sql = format!("select count(*) from {HISTORY}");
    Ok(client.query_one(&sql, &[]).await.map_err(failed)?.get(0))
}

/// The tables are there, and the history that the first of them comes with is missing or has no row.
pub(crate) async fn is_copy(client: &Client) -> Result<bool> {
    let failed = |error| sql_error("Cannot read the history of schema rowcast", error);
    let sql = "select to_regclass('rowcast.installation') is not null";
    let made: bool = client.query_one(sql, &[]).await.map_err(failed)?.get(0);
    Ok(made && applied(client).await? == 0)
}

/// Refuses where the schema is missing and may not be made.
pub(super) async fn refuse_first(client: &Client, server: &Server) -> Result<()> {
    if server.may_create || is_there(client).await? {
        return Ok(());
    }
    let (role, database) = (identifier(&server.role), identifier(&server.database));
    let what = format!("User {role} may not create the schema rowcast in database {database}");
    Err(Error::refused(what).hint(format!(
        "{} Or let nothing be changed: source.manage = false, and run the SQL that `rowcast check` prints",
        server.create_remedy()
    )))
}

async fn is_there(client: &Client) -> Result<bool> {
    let row = client.query_one("select to_regnamespace('rowcast') is not null", &[]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_error("Cannot look for schema rowcast", error))
}

async fn migrate(client: &mut Client, server: &Server) -> Result<()> {
    refuse_first(client, server).await?;
    if !is_there(client).await? {
        client
            .batch_execute("create schema if not exists rowcast")
            .await
            .map_err(|error| sql_error("Cannot create the schema rowcast", error))?;
    }
    let files: Vec<Migration> = FILES
        .iter()
        .map(|(name, sql)| Migration::unapplied(name, sql))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::failed("A migration has a wrong name").because(error))?;
    let mut runner = Runner::new(&files).set_abort_missing(false);
    runner.set_migration_table_name(HISTORY);
    let owner = owners::other(client, server).await?;
    if let Some(owner) = &owner {
        act_as(client, server, owner).await?;
    }
    let report = runner.run_async(client).await;
    if owner.is_some() {
        let failed = |error| sql_error("Cannot go back to the own role", error);
        client.batch_execute("reset role").await.map_err(failed)?;
    }
    let report = report.map_err(|error| {
        if is_locked(&error) {
            return Error::transient(
                "Cannot bring the schema rowcast up to date now: somebody holds a lock in it",
            )
            .because(error);
        }
        let hint = if is_there_already(&error) { COPIED } else { FOREIGN };
        Error::new(Kind::Refused, "Cannot bring the schema rowcast up to date").because(error).hint(hint)
    })?;
    for migration in report.applied_migrations() {
        tracing::info!("Applied migration {migration} to schema rowcast");
    }
    Ok(())
}

/// What a superuser makes there must be its owner's, too: what the event triggers run is, and may call nothing else.
async fn act_as(client: &Client, server: &Server, owner: &str) -> Result<()> {
    let Err(error) = client.batch_execute(&format!("set role {}", identifier(owner))).await else {
        return Ok(());
    };
    let (owner, role) = (shown(owner), shown(&server.role));
    let error = sql_error(
        format!("What is in the schema rowcast belongs to {owner}, which {role} cannot act as"),
        error,
    );
    let option = if server.version >= SETS_APART { " WITH SET TRUE" } else { "" };
    Err(error.hint(format!(
        "GRANT {owner} TO {role}{option}; or start this version of rowcast once as {owner}, or as a superuser"
    )))
}

/// Whether a table, view or function of the schema, as SQL names it, is of our making.
pub(super) fn makes(thing: &str) -> bool {
    let of = thing.split('(').next().unwrap_or_default();
    let name = of.rsplit('.').next().unwrap_or_default();
    let made = [
        format!("table rowcast.{name} ("),
        format!("view rowcast.{name} as"),
        format!("function rowcast.{name}("),
    ];
    HISTORY.ends_with(&format!(".{name}"))
        || FILES.iter().any(|(_, sql)| made.iter().any(|words| sql.contains(words)))
}

/// Whether somebody's lock was in the way, who may be waiting for rowcast.
fn is_locked(error: &(dyn std::error::Error + 'static)) -> bool {
    is_any_of(error, &[SqlState::T_R_DEADLOCK_DETECTED, SqlState::LOCK_NOT_AVAILABLE])
}

/// Whether what a migration makes is there, of which the history knows nothing.
fn is_there_already(error: &(dyn std::error::Error + 'static)) -> bool {
    is_any_of(error, &[SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_FUNCTION, SqlState::DUPLICATE_OBJECT])
}

fn is_any_of(error: &(dyn std::error::Error + 'static), states: &[SqlState]) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut codes = causes.filter_map(|error| error.downcast_ref::<tokio_postgres::Error>()?.code());
    codes.any(|code| states.contains(code))
}

#[cfg(test)]
mod tests {
    use super::makes;

    #[test]
    fn what_somebody_else_has_put_there_is_his() {
        for ours in [
            "rowcast.installation",
            "rowcast.identity",
            "rowcast.migrations",
            "rowcast.move(rowcast.capture,oid,boolean)",
            "publish(text,jsonb)",
        ] {
            assert!(makes(ours), "{ours}");
        }
        for theirs in ["rowcast.mine", "rowcast.publishes(text)", "rowcast.\"Publish\"(text)", "rowcast.s"] {
            assert!(!makes(theirs), "{theirs}");
        }
    }
}

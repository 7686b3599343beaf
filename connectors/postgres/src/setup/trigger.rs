//! The event trigger that looks after the publications in the transaction that changes a table: new tables, and those
//! that lose or get a key. What it does stands in migrations V2, V8, V11, V12, V13 and V15; V10 and V13 have that of types. Where it may
//! not be made, the next look at the tables does the same a few seconds later.

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::config::Source;
use crate::wire::sql_error;

/// Commands that make tables, or change what identifies their rows. What is dropped can take a key with it: a column goes
/// with its type, its collation or what generates it, an index with its operator class and the functions of that. So can
/// a table or a view whose rows are another one's key, but those are dropped all the time, and keys of that kind are rare.
const TAGS: [&str; 23] = [
    "CREATE TABLE",
    "CREATE TABLE AS",
    "SELECT INTO",
    "CREATE SCHEMA",
    "ALTER TABLE",
    "ALTER INDEX",
    "CREATE INDEX",
    "DROP INDEX",
    "ALTER TYPE",
    "DROP TYPE",
    "DROP DOMAIN",
    "DROP EXTENSION",
    "DROP SCHEMA",
    "DROP OWNED",
    "DROP COLLATION",
    "DROP OPERATOR",
    "DROP OPERATOR CLASS",
    "DROP OPERATOR FAMILY",
    "DROP FUNCTION",
    "DROP ROUTINE",
    "DROP ACCESS METHOD",
    "DROP TEXT SEARCH CONFIGURATION",
    "DROP TEXT SEARCH DICTIONARY",
];

/// Those that change a type.
const TYPE_TAGS: [&str; 3] = ["ALTER TYPE", "ALTER DOMAIN", "ALTER TABLE"];

/// From here on the server sees by itself that a partition is attached or detached; before, the event trigger makes it.
pub(crate) const SEES_PARTITIONS: u32 = 150_000;

/// Tells that a type has changed.
pub(crate) const TYPES: &str = "rowcast_types";

/// For every rowcast on the database: what each captures stands in `rowcast.capture`. The last one is for `source.ddl` alone.
pub(crate) const NAMES: [&str; 3] = ["rowcast", TYPES, "rowcast_drop"];

/// Those that are of use as it is configured; `ours`: the publications are kept by us.
pub(crate) fn wanted(source: &Source, ours: bool) -> &'static [&'static str] {
    match (source.ddl, ours) {
        (true, _) => &NAMES,
        (false, true) => &NAMES[..2],
        (false, false) => &NAMES[1..2],
    }
}

/// How much a round tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// At a start and when asked: the configuration is written anew, a trigger that is missing is created.
    Full,
    /// In between; what was refused then is not asked for again.
    Look,
}

/// Says in the database what is captured.
pub(crate) async fn register(client: &mut Client, source: &Source, kept: bool) -> Result<()> {
    let failed = |error| sql_error("Cannot write to rowcast.capture what is captured", error);
    let transaction = client.transaction().await.map_err(failed)?;
    let (slot, root) = (&source.slot, source.via_partition_root);
    transaction.execute("delete from rowcast.capture where slot = $1", &[slot]).await.map_err(failed)?;
    let sql = "insert into rowcast.capture (slot, publication, inserts, via_root, kept, ddl)
               values ($1, $2, $3, $4, $5, $6)";
    let (publication, inserts) = (&source.publication, &source.inserts);
    transaction
        .execute(sql, &[slot, publication, inserts, &root, &kept, &source.ddl])
        .await
        .map_err(failed)?;
    let sql = "insert into rowcast.pattern (slot, excluded, schema_like, table_like) values ($1, $2, $3, $4)
               on conflict do nothing";
    for (excluded, schema, table) in source.tables.likes() {
        transaction.execute(sql, &[slot, &excluded, &schema, &table]).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// Makes the event triggers where they are missing and may be made. Gives why tables are not looked after, if so.
pub(crate) async fn ensure(
    client: &Client,
    source: &Source,
    ours: bool,
    attempt: Attempt,
) -> Result<Option<String>> {
    let mut reason = None;
    for name in wanted(source, ours) {
        let Some(why) = ensure_one(client, name, attempt).await? else { continue };
        if *name != TYPES {
            reason = reason.or(Some(why));
        } else if attempt == Attempt::Full {
            tracing::info!("Changed labels and attributes of types are seen at the next connection: {why}");
        }
    }
    Ok(reason)
}

async fn ensure_one(client: &Client, name: &str, attempt: Attempt) -> Result<Option<String>> {
    let missing = match state(client, name).await? {
        State::Works => return Ok(None),
        State::Older => {
            if attempt == Attempt::Full {
                renew(client, name).await?;
            }
            return Ok(None);
        }
        State::Missing => format!("the event trigger {name} does not exist"),
        State::Disabled => return Ok(Some(format!("the event trigger {name} is disabled"))),
        State::Foreign => return Ok(Some(format!("an event trigger {name} is somebody else's"))),
    };
    if attempt == Attempt::Look {
        return Ok(Some(missing));
    }
    match client.batch_execute(&create(name)).await {
        Ok(()) => tracing::info!(trigger = name, "Created the event trigger"),
        // Another rowcast was faster.
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => {}
        Err(error) => {
            let error: Error = sql_error(format!("cannot create the event trigger {name}"), error);
            if client.is_closed() {
                return Err(error);
            }
            return Ok(Some(error.to_string()));
        }
    }
    Ok(None)
}

/// Makes one anew that an older rowcast has made. Where that may not be, it goes on with what it hears of.
async fn renew(client: &Client, name: &str) -> Result<()> {
    match client.batch_execute(&renewal(name)).await {
        Ok(()) => tracing::info!(trigger = name, "Made the event trigger of an older rowcast anew"),
        Err(error) => {
            let error = sql_error(format!("Cannot make the event trigger {name} anew"), error);
            if client.is_closed() {
                return Err(error);
            }
            tracing::info!(hint = renewal(name), "{error}: an older rowcast's does not hear of all commands");
        }
    }
    Ok(())
}

/// Event, commands (none: all) and function.
fn definition(name: &str) -> (&'static str, &'static [&'static str], &'static str) {
    match name {
        TYPES => ("ddl_command_end", &TYPE_TAGS, "on_types"),
        "rowcast_drop" => ("sql_drop", &[], "on_drop"),
        _ => ("ddl_command_end", &TAGS, "on_ddl"),
    }
}

/// The SQL that makes an event trigger.
pub(crate) fn create(name: &str) -> String {
    let (event, tags, function) = definition(name);
    let when =
        if tags.is_empty() { String::new() } else { format!(" WHEN TAG IN ('{}')", tags.join("', '")) };
    // Also where session_replication_role switches triggers off: bulk loads drop keys, too.
    format!(
        "CREATE EVENT TRIGGER {name} ON {event}{when} EXECUTE FUNCTION rowcast.{function}(); \
         ALTER EVENT TRIGGER {name} ENABLE ALWAYS;"
    )
}

/// The SQL that makes one anew.
pub(crate) fn renewal(name: &str) -> String {
    format!("DROP EVENT TRIGGER {name}; {}", create(name))
}

/// What a superuser gives away with it.
pub(crate) const TRUST: &str = "it runs functions of rowcast's role, which that role can replace, in every session that changes a table, a \
     superuser's too: who has that role can become superuser. Leave it out where that may not be";

/// What has definitions told where nothing may be changed here.
pub(crate) const REGISTER_DDL: &str = "It takes what a start with source.manage = true makes, as a role that may create event triggers (a superuser, \
     usually): start rowcast so once, and GRANT SELECT ON rowcast.capture, rowcast.secret TO the role that it runs as";

/// Whether the event triggers tell this slot's rowcast what becomes of definitions, and it may believe them.
pub(crate) async fn tells_ddl(client: &Client, source: &Source) -> Result<bool> {
    let failed = |error| sql_error("Cannot read what rowcast captures", error);
    for table in ["capture", "secret"] {
        if !super::may_read(client, table).await.map_err(failed)? {
            return Ok(false);
        }
    }
    let sql = "select exists (select from rowcast.capture where slot = $1 and ddl)";
    let registered: bool = client.query_one(sql, &[&source.slot]).await.map_err(failed)?.get(0);
    Ok(registered && state(client, NAMES[0]).await?.fires())
}

/// How an event trigger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Works,
    /// It works, but does not hear of all commands that matter, or not in all sessions.
    Older,
    Missing,
    Disabled,
    /// It calls another function.
    Foreign,
}

impl State {
    pub(crate) fn fires(self) -> bool {
        matches!(self, Self::Works | Self::Older)
    }
}

pub(crate) async fn state(client: &Client, name: &str) -> Result<State> {
    let (_, tags, _) = definition(name);
    // A newer rowcast's hears of more.
    let sql = "select e.evtenabled in ('O', 'A'), n.nspname = 'rowcast', coalesce(e.evttags @> $2, true) and e.evtenabled = 'A'
               from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid join pg_namespace n on n.oid = p.pronamespace
               where e.evtname = $1";
    let row = client.query_opt(sql, &[&name, &tags]).await;
    let row = row.map_err(|error| sql_error("Cannot look for the event trigger", error))?;
    Ok(match row.map(|row| (row.get(0), row.get(1), row.get(2))) {
        None => State::Missing,
        Some((_, false, _)) => State::Foreign,
        Some((false, true, _)) => State::Disabled,
        Some((true, true, false)) => State::Older,
        Some((true, true, true)) => State::Works,
    })
}

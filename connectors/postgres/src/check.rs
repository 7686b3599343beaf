//! Each requirement, what is found, and the SQL that mends it. Changes nothing.

mod everything;
mod identities;
mod large_values;
mod money;
mod others;
mod partly_full;
mod publications;
mod replication;
mod rights;
mod schema;
mod server;
mod slots;
mod snapshots;
mod standbys;

use std::collections::HashSet;

use rowcast_engine::{Error, Kind, Result};
use serde::Serialize;

use crate::config::{Config, Source};
use crate::setup::candidates::{self, Table};
use crate::setup::server::{OLDEST, ORIGINS_REMEDY, Server, Usage, WAL_LEVEL_REMEDY};
use crate::setup::{foreign, unusable};
use crate::tables::identifier;
use crate::wire::sql_session;

/// Tables that are named one by one; more are counted.
const NAMED_TABLES: usize = 20;

/// One thing that capture needs, or that is good to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// What it is about, in a word or two: `wal_level`, `table public.orders`.
    pub name: String,
    /// Capture works as far as this goes.
    pub ok: bool,
    /// What there is.
    pub found: String,
    /// What to do about it: SQL, or a sentence. Also given for advice, where `ok` is true.
    pub remedy: Option<String>,
}

fn requirement(
    name: &str,
    ok: bool,
    found: impl Into<String>,
    remedy: impl Into<Option<String>>,
) -> Requirement {
    Requirement { name: name.to_owned(), ok, found: found.into(), remedy: remedy.into() }
}

/// Looks at everything that capture needs. A source that cannot be reached is a requirement that is not met, and
/// then the only one.
///
/// # Errors
///
/// `Kind::Usage` for a wrong configuration; others when the connection breaks meanwhile.
pub async fn check(config: &Config) -> Result<Vec<Requirement>> {
    let source = Source::new(config)?;
    let (client, here) = match sql_session(&source.info).await {
        Ok(session) => session,
        Err(error) if error.kind() == Kind::Usage => return Err(error),
        Err(error) => return Ok(vec![unreachable(&error)]),
    };
    let server = Server::read(&client).await?;
    let mut found = of_server(&server, &source);
    if server.version < OLDEST {
        return Ok(found);
    }
    found.push(replication::of_senders(&client, &source, &server).await?);
    found.extend(replication::of_replication(&client, &here, &server).await);
    found.extend(server::of_minor(&server));
    found.extend(server::of_encoding(&server));
    found.extend(server::of_timeouts(&client, &server).await?);
    found.extend(schema::of_schema(&client, &source, &server).await?);
    found.extend(rights::of_create(&client, &source, &server).await?);
    found.extend(publications::of(&client, &source, &server).await?);
    found.extend(everything::of_all(&client, &source, &server).await?);
    found.extend(rights::of_shared(&client, &source).await?);
    found.extend(rights::of_schemas(&client, &source, &server).await?);
    let tables = candidates::read(&client, &source, server.version).await?;
    let mut unwritable = publications::of_writes(&client, &source, &server, &tables).await?;
    unwritable.extend(publications::of_withheld(&client, &source, &server, &tables).await?);
    found.extend(of_tables(&tables, &source, &server).into_iter().filter(|table| {
        // One line of each, the worse one.
        unwritable.iter().all(|worse| worse.name != table.name)
    }));
    found.extend(unwritable);
    found.extend(publications::of_exposed(&client, &source, &server).await?);
    let wanted = wanted(&tables, &source);
    found.extend(publications::of_truncates(&client, &source, &server, &tables, &wanted).await?);
    found.extend(large_values::of_large_values(&client, &wanted).await?);
    found.extend(identities::of_indexes(&client, &wanted).await?);
    found.extend(money::of_decimals(&client, &here, &wanted).await?);
    found.extend(partly_full::of_partitions(&client, &source, &server, &wanted).await?);
    found.extend(snapshots::of_rights(&client, &source, &server, &wanted).await?);
    found.extend(snapshots::of_connections(&client, &source).await?);
    found.extend(slots::of_slot(&client, &source, &server).await?);
    found.extend(standbys::of_standbys(&client, &source, &server).await?);
    found.extend(others::of_others(&client, &here, &source, &server).await);
    Ok(found)
}

fn unreachable(error: &Error) -> Requirement {
    requirement("connection", false, error.to_string(), error.remedy().map(str::to_owned))
}

fn of_server(server: &Server, source: &Source) -> Vec<Requirement> {
    let when = |needed: bool, remedy: String| needed.then_some(remedy);
    let role = identifier(&server.role);
    let new_enough = server.version >= OLDEST;
    let logical = server.wal_level == "logical";
    let mut found = vec![
        requirement("connection", true, source.info.redacted(), None),
        requirement(
            "version",
            new_enough,
            format!("Postgres {}", server.version_text),
            when(!new_enough, "Upgrade to Postgres 14 or newer".to_owned()),
        ),
        requirement(
            "wal_level",
            logical,
            server.wal_level.clone(),
            when(!logical, WAL_LEVEL_REMEDY.to_owned()),
        ),
        requirement(
            "replication right",
            server.replication,
            format!("user {role} {}", if server.replication { "may replicate" } else { "may not replicate" }),
            when(!server.replication, server.replication_remedy()),
        ),
    ];
    if !server.sends(source.origin) {
        found.push(requirement("origin", false, server.origins_found(), ORIGINS_REMEDY.to_owned()));
    }
    if source.manage && server.standby {
        let remedy = server.standby_remedy().to_owned();
        found.push(requirement("primary", false, "the server is a standby", remedy));
    }
    found.extend(advice(server));
    found
}

fn free(name: &str, usage: Usage, remedy: String) -> Requirement {
    let ok = usage.used < usage.limit;
    requirement(name, ok, format!("{} of {} in use", usage.used, usage.limit), (!ok).then_some(remedy))
}

/// What works and may still surprise.
fn advice(server: &Server) -> Vec<Requirement> {
    let mut found = Vec::new();
    let standbys = server.synchronous_standbys.trim();
    if standbys.contains('*') {
        let remedy = "Name the standbys in synchronous_standby_names: with * every commit may wait for rowcast's disk, and \
                      for ever while rowcast is away and no other standby is there";
        found.push(requirement("synchronous_standby_names", true, standbys, remedy.to_owned()));
    }
    let (text, remedy) = if server.slot_keep == "-1" {
        let remedy = "ALTER SYSTEM SET max_slot_wal_keep_size = '…' gives up the slot before the disk is full; \
                      without it the log grows for as long as rowcast is away";
        ("no limit".to_owned(), Some(remedy.to_owned()))
    } else {
        (server.slot_keep.clone(), None)
    };
    found.push(requirement("max_slot_wal_keep_size", true, text, remedy));
    found
}

/// All that is wanted, each through the topmost wanted table above it, as if none were listed yet.
fn wanted<'a>(tables: &'a [Table], source: &Source) -> Vec<&'a Table> {
    let unlisted: Vec<Table> = tables
        .iter()
        .map(|table| Table {
            in_all: false,
            in_inserts: false,
            owned: true,
            unusable: false,
            ..table.clone()
        })
        .collect();
    let plan = candidates::plan(&unlisted, &source.tables);
    let new: HashSet<u32> = plan.new.iter().map(|table| table.oid).collect();
    tables.iter().filter(|table| new.contains(&table.oid)).collect()
}

fn of_tables(tables: &[Table], source: &Source, server: &Server) -> Vec<Requirement> {
    let wanted = wanted(tables, source);
    let mut found = vec![requirement(
        "tables",
        !wanted.is_empty(),
        format!("{} to capture", wanted.len()),
        wanted.is_empty().then(|| "Check source.tables: no table matches it".to_owned()),
    )];
    let worth_naming: Vec<&Table> =
        wanted.into_iter().filter(|table| is_worth_naming(table, source)).collect();
    let named = worth_naming.iter().take(NAMED_TABLES);
    found.extend(named.map(|table| of_table(table, source, server)));
    found.extend(of_more(worth_naming.get(NAMED_TABLES..).unwrap_or_default(), source));
    found
}

/// Of those that are not named.
fn of_more(tables: &[&Table], source: &Source) -> Option<Requirement> {
    let missing = tables.iter().filter(|table| !listed_or_ours(table, source)).count();
    let told = if missing > 0 { format!(", {missing} of them in no publication") } else { String::new() };
    let found = format!("{} more like these{told}", tables.len());
    let remedy = (missing > 0).then(|| "The same for each of them as for those above".to_owned());
    (!tables.is_empty()).then(|| requirement("tables", missing == 0, found, remedy))
}

fn is_worth_naming(table: &Table, source: &Source) -> bool {
    !table.identified || !table.hidden.is_empty() || !listed_or_ours(table, source)
}

/// It is in a publication, or can be put into one.
fn listed_or_ours(table: &Table, source: &Source) -> bool {
    table.in_all || table.in_inserts || (source.manage && table.is_ours())
}

fn of_table(table: &Table, source: &Source, server: &Server) -> Requirement {
    let name = format!("table {}", table.channel());
    if !listed_or_ours(table, source) {
        let publication = if table.identified { &source.publication } else { &source.inserts };
        // Who cannot name it cannot take it out again.
        let first = if source.manage && table.unusable {
            unusable::remedy(&table.schema, server) + " "
        } else {
            String::new()
        };
        let by_hand = format!(
            "as superuser: {first}ALTER PUBLICATION {} ADD TABLE ONLY {};",
            identifier(publication),
            table.sql()
        );
        let remedy = if source.manage {
            let sql = foreign::remedy(table, server);
            let then = if table.superusers && !table.owned { "" } else { " Then rowcast adds it by itself;" };
            format!("{sql}{then} or, once the publication is there, {by_hand}")
        } else {
            format!("Once the publication is there, {by_hand}")
        };
        let why = if source.manage {
            foreign::why(table, server)
        } else {
            format!("it belongs to {}", identifier(&table.owner))
        };
        return requirement(&name, false, format!("in no publication, and {why}"), remedy);
    }
    if !table.hidden.is_empty() {
        let only = if table.identified { "" } else { "only inserts and truncates, and " };
        let found = format!("{only}no key: {} of its key is not published", table.hidden.join(", "));
        return requirement(&name, true, found, table.hidden_remedy());
    }
    let remedy = format!(
        "To capture updates and deletes too, add a primary key, or ALTER TABLE {} REPLICA IDENTITY FULL; (of a \
         partitioned table: each partition)",
        table.sql()
    );
    requirement(&name, true, "only inserts and truncates: it has no usable replica identity", remedy)
}

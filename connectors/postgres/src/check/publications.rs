//! The publications: who made them, what they do to the tables in them, and what looks after them.

use std::collections::HashSet;

use rowcast_engine::Result;
use rowcast_engine::schema::Schema;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::config::Source;
use crate::setup::candidates::Table;
use crate::setup::installation::{self, ADOPT};
use crate::setup::server::{GENERATED_COLUMNS, LISTED_COLUMNS, Server};
use crate::setup::trigger::{self, State};
use crate::setup::{captured, chosen, exposed, former, partitions, publications, published, slot};
use crate::tables::identifier;
use crate::wire::sql_error;

/// Tables whose UPDATE and DELETE the server refuses since a publication of ours contains them.
const UNWRITABLE: &str = "
select t.schemaname::text, t.tablename::text, t.pubname::text, $3 and exists (
           select from pg_attribute a
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''
             and a.attname <> all(array(select jsonb_array_elements_text(coalesce(LISTED, '[]'))))
             and (c.relreplident = 'f' or exists (
                 select from pg_index i where i.indrelid = c.oid and a.attnum = any(i.indkey)
                 and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end)))
from pg_publication p
join PUBLISHED t on t.pubname = p.pubname
join pg_namespace n on n.nspname = t.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
where p.pubname in ($1, $2) and (p.pubupdate or p.pubdelete)
order by 1, 2";

pub(super) async fn of(client: &Client, source: &Source, server: &Server) -> Result<Vec<Requirement>> {
    let existing = publications::existing(client, source).await?;
    let mut all = vec![of_main(client, source, server, &existing).await?];
    for (table, names) in publications::differing(client, source, server).await? {
        let found = format!("{table} has other columns in {} than in {}", source.inserts, source.publication);
        let remedy = format!(
            "The server cannot send its changes: ALTER PUBLICATION {} DROP TABLE {names};",
            identifier(&source.inserts)
        );
        all.push(requirement("column lists", false, found, remedy));
    }
    if source.manage || source.ddl {
        all.push(of_trigger(client, source, server).await?);
    }
    all.extend(of_forsaken(client, source, server).await?);
    all.extend(of_orphaned(client, source, server).await?);
    all.extend(of_partitions(client, source, server).await?);
    if let Some(partitions) = partitions::endangered(client, source, server).await? {
        let found = format!(
            "version 14 may garble rows of {partitions}, or crash: their columns stand in another order"
        );
        all.push(requirement("columns of partitions", true, found, partitions::ENDANGERED.to_owned()));
    }
    Ok(all)
}

/// Publications of our making that nobody looks after any more.
async fn of_forsaken(client: &Client, source: &Source, server: &Server) -> Result<Option<Requirement>> {
    // Who does not keep any cannot say of one that it is not read; nor can a standby say what reads the primary.
    if !source.manage || server.standby {
        return Ok(None);
    }
    let mut names = former::forsaken(client, &source.slot).await?;
    // Our own are read, though nothing may say so any more (the schema is gone).
    names.retain(|name| !source.publications().contains(&name.as_str()));
    let list = names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
    Ok((!names.is_empty()).then(|| {
        let found = format!("{list}: made by rowcast, and nobody looks after them any more. UPDATE and DELETE fail of a table in \
                             them that loses its key");
        let remedy = format!("Once the stream has gone on with {}: DROP PUBLICATION {list};", identifier(&source.publication));
        requirement("former publications", true, found, remedy)
    }))
}

/// Those that are kept for a slot that is gone.
async fn of_orphaned(client: &Client, source: &Source, server: &Server) -> Result<Vec<Requirement>> {
    // The slots here are not the primary's.
    if server.standby {
        return Ok(Vec::new());
    }
    let orphaned = former::orphaned(client, &source.slot).await?;
    let told = orphaned.into_iter().map(|(slot, name)| {
        let found = format!(
            "nothing reads it, since the slot {slot} is gone, and the event trigger goes on adding new tables to it"
        );
        requirement(&format!("publication {name}"), true, found, former::remedy(&slot))
    });
    Ok(told.collect())
}

/// Tables that were taken out since a column list or a row filter of theirs is gone.
pub(super) async fn of_withheld(
    client: &Client,
    source: &Source,
    server: &Server,
    tables: &[Table],
) -> Result<Vec<Requirement>> {
    let withheld = chosen::withheld(client, source, server, tables).await?;
    let told = withheld.into_iter().map(|(table, remedy)| {
        requirement(&format!("table {table}"), false, format!("not captured: {}", chosen::WHY), remedy)
    });
    Ok(told.collect())
}

/// Partitions that are to be left out, and are told through a table above them.
pub(super) async fn of_exposed(
    client: &Client,
    source: &Source,
    server: &Server,
) -> Result<Vec<Requirement>> {
    let exposed = exposed::read(client, source, server).await?;
    let told = exposed.into_iter().take(super::NAMED_TABLES).map(|one| {
        let found = format!("source.exclude does not leave it out: {}", one.found);
        requirement(&format!("table {}", one.channel), false, found, one.remedy)
    });
    Ok(told.collect())
}

/// What version 14 does not see, unless our event trigger works on publications of ours.
async fn of_partitions(client: &Client, source: &Source, server: &Server) -> Result<Option<Requirement>> {
    let Some(sql) = partitions::unseen(client, source, server).await? else { return Ok(None) };
    let publication = publications::read(client, server.version, &source.publication).await?;
    let kept = source.manage && publication.is_some_and(|there| there.ours);
    if kept && trigger::state(client, trigger::NAMES[0]).await?.fires() {
        return Ok(None);
    }
    let found = "version 14 does not see that a partition is attached or detached";
    let remedy = format!("Behind ATTACH PARTITION and DETACH PARTITION, in the same transaction: {sql}");
    Ok(Some(requirement("partitions", true, found, remedy)))
}

/// Partitioned tables that are told through their root: the server leaves out that one of their partitions was emptied.
pub(super) async fn of_truncates(
    client: &Client,
    source: &Source,
    server: &Server,
    tables: &[Table],
    wanted: &[&Table],
) -> Result<Option<Requirement>> {
    let publication = publications::read(client, server.version, &source.publication).await?;
    let theirs = publication.filter(|there| !(source.manage && there.ours));
    if !theirs.as_ref().map_or(source.via_partition_root, |there| there.via_root) {
        return Ok(None);
    }
    let above: HashSet<u32> = tables.iter().flat_map(|table| &table.ancestors).copied().collect();
    let trees: Vec<String> =
        wanted.iter().filter(|table| above.contains(&table.oid)).map(|table| table.channel()).collect();
    if trees.is_empty() {
        return Ok(None);
    }
    let found = format!(
        "of {} the server does not publish the TRUNCATE of a single partition: whoever follows keeps its rows",
        publications::named(trees.into_iter())
    );
    let option =
        if theirs.is_some() { ", with publish_via_partition_root = false of the publication" } else { "" };
    let remedy = format!(
        "Empty a partition by DELETE, or TRUNCATE the root, or have partitions told by their own names \
         (source.via_partition_root = false{option})"
    );
    Ok(Some(requirement("truncated partitions", true, found, remedy)))
}

async fn of_main(
    client: &Client,
    source: &Source,
    server: &Server,
    existing: &[String],
) -> Result<Requirement> {
    let name = &source.publication;
    let Some(publication) = publications::read(client, server.version, name).await? else {
        if installation::read(client, &source.slot).await?.is_some()
            && slot::observe(client, source).await?.slot.is_some()
        {
            let found = format!(
                "{name} does not exist, though the slot {} has been read: what has changed since it went is lost",
                source.slot
            );
            return Ok(requirement("publication", false, found, ADOPT.to_owned()));
        }
        let primary = if server.standby { "On the primary: " } else { "" };
        let sql = format!("{primary}{}", publications::create_remedy(client, source, server).await?);
        let remedy = if source.manage { format!("`rowcast run` makes it; by hand: {sql}") } else { sql };
        return Ok(requirement("publication", source.manage, format!("{name} does not exist"), remedy));
    };
    let tables = captured::tables(client, source, server.version).await?.len();
    let mut found = format!("{} with {tables} tables", existing.join(" and "));
    let mut remedy = None;
    if source.manage && !publication.ours {
        found.push_str(", made by somebody else: left as it is");
        let other = "If rowcast is to choose its tables: name another one (source.publication) before the first start";
        remedy = Some(other.to_owned());
    }
    if publication.via_root != source.via_partition_root && !(source.manage && publication.ours) {
        found.push_str(&format!(", publish_via_partition_root = {}", publication.via_root));
        remedy = Some(format!("Set source.via_partition_root = {}", publication.via_root));
    }
    Ok(requirement("publication", true, found, remedy))
}

/// Good to have. Without it a table is captured some seconds after it was created.
async fn of_trigger(client: &Client, source: &Source, server: &Server) -> Result<Requirement> {
    let (mut missing, mut older) = (Vec::new(), Vec::new());
    let (mut looked_after, mut absent) = (true, true);
    for name in trigger::wanted(source, true) {
        let before = missing.len();
        let state = trigger::state(client, name).await?;
        absent &= matches!(state, State::Missing | State::Works);
        match state {
            State::Works => {}
            State::Older => older.push(trigger::renewal(name)),
            State::Missing => missing.push((format!("{name} does not exist"), trigger::create(name))),
            State::Disabled => missing
                .push((format!("{name} is disabled"), format!("ALTER EVENT TRIGGER {name} ENABLE ALWAYS;"))),
            State::Foreign => {
                missing.push((format!("{name} is somebody else's"), format!("DROP EVENT TRIGGER {name};")));
            }
        }
        looked_after &= *name == trigger::TYPES || missing.len() == before;
    }
    if source.ddl && !source.manage && missing.is_empty() && !trigger::tells_ddl(client, source).await? {
        let found = "the triggers do not tell of definitions (source.ddl) for this slot";
        return Ok(requirement("event trigger", false, found, trigger::REGISTER_DDL.to_owned()));
    }
    if missing.is_empty() && !older.is_empty() {
        let found = "an older rowcast has made it: a key that goes with what is dropped, or in a session with \
                     session_replication_role = replica, may be missed for some seconds";
        let remedy =
            format!("`rowcast run` makes it anew where it may; else as superuser: {}", older.join(" "));
        return Ok(requirement("event trigger", true, found, remedy));
    }
    if missing.is_empty() {
        let found = "new tables are captured in the transaction that creates them";
        return Ok(requirement("event trigger", true, found, None));
    }
    let (what, sql): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    if absent && source.manage && server.superuser {
        let found = format!("{}; this role may make it", what.join(", "));
        return Ok(requirement(
            "event trigger",
            true,
            found,
            format!("`rowcast run` makes it ({})", trigger::TRUST),
        ));
    }
    let instead = if looked_after {
        "; changed labels and attributes of types are seen at the next connection"
    } else if source.manage {
        "; new tables are captured some seconds later, and until then the UPDATE and DELETE of a table that loses its \
         primary key fail"
    } else {
        ""
    };
    let remedy = if source.manage {
        let who = "`rowcast run` makes it where it may; else as superuser, once rowcast has run";
        format!("{who} ({}): {}", trigger::TRUST, sql.join(" "))
    } else {
        trigger::REGISTER_DDL.to_owned()
    };
    let sound = !source.ddl || source.manage || looked_after;
    Ok(requirement("event trigger", sound, format!("{}{instead}", what.join(", ")), remedy))
}

/// Tables whose own UPDATE and DELETE fail as it is now.
pub(super) async fn of_writes(
    client: &Client,
    source: &Source,
    server: &Server,
    tables: &[Table],
) -> Result<Vec<Requirement>> {
    let generated = server.version >= GENERATED_COLUMNS;
    let listed = if server.version >= LISTED_COLUMNS { "to_jsonb(t.attnames)" } else { "null::jsonb" };
    let sql = UNWRITABLE.replace("PUBLISHED", published::tables(server.version)).replace("LISTED", listed);
    let rows = client
        .query(&sql, &[&source.publication, &source.inserts, &generated])
        .await
        .map_err(|error| sql_error("Cannot look at the tables of the publications", error))?;
    let mut kept = Vec::new();
    for name in source.publications() {
        if source.manage
            && publications::read(client, server.version, name).await?.is_some_and(|there| there.ours)
        {
            kept.push(name);
        }
    }
    let mut all = Vec::new();
    for row in rows {
        let (schema, name, publication): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let table = tables.iter().find(|t| t.schema == schema && t.name == name && !t.identified);
        if let Some(table) = table.filter(|table| !table.would_fail()) {
            all.push(of_part(table, &publication));
            continue;
        }
        let unidentified = table.is_some();
        if !unidentified && !row.get::<_, bool>(3) {
            continue;
        }
        let found = format!(
            "its UPDATE and DELETE fail: publication {publication} publishes them, and {}",
            if unidentified {
                "it has no replica identity that does for what is published"
            } else {
                "its replica identity has generated columns that are not published"
            }
        );
        let remedy = of_unwritable(unidentified, &publication, kept.contains(&publication.as_str()));
        all.push(requirement(&format!("table {}", Schema::channel_of(&schema, &name)), false, found, remedy));
    }
    Ok(all)
}

/// What a start sets in a publication of ours it would set back.
fn of_unwritable(unidentified: bool, publication: &str, kept: bool) -> String {
    let publication = identifier(publication);
    match (unidentified, kept) {
        (true, true) => "`rowcast run` takes it out of there where it may; or add a primary key".to_owned(),
        (false, true) => format!(
            "`rowcast run` publishes them, unless it waits for a person (pg_upgrade); at once: ALTER PUBLICATION {publication} \
             SET (publish_generated_columns = stored);"
        ),
        (true, false) => {
            format!(
                "Add a primary key, or ALTER PUBLICATION {publication} SET (publish = 'insert, truncate');"
            )
        }
        (false, false) => format!(
            "ALTER PUBLICATION {publication} SET (publish_generated_columns = stored), or ALTER PUBLICATION {publication} \
             SET (publish = 'insert, truncate');"
        ),
    }
}

/// Its updates and deletes are published with a part of its key.
fn of_part(table: &Table, publication: &str) -> Requirement {
    let found = format!(
        "its updates and deletes do not tell which row they are about: publication {publication} does not publish {} of \
         its key",
        table.hidden.join(", ")
    );
    let remedy = format!(
        "{}; `rowcast run` moves tables of publications that it keeps",
        table.hidden_remedy().trim_end_matches(';')
    );
    requirement(&format!("table {}", table.channel()), false, found, remedy)
}

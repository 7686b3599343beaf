//! Keeps the two publications as they should be: one for all operations, one for inserts and truncates of the
//! tables whose UPDATE and DELETE would fail in the first.

use std::collections::{BTreeMap, BTreeSet};

use rowcast_engine::schema::Schema;
use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use super::adding;
use super::busy::{Busy, Pauses};
use super::candidates::{self, Plan, Table};
use super::chosen;
use super::foreign;
use super::former;
use super::loans;
use super::members;
use super::partitions;
use super::published;
use super::server::{GENERATED_COLUMNS, LISTED_COLUMNS, Server};
use super::trigger::{self, Attempt};
use crate::config::Source;
use crate::tables::{Tables, identifier, literal, qualified};
use crate::wire::sql_error;

/// The comment of a publication of our making. One without it is somebody else's decision, and left as it is.
pub(crate) const MARK: &str = "Made and kept by rowcast";

/// So many tables are named in a message.
const NAMED: usize = 5;

/// What a round has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Tables that are wanted and not ours to publish.
    pub(crate) foreign: Vec<Table>,
    /// Why no event trigger looks after the tables; `None` when one does, or was not looked for.
    pub(crate) no_trigger: Option<String>,
    /// A publication that somebody else made, so that all is left as it is.
    pub(crate) theirs: Option<String>,
    /// Neither the server nor an event trigger sees that a partition comes or goes: the SQL that makes up for it.
    pub(crate) blind: Option<String>,
    /// The options of a publication that was there were set right.
    pub(crate) altered: bool,
    /// Tables that are wanted and not captured: channel, and why, with the remedy.
    pub(crate) uncaptured: BTreeMap<String, String>,
    /// There is something to do that the next look may find done, or can do.
    pub(crate) unsettled: bool,
}

/// What is known of tables from the looks before.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Were captured, and are not: that they come back is told by whoever remembers them.
    pub(crate) left: BTreeSet<u32>,
    /// Could not be taken in yet.
    pub(crate) busy: Busy,
    /// Could not be given back yet what they had before they were lent FULL.
    pub(crate) lent: Pauses,
    /// Could not be lent FULL yet, since they or their publication are in use.
    pub(crate) unlent: Pauses,
    /// Are out until a person puts them back: why, by channel.
    pub(crate) withheld: BTreeMap<String, String>,
}

/// Whether changes are being captured already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// What is in the tables now is before the beginning.
    Absent,
    /// The rows of a table that is added are missing in the stream.
    Present,
}

/// A publication as it is.
#[derive(Debug)]
pub(crate) struct Publication {
    /// Its members are not listed one by one; they are somebody else's decision.
    wholesale: bool,
    /// It has our mark.
    pub(crate) ours: bool,
    pub(crate) via_root: bool,
    options: String,
}

impl Publication {
    /// Of our making, and showing trees as configured.
    pub(crate) fn is_kept(&self, source: &Source) -> bool {
        self.ours && !self.wholesale && self.via_root == source.via_partition_root
    }
}

/// Makes the publications what they should be.
///
/// # Errors
///
/// `Kind::Refused` without the rights for it, each with the SQL that gives them.
pub(crate) async fn reconcile(
    client: &mut Client,
    source: &Source,
    server: &Server,
    slot: Slot,
    attempt: Attempt,
    known: &mut Known,
) -> Result<Reconciled> {
    let (theirs, altered) = make(client, source, server).await?;
    if attempt == Attempt::Full {
        trigger::register(client, source, theirs.is_none()).await?;
        former::warn_of_forsaken(client, &source.slot).await?;
    }
    let no_trigger = trigger::ensure(client, source, theirs.is_none(), attempt).await?;
    // In a publication of somebody else's the trigger changes nothing.
    let blind = match &no_trigger {
        None if theirs.is_none() => None,
        _ => partitions::unseen(client, source, server).await?,
    };
    if theirs.is_some() {
        // Lent for the sake of publications that were ours. As long as one of those is there, it is needed.
        let unsettled = former::forsaken(client, &source.slot).await?.is_empty()
            && loans::repay(client, attempt, &mut known.lent).await?;
        return Ok(Reconciled { theirs, no_trigger, blind, altered, unsettled, ..Reconciled::default() });
    }
    let lent = loans::repay(client, attempt, &mut known.lent).await?;
    chosen::remember(client, source, server).await?;
    let tables = candidates::read(client, source, server.version).await?;
    let mut plan = candidates::plan(&tables, &source.tables);
    let withheld = chosen::withhold(client, source, server, &mut plan.new).await?;
    chosen::tell(&withheld, &known.withheld);
    known.withheld = withheld;
    if slot == Slot::Absent {
        foreign::refuse(&plan.foreign, server)?;
    }
    let mut uncaptured = foreign::uncaptured(&plan.foreign, server);
    let has_changed = altered || lent || !plan.is_empty();
    let Plan { new, moved, unwanted, foreign } = plan;
    match slot {
        Slot::Absent => {
            members::fill(client, source, Plan { new, moved, unwanted, ..Plan::default() }).await?
        }
        Slot::Present => {
            members::change(
                client,
                source,
                Plan { moved, unwanted, ..Plan::default() },
                attempt,
                &mut known.unlent,
            )
            .await?;
            adding::add(client, source, &new, known, attempt).await?;
        }
    }
    uncaptured.extend(known.busy.told());
    uncaptured.extend(known.withheld.clone());
    let unsettled = has_changed || !known.busy.is_empty();
    Ok(Reconciled { foreign, no_trigger, theirs: None, blind, altered, uncaptured, unsettled })
}

/// Creates the publications or sets their options. Gives the one that somebody else made, if there is one, and whether
/// options were others.
async fn make(client: &Client, source: &Source, server: &Server) -> Result<(Option<String>, bool)> {
    let mut altered = false;
    for (name, publish) in publishing(source) {
        let there = read(client, server.version, name).await?;
        if there.as_ref().is_some_and(|there| there.wholesale || !there.ours) {
            tracing::debug!(publication = name, "The publication is somebody else's: left as it is");
            return Ok((Some(name.to_owned()), altered));
        }
        altered |= ensure(client, source, server, name, publish, there).await?;
    }
    Ok((None, altered))
}

/// Name and operations of each publication.
fn publishing(source: &Source) -> [(&str, &'static str); 2] {
    [(&source.publication, "insert, update, delete, truncate"), (&source.inserts, "insert, truncate")]
}

fn options(source: &Source, version: u32, publish: &str) -> String {
    let generated = if version >= GENERATED_COLUMNS { ", publish_generated_columns = stored" } else { "" };
    let root = source.via_partition_root;
    format!("publish = '{publish}', publish_via_partition_root = {root}{generated}")
}

/// Creates the publication or sets its options. Gives whether it had others.
async fn ensure(
    client: &Client,
    source: &Source,
    server: &Server,
    name: &str,
    publish: &str,
    there: Option<Publication>,
) -> Result<bool> {
    let options = options(source, server.version, publish);
    let quoted = identifier(name);
    let mark = format!("comment on publication {quoted} is {};", literal(MARK));
    let altered = there.as_ref().is_some_and(|there| there.options != options);
    let sql = match there {
        Some(there) if !altered && there.ours => return Ok(false),
        Some(_) if !altered => mark,
        Some(there) => {
            let was = there.options;
            tracing::warn!(
                publication = name,
                was,
                "Sets the publication's options to what they have to be: {options}"
            );
            format!("alter publication {quoted} set ({options}); {mark}")
        }
        None if !server.may_create => {
            let (role, database) = (identifier(&server.role), identifier(&server.database));
            let what = format!("User {role} may not create a publication in database {database}");
            return Err(Error::refused(what).hint(server.create_remedy()));
        }
        None => {
            tracing::info!(publication = name, "Creates the publication");
            format!("create publication {quoted} with ({options}); {mark}")
        }
    };
    let failed = |error| sql_error(format!("Cannot create or change the publication {name}"), error);
    client.batch_execute(&sql).await.map_err(failed)?;
    Ok(altered)
}

/// The publication, its options in the form of [`options`].
pub(crate) async fn read(client: &Client, version: u32, name: &str) -> Result<Option<Publication>> {
    let schemas = if version >= LISTED_COLUMNS {
        "exists (select from pg_publication_namespace n where n.pnpubid = p.oid)"
    } else {
        "false"
    };
    let sql = format!(
        "select p.puballtables or {schemas},
                concat_ws(', ', case when p.pubinsert then 'insert' end, case when p.pubupdate then 'update' end,
                          case when p.pubdelete then 'delete' end, case when p.pubtruncate then 'truncate' end),
                p.pubviaroot,
                coalesce(to_jsonb(p) ->> 'pubgencols', ''),
                coalesce(starts_with(obj_description(p.oid, 'pg_publication'), '{MARK}'), false)
         from pg_publication p where p.pubname = $1"
    );
    let failed = |error| sql_error(format!("Cannot read the publication {name}"), error);
    let Some(row) = client.query_opt(&sql, &[&name]).await.map_err(failed)? else { return Ok(None) };
    let (publish, root, generated): (String, bool, String) = (row.get(1), row.get(2), row.get(3));
    let generated = match generated.as_str() {
        "s" => ", publish_generated_columns = stored",
        _ if version >= GENERATED_COLUMNS => ", publish_generated_columns = none",
        _ => "",
    };
    let options = format!("publish = '{publish}', publish_via_partition_root = {root}{generated}");
    Ok(Some(Publication { wholesale: row.get(0), ours: row.get(4), via_root: root, options }))
}

/// None of the two is somebody else's, as far as they are there.
pub(crate) async fn are_ours(client: &Client, source: &Source, version: u32) -> Result<bool> {
    for name in source.publications() {
        if read(client, version, name).await?.is_some_and(|there| there.wholesale || !there.ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses tables that are not ours to publish before a first start has made anything. A publication that was there before
/// is looked at in its turn.
pub(super) async fn refuse_first(client: &Client, source: &Source, server: &Server) -> Result<()> {
    if !are_ours(client, source, server.version).await? {
        return Ok(());
    }
    let tables = candidates::read(client, source, server.version).await?;
    foreign::refuse(&candidates::plan(&tables, &source.tables).foreign, server)
}

/// Tables for people, not all of very many.
pub(crate) fn listed(tables: &[Table]) -> String {
    named(tables.iter().map(Table::channel))
}

/// The first of them, and how many more there are.
pub(crate) fn named(tables: impl ExactSizeIterator<Item = String>) -> String {
    let more = tables.len().saturating_sub(NAMED);
    let names = tables.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { names } else { format!("{names} and {more} more tables") }
}

/// Tables that the two publications show with different columns, as channel and for SQL: what is written to them
/// cannot be decoded.
pub(crate) async fn differing(
    client: &Client,
    source: &Source,
    server: &Server,
) -> Result<Vec<(String, String)>> {
    if server.version < LISTED_COLUMNS {
        return Ok(Vec::new());
    }
    let sql = format!(
        "select schemaname::text, tablename::text from {} t where pubname in ($1, $2)
         group by 1, 2 having count(distinct attnames) > 1 order by 1, 2",
        published::tables(server.version)
    );
    let rows = client
        .query(&sql, &[&source.publication, &source.inserts])
        .await
        .map_err(|error| sql_error("Cannot compare the columns of the publications", error))?;
    let names = |row: &tokio_postgres::Row| {
        let (schema, name): (&str, &str) = (row.get(0), row.get(1));
        (Schema::channel_of(schema, name), qualified(schema, name))
    };
    Ok(rows.iter().map(names).collect())
}

/// Those of our two publications that exist. The stream may name no other.
pub(crate) async fn existing(client: &Client, source: &Source) -> Result<Vec<String>> {
    let sql = "select pubname::text from pg_publication where pubname in ($1, $2) order by length(pubname)";
    let rows = client
        .query(sql, &[&source.publication, &source.inserts])
        .await
        .map_err(|error| sql_error("Cannot list the publications", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Which of the tables that the stream tells are to be taken in. Partitions that are told one by one are wanted because
/// of the tables above them, and the catalog knows only what is above them now: it may not show yet that one was
/// attached, or show no more that it was. What a publication of ours tells is wanted without that.
pub(crate) async fn taken(client: &Client, source: &Source, version: u32) -> Result<Tables> {
    if !source.manage || source.via_partition_root {
        return Ok(source.tables.clone());
    }
    let there = read(client, version, &source.publication).await?;
    let kept = there.is_some_and(|there| there.ours && !there.wholesale);
    Ok(if kept { source.tables.all_but_excluded() } else { source.tables.clone() })
}

/// The SQL that makes the publications by hand.
pub(crate) async fn create_remedy(client: &Client, source: &Source, server: &Server) -> Result<String> {
    let tables = candidates::read(client, source, server.version).await?;
    let unlisted: Vec<Table> =
        tables.into_iter().map(|table| Table { in_all: false, in_inserts: false, ..table }).collect();
    let Plan { new, foreign, .. } = candidates::plan(&unlisted, &source.tables);
    let existing = existing(client, source).await?;
    let mut sql = String::new();
    for (name, publish) in publishing(source) {
        let all = name == source.publication;
        let members = new.iter().chain(&foreign).filter(|table| table.identified == all);
        let members: Vec<String> = members.map(|table| format!("ONLY {}", table.sql())).collect();
        if existing.iter().any(|there| there == name) || (members.is_empty() && !all) {
            continue;
        }
        let list =
            if members.is_empty() { String::new() } else { format!(" FOR TABLE {}", members.join(", ")) };
        let options = options(source, server.version, publish);
        sql.push_str(&format!("CREATE PUBLICATION {}{list} WITH ({options}); ", identifier(name)));
    }
    Ok(sql.trim_end().to_owned())
}

//! What our publications publish, so that it can be compared with what they did before: their operations, and by which
//! membership each table is in them. A membership is never altered: other columns, another filter, or leaving and coming
//! back give it another OID.

use std::collections::BTreeMap;

use rowcast_engine::schema::Schema;
use rowcast_engine::status::Captured;
use rowcast_engine::{Lsn, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::captured;
use super::published::BY_SCHEMA;
use crate::config::Source;
use crate::snapshot::lsn_of;
use crate::wire::sql_error;

/// A publication's name, and the OID of what makes a table a part of it: `pg_publication_rel`'s,
/// `pg_publication_namespace`'s, or its own where it is for all tables.
pub(crate) type Membership = (String, u32);

/// What one moment showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) publications: BTreeMap<String, Options>,
    /// The captured ones, by their OID.
    pub(crate) tables: BTreeMap<u32, Place>,
    /// The captured ones as the status shows them.
    pub(crate) captured: BTreeMap<String, Captured>,
    /// All that it shows had been committed here.
    pub(crate) at: Lsn,
}

/// How a publication is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) oid: u32,
    pub(crate) owner: u32,
    /// `insert, update, delete, truncate`, or less.
    pub(crate) operations: Vec<String>,
    /// Which transaction has altered it last; none where rowcast's own trigger may have, to what it was.
    pub(crate) altered: Option<String>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) members: Vec<Membership>,
}

impl Place {
    pub(crate) fn channel(&self) -> String {
        Schema::channel_of(&self.schema, &self.name)
    }
}

/// `$3`: version 14's trigger takes the root of a tree out and puts it back whenever its partitions change (migration V8):
/// then it is known by its own OID.
const OPTIONS: &str = "
select pubname::text as name, oid, pubowner as owner,
       array_remove(array[case when pubinsert then 'insert' end, case when pubupdate then 'update' end,
                          case when pubdelete then 'delete' end, case when pubtruncate then 'truncate' end], null)
           as operations,
       case when not $3 then xmin::text end as altered
from pg_publication where pubname in ($1, $2)";

const TABLES: &str = "
with recursive members as (
    select p.pubname::text as name, r.prrelid as relation,
           case when $3 and c.relkind = 'p' then r.prrelid else r.oid end as member
    from pg_publication p join pg_publication_rel r on r.prpubid = p.oid join pg_class c on c.oid = r.prrelid
    where p.pubname in ($1, $2)
    SCHEMAS
    union all
    select p.pubname::text, c.oid, p.oid from pg_publication p cross join pg_class c
    where p.pubname in ($1, $2) and p.puballtables and c.relkind in ('r', 'p') and c.relpersistence = 'p'
), parts as (
    select m.relation, m.name, m.member from members m
    union
    select i.inhrelid, p.name, p.member
    from parts p join pg_inherits i on i.inhparent = p.relation join pg_class c on c.oid = i.inhrelid
    where c.relispartition
)
select p.relation, n.nspname::text as schema, c.relname::text as table, array_agg(p.name) as names,
       array_agg(p.member) as members
from parts p join pg_class c on c.oid = p.relation join pg_namespace n on n.oid = c.relnamespace
group by 1, 2, 3";

const SCHEMAS: &str = "union all
    select p.pubname::text, c.oid, s.oid
    from pg_publication p join pg_publication_namespace s on s.pnpubid = p.oid join pg_class c on c.relnamespace = s.pnnspid
    where p.pubname in ($1, $2) and c.relkind in ('r', 'p') and c.relpersistence = 'p'";

/// What is visible may not be written yet, where commits are not waited for.
const POSITION: &str = "
select coalesce(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end, '0/0')::text";

/// Looks. The tables are those that are captured.
///
/// # Errors
///
/// When the server cannot be asked.
pub(crate) async fn read(client: &mut Client, source: &Source, version: u32) -> Result<Contents> {
    let failed = |error| sql_error("Cannot read what the publications publish", error);
    // What the status shows must be in what is noted, so that is looked at first: what comes between is looked at again.
    let captured = captured::tables(client, source, version).await?;
    // One moment for both questions.
    let moment = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let moment = moment.read_only(true).start().await.map_err(failed)?;
    let (all, inserts, old) = (&source.publication, &source.inserts, version < BY_SCHEMA);
    let publications = moment.query(OPTIONS, &[all, inserts, &old]).await.map_err(failed)?;
    let sql = TABLES.replace("SCHEMAS", if old { "" } else { SCHEMAS });
    let tables = moment.query(&sql, &[all, inserts, &old]).await.map_err(failed)?;
    moment.commit().await.map_err(failed)?;
    let position: String = client.query_one(POSITION, &[]).await.map_err(failed)?.get(0);
    let tables = tables.iter().map(place).filter(|(_, place)| captured.contains_key(&place.channel()));
    Ok(Contents {
        publications: publications.iter().map(options).collect(),
        tables: tables.collect(),
        captured,
        at: lsn_of(&position)?,
    })
}

fn options(row: &Row) -> (String, Options) {
    let (oid, owner) = (row.get("oid"), row.get("owner"));
    let (operations, altered) = (row.get("operations"), row.get("altered"));
    (row.get("name"), Options { oid, owner, operations, altered })
}

fn place(row: &Row) -> (u32, Place) {
    let (names, members): (Vec<String>, Vec<u32>) = (row.get("names"), row.get("members"));
    let mut members: Vec<Membership> = names.into_iter().zip(members).collect();
    members.sort_unstable();
    (row.get("relation"), Place { schema: row.get("schema"), name: row.get("table"), members })
}

/// Those of these tables that are still there.
///
/// # Errors
///
/// When the server cannot be asked.
pub(crate) async fn existing(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, String>> {
    let sql = "select c.oid, n.nspname::text, c.relname::text
               from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1)";
    let rows = client.query(sql, &[&tables]).await;
    let rows = rows.map_err(|error| sql_error("Cannot look for tables that are captured no more", error))?;
    Ok(rows.iter().map(|row| (row.get(0), Schema::channel_of(row.get(1), row.get(2)))).collect())
}

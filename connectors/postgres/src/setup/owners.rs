//! Whose what is in schema `rowcast` is. The event triggers' functions run as their owner, and what they call is nobody's but
//! its own owner's: where there are several, they fail whenever a table changes.

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use super::migrations;
use super::server::Server;
use crate::tables::shown;
use crate::wire::sql_error;

/// What is in it, and itself: as ALTER and GRANT name it, its owner, and its rights.
pub(crate) const THINGS: &str = "
select 'SCHEMA' as kind, 'rowcast' as name, n.nspowner as owner, coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl,
       array['USAGE'] as everybodys
from pg_namespace n where n.nspname = 'rowcast'
union all
select case c.relkind when 'v' then 'VIEW' else 'TABLE' end, c.oid::regclass::text, c.relowner,
       coalesce(c.relacl, acldefault('r', c.relowner)), '{}'
from pg_class c where c.relnamespace = to_regnamespace('rowcast') and c.relkind in ('r', 'v')
union all
select 'FUNCTION', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)),
       case when p.proname in ('publish', 'emit') then array['EXECUTE'] else '{}' end
from pg_proc p where p.pronamespace = to_regnamespace('rowcast')";

/// The owner of what was made first: it may make and replace the rest.
const OWNER: &str = "select pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE')
                     from pg_class c where c.relnamespace = to_regnamespace('rowcast') and c.relname = 'installation'";

/// Applications whose tables change hold what the event trigger reads.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '5s'";

/// SQLSTATEs of somebody who holds what is to be altered: no lock in time, deadlock.
const LOCKED: [&str; 2] = ["55P03", "40P01"];

/// A thing that belongs to another role than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misplaced {
    kind: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    /// Our role has its owner's rights.
    pub(crate) ours: bool,
}

/// Who should own all that the migrations make, and what of it somebody else owns; the schema itself may be anybody's whose rights we have.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    pub(crate) keeper: String,
    pub(crate) misplaced: Vec<Misplaced>,
}

impl Owners {
    pub(crate) async fn read(client: &Client, server: &Server) -> Result<Self> {
        let failed = |error| sql_error("Cannot see whose the schema rowcast is", error);
        let owner = client.query_opt(OWNER, &[]).await.map_err(failed)?;
        let ours = owner.filter(|row| row.get(1));
        let keeper = ours.map_or_else(|| server.role.clone(), |row| row.get(0));
        let sql = format!(
            "select kind, name, pg_get_userbyid(owner)::text, pg_has_role(owner, 'USAGE') from ({THINGS}) t
             where case kind when 'SCHEMA'
                             then not pg_has_role(owner, 'USAGE') or not has_schema_privilege($1::text::name, 'rowcast', 'CREATE')
                             else pg_get_userbyid(owner) <> $1::text end
             order by kind = 'SCHEMA' desc, 1, 2"
        );
        let rows = client.query(&sql, &[&keeper]).await.map_err(failed)?;
        let misplaced = rows
            .iter()
            .map(|row| Misplaced { kind: row.get(0), name: row.get(1), owner: row.get(2), ours: row.get(3) })
            .filter(|thing| thing.kind == "SCHEMA" || migrations::makes(&thing.name))
            .collect();
        Ok(Self { keeper, misplaced })
    }

    /// The SQL that gives all of it to one role.
    pub(crate) fn remedy(&self) -> String {
        let keeper = shown(&self.keeper);
        let alter = |thing: &Misplaced| format!("ALTER {} {} OWNER TO {keeper};", thing.kind, thing.name);
        self.misplaced.iter().map(alter).collect::<Vec<_>>().join(" ")
    }
}

/// The role that owns what is in the schema, if it is not ours.
pub(super) async fn other(client: &Client, server: &Server) -> Result<Option<String>> {
    let row = client.query_opt(OWNER, &[]).await;
    let row = row.map_err(|error| sql_error("Cannot see whose the schema rowcast is", error))?;
    Ok(row.map(|row| row.get::<_, String>(0)).filter(|owner| *owner != server.role))
}

/// Gives all of it to one role, where we may; else says how. `pending`: that role is about to replace some of it.
///
/// # Errors
///
/// When it cannot be done for the moment, and has to be done before.
pub(super) async fn unite(client: &mut Client, server: &Server, pending: bool) -> Result<()> {
    let owners = Owners::read(client, server).await?;
    if owners.misplaced.is_empty() {
        return Ok(());
    }
    let sql = owners.remedy();
    let why = if owners.misplaced.iter().all(|thing| thing.ours) {
        match alter(client, &sql).await {
            Ok(()) => {
                let (owner, things) = (owners.keeper, owners.misplaced.len());
                tracing::warn!(
                    owner,
                    things,
                    "Parts of the schema rowcast belonged to other roles: given to one"
                );
                return Ok(());
            }
            Err(error) if pending && error.code().is_some_and(|code| LOCKED.contains(&code.code())) => {
                return Err(sql_error(
                    "Cannot give all parts of the schema rowcast to one role now, before they are brought up to date",
                    error,
                ));
            }
            Err(error) => sql_error("they cannot be given to one now", error).to_string(),
        }
    } else {
        "only a superuser can give them to one".to_owned()
    };
    if client.is_closed() {
        return Err(Error::transient(
            "The connection to Postgres broke while the schema rowcast was looked at",
        ));
    }
    tracing::warn!(
        hint = format!("As superuser: {sql}"),
        "Parts of the schema rowcast belong to several roles, so that what looks after the tables in the transaction that \
         changes them may fail: {why}"
    );
    Ok(())
}

async fn alter(client: &mut Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    transaction.batch_execute(sql).await?;
    transaction.commit().await
}

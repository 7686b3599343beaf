//! Takes away what rowcast made in the source, and nothing else.
//!
//! What is ours is known by its mark: the slot by its row in `rowcast.installation`, a publication by its comment. The
//! schema and the event triggers serve every rowcast on the database and go with the last one.

mod schema;

use std::collections::HashSet;

use rowcast_engine::{Error, Kind, Result};
use serde::Serialize;
use tokio_postgres::Client;

use crate::config::{Config, Source};
use crate::setup::publications;
use crate::setup::server::Server;
use crate::setup::{former, shared, slot, trigger};
use crate::tables::identifier;
use crate::wire::{answering_client, sql_error};
use schema::Schema;

/// What rowcast keeps waits for nobody for long, and nobody for it.
const LOCK_TIMEOUT: &str = "set lock_timeout = '10s'";

/// One thing of ours, or one that is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// What it is: `publication rowcast`.
    pub name: String,
    /// The SQL that removes it; `None` when it stays.
    pub sql: Option<String>,
    /// Why it stays.
    pub stays: Option<String>,
    /// Why it could not be removed.
    pub failed: Option<String>,
}

impl Removal {
    fn goes(name: String, sql: String) -> Self {
        Self { name, sql: Some(sql), stays: None, failed: None }
    }

    fn stays(name: String, why: impl Into<String>) -> Self {
        Self { name, sql: None, stays: Some(why.into()), failed: None }
    }

    /// It is left to a person, who has to do something about it.
    fn left(name: String, why: impl Into<String>) -> Self {
        Self { name, sql: None, stays: None, failed: Some(why.into()) }
    }
}

/// What there is, in the order in which it goes.
struct Listed {
    /// What cannot be removed is an error: somebody has begun to read it.
    slot: Option<Removal>,
    /// What is known of them stands in the schema.
    loans: Vec<Removal>,
    rest: Vec<Removal>,
    schema: Vec<Removal>,
}

/// Lists what is there, and with `really` removes it, in an order in which a break leaves the rest to be removed by
/// another call. What cannot be removed is passed by, and told.
///
/// # Errors
///
/// `Kind::Refused` while somebody reads the slot; `Kind::Usage` for a wrong configuration; others when the database
/// cannot be reached, or does not give the slot.
pub async fn uninstall(config: &Config, really: bool) -> Result<Vec<Removal>> {
    let source = Source::new(config)?;
    if !source.manage {
        return Err(Error::usage("With source.manage = false rowcast has made nothing")
            .hint("Remove what you made: the replication slot first, then the publications"));
    }
    let client = answering_client(&source.info).await?;
    let server = Server::read(&client).await?;
    let mut listed = list(&client, &source, &server).await?;
    if really {
        listed.remove(&client).await?;
    }
    let Listed { slot, loans, rest, schema } = listed;
    Ok(slot.into_iter().chain(loans).chain(rest).chain(schema).collect())
}

impl Listed {
    async fn remove(&mut self, client: &Client) -> Result<()> {
        client.batch_execute(LOCK_TIMEOUT).await.map_err(|error| sql_error("Cannot begin", error))?;
        if let Some(removal) = &self.slot {
            removal.execute(client).await?;
        }
        for removal in self.loans.iter_mut().chain(&mut self.rest) {
            removal.attempt(client).await?;
        }
        let owed = self.loans.iter().find(|removal| removal.failed.is_some());
        let owed = owed.map(|removal| format!("{} is to go first", removal.name));
        for removal in self.schema.iter_mut().filter(|removal| removal.sql.is_some()) {
            match &owed {
                Some(owed) => removal.failed = Some(owed.clone()),
                None => removal.attempt(client).await?,
            }
        }
        Ok(())
    }
}

impl Removal {
    async fn execute(&self, client: &Client) -> Result<()> {
        let Some(sql) = &self.sql else { return Ok(()) };
        let failed = |error| sql_error(format!("Cannot remove {}", self.name), error);
        client.batch_execute(sql).await.map_err(failed)
    }

    /// The same, and what goes wrong is noted.
    async fn attempt(&mut self, client: &Client) -> Result<()> {
        match self.execute(client).await {
            Err(error) if client.is_closed() => return Err(error),
            Err(error) => self.failed = Some(error.to_string()),
            Ok(()) => {}
        }
        Ok(())
    }
}

async fn list(client: &Client, source: &Source, server: &Server) -> Result<Listed> {
    let schema = Schema::read(client, &source.slot).await?;
    let slot = of_slot(client, source, server, &schema).await?;
    let loans = of_loans(client, &schema).await?;
    let triggers = of_triggers(client, &schema).await?;
    // Before the publications, which they would fill again.
    let mut rest = triggers.removals;
    rest.extend(of_publications(client, source, server).await?);
    let mut last = schema.removals(source, &triggers.with_schema);
    if schema.goes() {
        last.extend(schema::callers(client).await?);
    }
    Ok(Listed { slot, loans, rest, schema: last })
}

/// Those of the configuration, those that the slot has in `rowcast.capture` (maybe of an earlier configuration), those of our
/// making that nobody there says to read, and those of slots that are gone.
async fn of_publications(client: &Client, source: &Source, server: &Server) -> Result<Vec<Removal>> {
    let others = shared::others(client, &source.slot).await?;
    let mut names = source.publications().map(str::to_owned).to_vec();
    names.extend(former::registered(client, &source.slot).await?);
    names.extend(former::forsaken(client, &source.slot).await?);
    let orphaned = former::orphaned(client, &source.slot).await?;
    names.extend(orphaned.iter().map(|(_, name)| name.clone()));
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for name in names {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(publication) = publications::read(client, server.version, &name).await? else { continue };
        let other = others.iter().find(|(_, shared)| *shared == name);
        let gone = orphaned.iter().find(|(_, left)| *left == name);
        let (title, name) = (format!("publication {name}"), identifier(&name));
        all.push(match other {
            _ if !publication.ours => Removal::stays(title, "somebody else made it"),
            Some((slot, _)) => {
                Removal::stays(title, format!("another rowcast captures with it, on slot {slot}"))
            }
            None if let Some((slot, _)) = gone => Removal::left(title, schema::of_gone(slot)),
            None => Removal::goes(title, format!("DROP PUBLICATION {name};")),
        });
    }
    if all.iter().any(|removal| removal.sql.is_some()) {
        let readers = former::other_readers(client, &source.slot).await?;
        let why = "it is not rowcast's; if it reads one of the publications that go, whoever has it ends";
        all.extend(readers.iter().map(|slot| Removal::stays(format!("replication slot {slot}"), why)));
    }
    Ok(all)
}

/// The slot. While it is read, rowcast runs on it.
async fn of_slot(
    client: &Client,
    source: &Source,
    server: &Server,
    schema: &Schema,
) -> Result<Option<Removal>> {
    let name = &source.slot;
    let Some(found) = slot::read(client, name).await? else { return Ok(None) };
    let title = format!("replication slot {name}");
    if let Some(other) = found.database.as_ref().filter(|database| **database != server.database) {
        // This one may be a copy of that, with all that rowcast has made there.
        return Ok(Some(Removal::stays(title, format!("it belongs to database {}", identifier(other)))));
    }
    if found.is_copy(server) {
        return found.fit(source, server).map(|()| None);
    }
    if found.active {
        let holder = slot::holder(client, name).await?.unwrap_or_else(|| "a session".to_owned());
        return Err(Error::refused(format!("The replication slot {name} is being read by {holder}"))
            .hint("Stop that rowcast first; nothing has been removed"));
    }
    if schema.is_known && !schema.ours {
        return Ok(Some(Removal::stays(title, "it is not in rowcast.installation, somebody else made it")));
    }
    match found.fit(source, server) {
        Ok(()) if schema.ours => Ok(Some(Removal::goes(title, slot::drop_sql(name)))),
        // Its row went with the schema.
        Ok(()) => {
            let why = format!(
                "whose it is cannot be known any more, since the table rowcast.installation is gone. It keeps the server's \
                 log: if it was rowcast's, {}",
                slot::drop_sql(name)
            );
            Ok(Some(Removal::left(title, why)))
        }
        Err(error) if error.kind() == Kind::Refused => Ok(Some(Removal::stays(title, error.to_string()))),
        Err(error) => Err(error),
    }
}

/// Replica identities that tables were lent for a while.
async fn of_loans(client: &Client, schema: &Schema) -> Result<Vec<Removal>> {
    let failed = |error| sql_error("Cannot look for replica identities that were lent", error);
    let there = "select to_regclass('rowcast.lent') is not null";
    if !schema.exists || !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let sql = "select relation, relation::regclass::text from rowcast.lent order by 1";
    let rows = client.query(sql, &[]).await.map_err(failed)?;
    let goes = |row: &tokio_postgres::Row| {
        let (relation, name): (u32, String) = (row.get(0), row.get(1));
        Removal::goes(
            format!("REPLICA IDENTITY FULL of {name}"),
            format!("SELECT rowcast.repay({relation});"),
        )
    };
    Ok(rows.iter().map(goes).collect())
}

/// Event triggers, which call functions in the schema.
#[derive(Default)]
struct Triggers {
    removals: Vec<Removal>,
    /// A superuser has made them: only the schema's owner takes them away, with the schema.
    with_schema: Vec<String>,
}

async fn of_triggers(client: &Client, schema: &Schema) -> Result<Triggers> {
    let mut all = Triggers::default();
    for name in trigger::NAMES {
        let title = format!("event trigger {name}");
        match trigger::state(client, name).await? {
            trigger::State::Missing | trigger::State::Foreign => continue,
            _ if schema.is_shared() => {
                all.removals.push(schema.keeps(title));
                continue;
            }
            _ => {}
        }
        let sql = format!("DROP EVENT TRIGGER {name};");
        match foreign_owner(client, name).await? {
            None => all.removals.push(Removal::goes(title, sql)),
            Some(_) if schema.goes() => all.with_schema.push(name.to_owned()),
            Some(owner) => {
                let why =
                    format!("it belongs to {}. As that role, or as superuser: {sql}", identifier(&owner));
                all.removals.push(Removal::stays(title, why));
            }
        }
    }
    Ok(all)
}

/// Whose an event trigger is that our role may not drop.
async fn foreign_owner(client: &Client, name: &str) -> Result<Option<String>> {
    let sql = "select pg_get_userbyid(evtowner)::text from pg_event_trigger
               where evtname = $1 and not pg_has_role(evtowner, 'USAGE')";
    let row = client.query_opt(sql, &[&name]).await;
    let row = row.map_err(|error| sql_error("Cannot see whose the event trigger is", error))?;
    Ok(row.map(|row| row.get(0)))
}

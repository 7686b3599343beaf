//! Somebody else's publications FOR ALL TABLES: they publish rowcast's own tables, too. A subscription ends at the first row
//! of a table that it does not have, for good, and its slot keeps the log.

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use super::server::Server;
use crate::config::Source;
use crate::tables::shown;
use crate::wire::sql_error;

const ALL_TABLES: &str = "
select p.pubname::text from pg_publication p
where p.puballtables and (p.pubinsert or p.pubupdate or p.pubdelete) order by 1";

/// Any of them may read any publication. A temporary one goes with its session.
const READERS: &str = "
select s.slot_name::text from pg_replication_slots s
where s.database = current_database() and s.plugin = 'pgoutput' and s.slot_name <> $1 and not s.temporary and NOT_OURS
order by 1";

/// The slot of another rowcast reads that one's publications alone.
const NOT_OURS: &str = "not exists (select from rowcast.capture k where k.slot = s.slot_name)";

/// What there is of it.
#[derive(Debug)]
pub(crate) struct Everything {
    publications: Vec<String>,
    /// Slots of others that may read them.
    readers: Vec<String>,
    /// Ours.
    role: String,
    /// Schema `rowcast` is there: what is to come to the subscriptions has come, or somebody has said that it may.
    pub(crate) made: bool,
}

impl Everything {
    /// None where nothing publishes all tables, but for what is to be captured with and nobody else reads.
    pub(crate) async fn read(client: &Client, source: &Source, server: &Server) -> Result<Option<Self>> {
        let failed = |error| sql_error("Cannot look for publications of all tables", error);
        let rows = client.query(ALL_TABLES, &[]).await.map_err(failed)?;
        let mut publications: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if publications.is_empty() {
            return Ok(None);
        }
        let known = super::may_read(client, "capture").await.map_err(failed)?;
        let sql = READERS.replace("NOT_OURS", if known { NOT_OURS } else { "true" });
        let rows = client.query(&sql, &[&source.slot]).await.map_err(failed)?;
        let readers: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if readers.is_empty() {
            publications.retain(|name| !source.publications().contains(&name.as_str()));
        }
        let row =
            client.query_one("select to_regnamespace('rowcast') is not null", &[]).await.map_err(failed)?;
        let (role, made) = (shown(&server.role), row.get(0));
        Ok((!publications.is_empty()).then_some(Self { publications, readers, role, made }))
    }

    /// A first start is refused.
    pub(crate) fn hinders(&self) -> bool {
        !self.made && !self.readers.is_empty()
    }

    pub(crate) fn found(&self) -> String {
        let names = |names: &[String]| names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
        let readers = if self.readers.is_empty() {
            String::new()
        } else {
            format!(", which slot {} may read", names(&self.readers))
        };
        format!(
            "{} FOR ALL TABLES{readers}: rows of rowcast's own tables would be published, a key among them, and a \
             subscription stops for good at the first row of a table that it does not have",
            names(&self.publications)
        )
    }

    pub(crate) fn remedy(&self) -> String {
        let copied = "pg_dump --schema-only --schema=rowcast SOURCE | psql SUBSCRIBER";
        let meant = if self.made {
            format!(
                "a subscription that has stopped goes on when its database has rowcast's tables, which a new version may \
                 add to: {copied}"
            )
        } else {
            format!(
                "if it is meant (Debezium, say, passes such rows on), say so: CREATE SCHEMA rowcast AUTHORIZATION {}; and as \
                 soon as rowcast has started, give each subscriber's database the tables, without which it stops: {copied}",
                self.role
            )
        };
        format!(
            "Have it name its tables, or from version 15 on its schemas: CREATE PUBLICATION … FOR TABLES IN SCHEMA …; and \
             ALTER SUBSCRIPTION … SET PUBLICATION …; or {meant}; or have rowcast make nothing: source.manage = false"
        )
    }
}

/// Refuses a first start that would stop somebody's subscription, before it has made anything. A schema that was made by
/// hand says that it is meant.
pub(super) async fn refuse_first(client: &Client, source: &Source, server: &Server) -> Result<()> {
    match Everything::read(client, source, server).await? {
        Some(all) if all.hinders() => {
            Err(Error::refused(format!("There is a publication {}", all.found())).hint(all.remedy()))
        }
        _ => Ok(()),
    }
}

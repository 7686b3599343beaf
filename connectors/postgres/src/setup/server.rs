//! The server and the role as they are, and what capture asks of them.

use std::time::Duration;

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use crate::config::{Origin, Source};
use crate::tables::{identifier, shown};
use crate::wire::sql_error;

/// Older servers lack what the stream needs: messages, binary-safe options, subscript handlers.
pub(crate) const OLDEST: u32 = 140_000;

/// From here on the server can leave out what came to it from elsewhere.
const ORIGINS: u32 = 160_000;
/// From here on a publication's tables can have column lists and row filters, and whole schemas can be published.
pub(crate) const LISTED_COLUMNS: u32 = 150_000;

/// From here on each membership says whether it gives the other role's rights by itself; before, the member's role does.
pub(crate) const INHERITED_BY_GRANT: u32 = 160_000;

/// From here on generated columns can be published.
pub(crate) const GENERATED_COLUMNS: u32 = 180_000;

/// From here on standbys can decode.
const STANDBY_DECODING: u32 = 160_000;

/// From here on standbys can keep a copy of a slot.
pub(crate) const FAILOVER_SLOTS: u32 = 170_000;

/// What is asked once for each connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// As a number: 150018.
    pub(crate) version: u32,
    /// As the server says it: 15.18.
    pub(crate) version_text: String,
    pub(crate) database: String,
    pub(crate) role: String,
    /// Of the database.
    pub(crate) encoding: String,
    pub(crate) wal_level: String,
    pub(crate) standby: bool,
    /// The role is a superuser.
    pub(crate) superuser: bool,
    /// The role may replicate.
    pub(crate) replication: bool,
    /// The role may create schemas and publications.
    pub(crate) may_create: bool,
    /// Zero: the server waits for ever.
    pub(crate) sender_timeout: Duration,
    pub(crate) slots: Usage,
    pub(crate) senders: Usage,
    pub(crate) synchronous_standbys: String,
    /// How much log a slot may hold back; -1: without limit.
    pub(crate) slot_keep: String,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) used: i64,
    pub(crate) limit: i64,
}

pub(crate) const ORIGINS_REMEDY: &str = "Set source.origin = \"any\", or upgrade to Postgres 16 or newer";

/// Services that people rent do not let them do the first.
pub(crate) const WAL_LEVEL_REMEDY: &str = "ALTER SYSTEM SET wal_level = logical; then restart Postgres. Where the provider does not allow that, set it there and \
     restart: on RDS and Aurora the parameter rds.logical_replication = 1, on Cloud SQL the flag \
     cloudsql.logical_decoding = on, on Azure the server parameter wal_level = logical (azure.replication_support on a \
     single server); on Supabase it is on already, unless somebody has changed it";

const QUERY: &str = "
select current_setting('server_version_num')::int4 as version,
       split_part(current_setting('server_version'), ' ', 1) as version_text,
       current_database()::text as database, current_user::text as role,
       current_setting('server_encoding') as encoding, current_setting('wal_level') as wal_level, pg_is_in_recovery() as standby,
       (select r.rolsuper from pg_roles r where r.rolname = current_user) as superuser,
       (select r.rolsuper or r.rolreplication from pg_roles r where r.rolname = current_user)
           or exists (select from pg_roles r where r.rolname = 'rds_replication'
                      and pg_has_role(r.oid, 'MEMBER')) as replication,
       has_database_privilege(current_database(), 'CREATE') as may_create,
       (select setting::int8 from pg_settings where name = 'wal_sender_timeout') as sender_timeout,
       (select count(*) from pg_replication_slots) as slots_used,
       current_setting('max_replication_slots')::int8 as slots_limit,
       (select count(*) from pg_stat_replication) as senders_used,
       current_setting('max_wal_senders')::int8 as senders_limit,
       current_setting('synchronous_standby_names') as synchronous_standbys,
       current_setting('max_slot_wal_keep_size') as slot_keep";

impl Server {
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let row = client.query_one(QUERY, &[]).await.map_err(failed)?;
        let get = |name: &str| row.try_get::<_, String>(name).map_err(failed);
        let count = |name: &str| row.try_get::<_, i64>(name).map_err(failed);
        let flag = |name: &str| row.try_get::<_, bool>(name).map_err(failed);
        Ok(Self {
            version: row.try_get::<_, i32>("version").map_err(failed)?.try_into().unwrap_or(0),
            version_text: get("version_text")?,
            database: get("database")?,
            role: get("role")?,
            encoding: get("encoding")?,
            wal_level: get("wal_level")?,
            standby: flag("standby")?,
            superuser: flag("superuser")?,
            replication: flag("replication")?,
            may_create: flag("may_create")?,
            sender_timeout: Duration::from_millis(count("sender_timeout")?.try_into().unwrap_or(0)),
            slots: Usage { used: count("slots_used")?, limit: count("slots_limit")? },
            senders: Usage { used: count("senders_used")?, limit: count("senders_limit")? },
            synchronous_standbys: get("synchronous_standbys")?,
            slot_keep: get("slot_keep")?,
        })
    }

    /// Makes sure of what nobody but the server's administrator can change.
    pub(crate) fn fit(&self, source: &Source) -> Result<()> {
        if self.version < OLDEST {
            return Err(Error::refused(format!("Postgres {} is too old", self.version_text))
                .hint("Upgrade to Postgres 14 or newer"));
        }
        if self.wal_level != "logical" {
            let what =
                format!("The server's wal_level is {}, logical decoding needs logical", self.wal_level);
            return Err(Error::refused(what).hint(WAL_LEVEL_REMEDY));
        }
        if !self.replication {
            return Err(Error::refused(format!("User {} has no right to replicate", identifier(&self.role)))
                .hint(self.replication_remedy()));
        }
        if !self.sends(source.origin) {
            return Err(Error::refused(self.origins_found()).hint(ORIGINS_REMEDY));
        }
        if self.standby && source.manage {
            return Err(Error::refused("The server is a standby, where nothing can be created")
                .hint(self.standby_remedy()));
        }
        if self.standby && self.version < STANDBY_DECODING {
            let what =
                format!("The server is a standby, which Postgres {} cannot decode on", self.version_text);
            return Err(
                Error::refused(what).hint("Connect to the primary, or upgrade to Postgres 16 or newer")
            );
        }
        Ok(())
    }

    /// Several hosts promise more than the server can keep.
    pub(crate) fn no_failover(&self, source: &Source) -> Option<String> {
        let several = source.info.hosts.len() > 1 && source.manage;
        let why = if self.version < FAILOVER_SLOTS {
            format!("Postgres {} keeps no copy of the slot on a standby", self.version_text)
        } else if !source.failover {
            "source.failover is false, so standbys keep no copy of the slot".to_owned()
        } else {
            return None;
        };
        several.then(|| {
            format!(
                "The source names {} servers, but {why}: a fail-over to another one will be a gap in the history",
                source.info.hosts.len()
            )
        })
    }

    /// Whether it can choose transactions like that.
    pub(crate) fn sends(&self, origin: Origin) -> bool {
        origin == Origin::Any || self.version >= ORIGINS
    }

    pub(crate) fn origins_found(&self) -> String {
        format!(
            "source.origin is \"none\", and Postgres {} cannot leave out what came to it from elsewhere",
            self.version_text
        )
    }

    /// What was the primary and comes back, or another one of the source's hosts, will do.
    pub(crate) fn wait_for_primary(&self) -> Error {
        Error::transient("The server is a standby, and not promoted").hint(
            "It is tried again. Promote it (SELECT pg_promote();), or name all servers in the source's address \
             (host=a,b) with target_session_attrs=primary",
        )
    }

    pub(crate) fn standby_remedy(&self) -> &'static str {
        "Connect to the primary. To read from the standby (Postgres 16 or newer), create the publication on the \
         primary and the slot on the standby (`rowcast check` with source.manage = false prints the SQL), and set \
         source.manage = false: then there is no rowcast.publish, and new tables are published by hand"
    }

    pub(crate) fn replication_remedy(&self) -> String {
        format!("ALTER ROLE {0} REPLICATION; (on RDS: GRANT rds_replication TO {0})", shown(&self.role))
    }

    pub(crate) fn create_remedy(&self) -> String {
        format!("GRANT CREATE ON DATABASE {} TO {};", shown(&self.database), shown(&self.role))
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    sql_error("Cannot read the server's settings", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn several_hosts_without_copies_of_the_slot_are_told() {
        let told = |version, config: Config| {
            let source = Source::new(&config).unwrap();
            let version_text = format!("{}.9", version / 10_000);
            Server { version, version_text, ..Server::default() }.no_failover(&source)
        };
        let of = |url: &str| Config { url: url.to_owned(), ..Config::default() };
        let two = || of("postgres://me@a,b/db");
        let warning = told(160_009, two()).unwrap();
        assert!(warning.contains("2 servers") && warning.contains("Postgres 16.9"), "{warning}");
        assert!(told(170_000, Config { failover: false, ..two() }).unwrap().contains("source.failover"));
        for (version, config) in [
            (170_000, two()),
            (160_009, of("postgres://me@a/db")),
            (160_009, Config { manage: false, ..two() }),
        ] {
            assert_eq!(told(version, config), None);
        }
    }
}

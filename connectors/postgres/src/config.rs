//! What a user can say about the source.

use std::fmt;

use rowcast_engine::{Error, Result};
use serde::{Deserialize, Serialize, Serializer};

use crate::conninfo::Conninfo;
use crate::tables::Tables;

/// Names are cut by Postgres beyond this, in bytes.
const MAX_NAME: usize = 63;

/// The publication beside the main one, for tables without usable replica identity.
const INSERTS: &str = "_inserts";

/// The source.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Where the database is: `postgres://…` or `host=… user=…`, as libpq reads it.
    #[serde(serialize_with = "without_password")]
    pub url: String,
    /// The tables to capture: `public.orders`, `public.*`, `*`. Ordinary and partitioned tables.
    pub tables: Vec<String>,
    /// Tables to leave out again.
    pub exclude: Vec<String>,
    /// The replication slot.
    pub slot: String,
    /// The publication, named as the slot when this is empty: two installations on one database must not change
    /// each other's. Tables without usable replica identity are in a second one, with `_inserts` after its name.
    pub publication: String,
    /// Create and change what is needed in the database: schema `rowcast`, publications, slot. When false nothing
    /// is changed, and what is missing is an error that names the SQL.
    pub manage: bool,
    /// Show a partition tree as one table, its root. When false each leaf is a table of its own.
    pub via_partition_root: bool,
    /// What happens where the source's history does not go on in the journal.
    pub on_gap: OnGap,
    /// Whether the server sends large transactions before they commit.
    pub streaming: Streaming,
    /// Take over the slot although the history does not continue: a gap is recorded, and capture goes on from the
    /// slot's position. For one start; not part of a configuration file.
    #[serde(skip)]
    pub adopt: bool,
}

/// When the server sends a transaction that has outgrown its `logical_decoding_work_mem`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Streaming {
    /// When it has committed; until then the server keeps it on its disk. Protocol 1 of pgoutput.
    #[default]
    Off,
    /// While it goes on; rowcast keeps it on its disk. Protocol 2.
    On,
}

/// Where the source's history does not go on: a lost slot, a restored backup, another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// Capture waits until `rowcast adopt` lets it go on; what is held is served meanwhile.
    Stop,
    /// It goes on by itself, behind a recorded gap. A slot of another installation only when nobody reads it.
    Continue,
}

impl<'de> Deserialize<'de> for OnGap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        match String::deserialize(deserializer)?.as_str() {
            "stop" => Ok(Self::Stop),
            "continue" => Ok(Self::Continue),
            "resnapshot" => Err(D::Error::custom(
                "\"resnapshot\" needs snapshots, which this version does not make; use \"stop\" or \"continue\"",
            )),
            other => Err(D::Error::custom(format!("{other:?} is neither \"stop\" nor \"continue\""))),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            tables: vec!["*.*".to_owned()],
            exclude: Vec::new(),
            slot: "rowcast".to_owned(),
            publication: String::new(),
            manage: true,
            via_partition_root: true,
            on_gap: OnGap::Stop,
            streaming: Streaming::Off,
            adopt: false,
        }
    }
}

impl Config {
    /// Says what is wrong with it, without asking the server.
    ///
    /// # Errors
    ///
    /// `Kind::Usage` for an address, a pattern of tables or a name that cannot be.
    pub fn check(&self) -> Result<()> {
        Source::new(self).map(drop)
    }
}

/// Never shows the password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &redacted(&self.url))
            .field("tables", &self.tables)
            .field("slot", &self.slot)
            .field("publication", &self.publication)
            .finish_non_exhaustive()
    }
}

fn redacted(url: &str) -> String {
    Conninfo::parse(url).map_or_else(|_| "(not readable)".to_owned(), |info| info.redacted())
}

fn without_password<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(url))
}

/// A [`Config`] that has been looked at.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) info: Conninfo,
    pub(crate) tables: Tables,
    pub(crate) slot: String,
    /// For all operations.
    pub(crate) publication: String,
    /// For inserts and truncates only.
    pub(crate) inserts: String,
    pub(crate) manage: bool,
    pub(crate) via_partition_root: bool,
    pub(crate) on_gap: OnGap,
    pub(crate) streaming: Streaming,
    pub(crate) adopt: bool,
}

impl Source {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let info = Conninfo::parse(&config.url)?;
        let tables = Tables::parse(&config.tables, &config.exclude)?;
        let plain = |name: &str| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && !name.is_empty()
        };
        if !plain(&config.slot) || config.slot.len() > MAX_NAME {
            return Err(Error::usage(format!("{:?} cannot be the name of a replication slot", config.slot))
                .hint("Use up to 63 lower-case letters, digits and underscores"));
        }
        let publication = if config.publication.is_empty() { &config.slot } else { &config.publication };
        let inserts = format!("{publication}{INSERTS}");
        if inserts.len() > MAX_NAME || inserts.contains('\0') {
            return Err(Error::usage(format!("{publication:?} cannot be the name of a publication"))
                .hint("Set source.publication to a name of up to 55 bytes"));
        }
        Ok(Self {
            info,
            tables,
            slot: config.slot.clone(),
            publication: publication.clone(),
            inserts,
            manage: config.manage,
            via_partition_root: config.via_partition_root,
            on_gap: config.on_gap,
            streaming: config.streaming,
            adopt: config.adopt,
        })
    }

    pub(crate) fn publications(&self) -> [&str; 2] {
        [&self.publication, &self.inserts]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_hidden() {
        let config = Config { url: "postgres://me:sesame@h/db".to_owned(), ..Config::default() };
        assert!(!format!("{config:?}").contains("sesame"));
        assert!(!serde_json::to_string(&config).unwrap().contains("sesame"));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config: Config = serde_json::from_str(r#"{"url":"postgres://me@h/db","slot":"mine"}"#).unwrap();
        assert_eq!((config.slot.as_str(), config.publication.as_str()), ("mine", ""));
        assert!(config.manage && config.via_partition_root && !config.adopt);
        let source = Source::new(&config).unwrap();
        assert_eq!(source.publications(), ["mine", "mine_inserts"]);
    }

    #[test]
    fn what_a_gap_does() {
        let read = |text: &str| {
            serde_json::from_str::<Config>(&format!(r#"{{"on_gap":"{text}"}}"#)).map(|config| config.on_gap)
        };
        assert_eq!((read("stop").unwrap(), read("continue").unwrap()), (OnGap::Stop, OnGap::Continue));
        assert_eq!(Config::default().on_gap, OnGap::Stop);
        let error = read("resnapshot").unwrap_err().to_string();
        assert!(error.contains("snapshots") && error.contains("\"stop\" or \"continue\""), "{error}");
        assert!(read("x").is_err());
    }

    #[test]
    fn when_large_transactions_are_sent() {
        let read = |text: &str| serde_json::from_str::<Config>(&format!(r#"{{"streaming":"{text}"}}"#));
        assert_eq!(read("on").unwrap().streaming, Streaming::On);
        assert_eq!(
            (read("off").unwrap().streaming, Config::default().streaming),
            (Streaming::Off, Streaming::Off)
        );
        assert!(read("parallel").unwrap_err().to_string().contains("`off` or `on`"));
    }

    #[test]
    fn names_that_postgres_would_refuse() {
        for config in [
            Config { slot: "My-Slot".to_owned(), ..Config::default() },
            Config { slot: String::new(), ..Config::default() },
            Config { publication: "p".repeat(60), ..Config::default() },
        ] {
            let config = Config { url: "postgres://me@h/db".to_owned(), ..config };
            assert_eq!(Source::new(&config).unwrap_err().kind(), rowcast_engine::Kind::Usage);
        }
    }
}

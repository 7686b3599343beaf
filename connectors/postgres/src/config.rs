//! What a user can say about the source.

mod units;

use std::fmt::{self, Write as _};
use std::time::Duration;

use rowcast_engine::{Confirm, Error, Result, in_quotes};
use serde::{Deserialize, Serialize, Serializer};

use crate::conninfo::{Conninfo, TargetServer};
use crate::tables::Tables;

/// Names are cut by Postgres beyond this, in bytes.
const MAX_NAME: usize = 63;

/// Each is a connection.
const MAX_SNAPSHOT_TABLES: usize = 16;

/// The publication beside the main one, for tables without usable replica identity.
const INSERTS: &str = "_inserts";

/// Shorter, and a busy server never has a slot made; never (0) would leave the reason unsaid.
const LOCK_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Longer, and nobody is told what stands in the way.
const LOCK_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

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
    /// Whether the rows that are there are read, and when; decided by whoever runs the source when it is not said.
    pub snapshot: Option<SnapshotMode>,
    /// So many tables are read at a time.
    pub snapshot_tables: usize,
    /// Whose changes are captured: everybody's, or only those made on this server.
    pub origin: Origin,
    /// Changes of the captured tables' definitions are events on channel `rowcast.ddl`, told by an event trigger.
    pub ddl: bool,
    /// What happens where the source's history does not go on in the journal.
    pub on_gap: OnGap,
    /// When a change counts as done, so that the server may forget it: when the journal has synced it, or when every
    /// push door has it, too.
    pub confirm: Confirm,
    /// The slot is made so that standbys keep a copy of it, where the server knows that (17 and later): a fail-over
    /// leaves no gap. See `rowcast check` for what the standbys need.
    pub failover: bool,
    /// So long making a slot waits for transactions that are running, before it says which and tries again.
    #[serde(with = "crate::config::units::time")]
    pub lock_timeout: Duration,
    /// When the server keeps more of its log for the slot than this, it is said, and the flow is unhealthy.
    #[serde(with = "crate::config::units::size")]
    pub wal_warning: u64,
    /// When the server keeps more of its log for the slot than this, and capture cannot go on or is too slow to make it
    /// less, the slot is given up: a gap in the history, and not a server without a disk. Never, when left out: nobody
    /// but the server's administrator knows how large that disk is.
    #[serde(with = "crate::config::units::optional_size")]
    pub wal_budget: Option<u64>,
    /// Whether the server sends large transactions before they commit.
    pub streaming: Streaming,
    /// Take over the slot although the history does not continue: a gap is recorded, and capture goes on from the
    /// slot's position. For one start; not part of a configuration file.
    #[serde(skip)]
    pub adopt: bool,
    /// It runs for one adoption, and somebody waits until it ends: whatever ends capture ends it, too, and nobody stays to
    /// look after the slot. Not part of a configuration file.
    #[serde(skip)]
    pub brief: bool,
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
    /// It goes on likewise, and all tables are read anew behind the gap.
    Resnapshot,
}

/// When the rows that are in the tables are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotMode {
    /// When capture begins, and of tables that come later.
    Initial,
    /// Only when somebody asks for it.
    #[default]
    Never,
    /// When capture begins; then it ends.
    Only,
    /// As `Initial`, and again behind every gap.
    WhenNeeded,
}

impl SnapshotMode {
    /// Whether rows are read without being asked for.
    pub(crate) fn is_on(self) -> bool {
        self != Self::Never
    }
}

/// Which transactions the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// All.
    Any,
    /// Not those that came to it by replication, which have an origin. From version 16 on.
    None,
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        match String::deserialize(deserializer)?.as_str() {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::None),
            other => Err(D::Error::custom(format!("{} is neither \"any\" nor \"none\"", in_quotes(other)))),
        }
    }
}

impl<'de> Deserialize<'de> for OnGap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        match String::deserialize(deserializer)?.as_str() {
            "stop" => Ok(Self::Stop),
            "continue" => Ok(Self::Continue),
            "resnapshot" => Ok(Self::Resnapshot),
            other => Err(D::Error::custom(format!(
                "{} is none of \"stop\", \"continue\" and \"resnapshot\"",
                in_quotes(other)
            ))),
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
            snapshot: None,
            // One hides the waiting of the other; more would only load the source.
            snapshot_tables: 2,
            origin: Origin::Any,
            ddl: false,
            on_gap: OnGap::Stop,
            confirm: Confirm::Journal,
            failover: true,
            lock_timeout: Duration::from_secs(30),
            wal_warning: 8 << 30,
            wal_budget: None,
            streaming: Streaming::Off,
            adopt: false,
            brief: false,
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
    if url.trim().is_empty() { serializer.serialize_none() } else { serializer.serialize_str(&redacted(url)) }
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
    pub(crate) snapshot: SnapshotMode,
    pub(crate) snapshot_tables: usize,
    pub(crate) origin: Origin,
    pub(crate) ddl: bool,
    pub(crate) on_gap: OnGap,
    pub(crate) failover: bool,
    pub(crate) lock_timeout: Duration,
    pub(crate) wal_warning: u64,
    pub(crate) wal_budget: Option<u64>,
    pub(crate) streaming: Streaming,
    pub(crate) adopt: bool,
    pub(crate) brief: bool,
}

impl Source {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let mut info = Conninfo::parse(&config.url)?;
        if config.manage && info.target == TargetServer::Any {
            // On a standby nothing can be kept. When the primary of before comes back as one, it must not be waited for
            // while another host has taken its place.
            info.target = TargetServer::PreferPrimary;
        }
        let tables = Tables::parse(&config.tables, &config.exclude)?;
        let plain = |name: &str| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && !name.is_empty()
        };
        if !plain(&config.slot) || config.slot.len() > MAX_NAME {
            return Err(Error::usage(format!(
                "{} cannot be the name of a replication slot",
                in_quotes(&config.slot)
            ))
            .hint("Use up to 63 lower-case letters, digits and underscores"));
        }
        let publication = if config.publication.is_empty() { &config.slot } else { &config.publication };
        let inserts = format!("{publication}{INSERTS}");
        if inserts.len() > MAX_NAME || inserts.contains('\0') {
            return Err(Error::usage(format!(
                "{} cannot be the name of a publication",
                in_quotes(publication)
            ))
            .hint("Set source.publication to a name of up to 55 bytes"));
        }
        if !(1..=MAX_SNAPSHOT_TABLES).contains(&config.snapshot_tables) {
            return Err(Error::usage(format!("source.snapshot_tables is {}", config.snapshot_tables))
                .hint("So many tables are read at a time: 1 to 16, each with a connection of its own"));
        }
        if config.wal_budget.is_some() && !config.manage {
            return Err(Error::usage("source.wal_budget gives up the slot, and source.manage is false")
                .hint("Let the server do it: max_slot_wal_keep_size; or set source.manage = true"));
        }
        if !(LOCK_TIMEOUT_MIN..=LOCK_TIMEOUT_MAX).contains(&config.lock_timeout) {
            return Err(Error::usage("source.lock_timeout is not between 1s and 1h").hint("30s is usual"));
        }
        Ok(Self {
            info,
            tables,
            slot: config.slot.clone(),
            publication: publication.clone(),
            inserts,
            manage: config.manage,
            via_partition_root: config.via_partition_root,
            snapshot: config.snapshot.unwrap_or_default(),
            snapshot_tables: config.snapshot_tables,
            origin: config.origin,
            ddl: config.ddl,
            on_gap: config.on_gap,
            failover: config.failover,
            lock_timeout: config.lock_timeout,
            wal_warning: config.wal_warning,
            wal_budget: config.wal_budget,
            streaming: config.streaming,
            adopt: config.adopt,
            brief: config.brief,
        })
    }

    /// Whether all tables are read again behind a gap.
    pub(crate) fn reads_after_gap(&self) -> bool {
        self.on_gap == OnGap::Resnapshot || self.snapshot == SnapshotMode::WhenNeeded
    }

    pub(crate) fn publications(&self) -> [&str; 2] {
        [&self.publication, &self.inserts]
    }

    /// The same where of its publications only these are read.
    pub(crate) fn reading(&self, publications: &[(String, u32)]) -> Self {
        let mut source = self.clone();
        if !publications.iter().any(|(name, _)| *name == self.inserts) {
            source.inserts.clone_from(&self.publication);
        }
        source
    }

    /// A print of what decides which tables are captured: the same for as long as that is the same.
    pub(crate) fn captures(&self) -> u64 {
        let mut told = format!("{} {}", self.publication, self.via_partition_root);
        for (excluded, schema, table) in self.tables.likes() {
            let _ = write!(told, "\0{excluded}\0{schema}\0{table}");
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, told.as_bytes());
        digest.as_ref().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_captured_has_a_print() {
        let print = |tables: &[&str], exclude: &[&str], via_partition_root| {
            let texts = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
            let url = "postgres://me@h/db".to_owned();
            let (tables, exclude) = (texts(tables), texts(exclude));
            let config = Config { url, tables, exclude, via_partition_root, ..Config::default() };
            Source::new(&config).unwrap().captures()
        };
        let one = print(&["public.a"], &[], true);
        assert_eq!(print(&["public.\"a\""], &[], true), one);
        for other in [
            print(&["public.a", "public.b"], &[], true),
            print(&["public.a"], &["public.b"], true),
            print(&["public.a"], &[], false),
        ] {
            assert_ne!(other, one);
        }
    }

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
        assert_eq!(read("resnapshot").unwrap(), OnGap::Resnapshot);
        let error = read("x").unwrap_err().to_string();
        assert!(error.contains("resnapshot"), "{error}");
    }

    #[test]
    fn whose_changes() {
        let read = |text: &str| {
            serde_json::from_str::<Config>(&format!(r#"{{"origin":"{text}"}}"#)).map(|config| config.origin)
        };
        assert_eq!((read("any").unwrap(), read("none").unwrap()), (Origin::Any, Origin::None));
        assert!(read("local").unwrap_err().to_string().contains("neither \"any\" nor \"none\""));
        assert!(serde_json::to_string(&Config::default()).unwrap().contains(r#""origin":"any""#));
    }

    #[test]
    fn when_a_change_is_done() {
        let read = |text: &str| {
            serde_json::from_str::<Config>(&format!(r#"{{"confirm":"{text}"}}"#)).map(|config| config.confirm)
        };
        assert_eq!((read("journal").unwrap(), read("sinks").unwrap()), (Confirm::Journal, Confirm::Sinks));
        assert_eq!(Config::default().confirm, Confirm::Journal);
        assert!(read("sink").is_err());
    }

    #[test]
    fn sizes_and_times_have_units() {
        let read = |json: &str| serde_json::from_str::<Config>(json);
        let config = read(r#"{"url":"postgres://me@h/d","wal_budget":"50GB","lock_timeout":"5s"}"#).unwrap();
        assert_eq!((config.wal_budget, config.lock_timeout), (Some(50 << 30), Duration::from_secs(5)));
        let shown = serde_json::to_value(&config).unwrap();
        assert_eq!((&shown["wal_budget"], &shown["wal_warning"]), (&"50GB".into(), &"8GB".into()));
        let error = read(r#"{"wal_budget":50}"#).unwrap_err().to_string();
        assert!(error.contains("50 has no unit"), "{error}");
        let nobody = Config { manage: false, ..config };
        assert!(Source::new(&nobody).unwrap_err().to_string().contains("gives up the slot"));
        let hasty = Config { lock_timeout: Duration::ZERO, ..Config::default() };
        assert!(Source::new(&Config { url: "postgres://me@h/d".to_owned(), ..hasty }).is_err());
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

//! The configuration: defaults, then the file, then the environment, then flags, then `--set`; the later one wins.

mod file;
mod journal;
mod secrets;
mod show;
mod sinks;
mod tree;
mod typed;
pub(crate) mod units;
mod value;

use std::path::{Path, PathBuf};

use rowcast_engine::journal::{quoted, with_repair};
use rowcast_engine::sink::Start;
use rowcast_engine::{Error, Result};
use rowcast_postgres::SnapshotMode;

pub(crate) use journal::Journal;
pub(crate) use show::show;
#[cfg(feature = "kafka")]
pub(crate) use sinks::Sink;
pub(crate) use sinks::Sinks;
pub(crate) use value::{Assignment, Origin};
use value::{Node, Table, Value};

/// Before the names of all variables of the environment that are keys.
const PREFIX: &str = "ROWCAST__";

/// Where everything is kept unless said otherwise.
pub(crate) const DATA: &str = "rowcast-data";

/// The top of the tree.
const SECTIONS: [&str; 6] = ["data", "source", "journal", "http", "kafka", "sinks"];

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The data directory: journal, positions of sinks, the socket for commands.
    pub(crate) data: PathBuf,
    /// The door in.
    pub(crate) source: rowcast_postgres::Config,
    /// The journal.
    pub(crate) journal: Journal,
    /// The door for clients.
    pub(crate) http: rowcast_http::Config,
    /// The doors that push, by name.
    pub(crate) sinks: Sinks,
    /// What was said, for those who ask where a value comes from.
    said: Table,
}

/// All assignments in their order: of a file, of the environment, and those of the command line.
pub(crate) fn load(file: Option<&Path>, command_line: Vec<Assignment>) -> Result<Config> {
    let mut all = file.map(file::read).transpose()?.unwrap_or_default();
    all.extend(environment(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    ));
    all.extend(command_line);
    Config::new(tree::build(all)?)
}

/// An empty variable says nothing: that is how compose files leave one out.
fn environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Assignment> {
    let assignment = |(name, value): (String, String)| {
        let key = name.strip_prefix(PREFIX).filter(|_| !value.is_empty())?.to_owned();
        Some(Assignment::variable(&key, value, Origin::Environment(name)))
    };
    let mut found: Vec<Assignment> = variables.filter_map(assignment).collect();
    // The environment has no order; messages should.
    found.sort_by_key(Assignment::key);
    found
}

impl Config {
    fn new(said: Table) -> Result<Self> {
        let mut tree = said.clone();
        if let Some((name, node)) = tree.iter().find(|(name, _)| !SECTIONS.contains(&name.as_str())) {
            return Err(typed::unknown("", name, &node.origin, &SECTIONS));
        }
        if let Some(Node { value: Value::Table(source), .. }) = tree.get_mut("source") {
            secrets::resolve_url(source)?;
        }
        let mut section = |name: &str| tree.remove(name).unwrap_or_else(empty);
        let mut config = Self {
            source: typed::read("source", section("source"))?,
            journal: typed::read("journal", section("journal"))?,
            http: typed::read("http", section("http"))?,
            sinks: Sinks::read(tree.remove("kafka"), tree.remove("sinks"))?,
            data: tree
                .remove("data")
                .map_or_else(|| Ok(PathBuf::from(DATA)), |data| typed::read("data", data))?,
            said,
        };
        config.settle_rows();
        config.journal.check()?;
        config.http.check()?;
        config.sinks.check()?;
        Ok(config)
    }

    /// Puts the directories that are meant into the commands that an error of the journal names.
    pub(crate) fn name_directories(&self, error: Error) -> Error {
        with_repair(error, &self.repair())
    }

    /// The command that mends the journal.
    pub(crate) fn repair(&self) -> String {
        let set = |dir: &PathBuf| format!(" --set journal.dir={}", quoted(dir));
        let set = self.journal.dir.as_ref().map_or_else(String::new, set);
        format!("rowcast journal repair --data {}{set}", quoted(&self.data))
    }

    /// Whom the rows are read for that are there already: a target that is filled needs them, clients ask for them.
    fn settle_rows(&mut self) {
        let filled = self.sinks.starts().any(|start| start != Some(Start::Latest));
        let unsaid = if filled { SnapshotMode::Initial } else { SnapshotMode::Never };
        let mode = *self.source.snapshot.get_or_insert(unsaid);
        // Who wants no rows at the first start is not sent them later because nobody spoke of sinks.
        let unsaid = if mode == SnapshotMode::Never { Start::Earliest } else { Start::Snapshot };
        self.sinks.start_unless_said(unsaid);
    }

    /// Refuses to go on without a source that could be.
    pub(crate) fn need_source(&self) -> Result<()> {
        if self.source.url.trim().is_empty() {
            return Err(Error::usage("No source is named").hint(
                "Name a database: --source postgres://USER@HOST/DATABASE, or url under [source] in the \
                 configuration file. To see rowcast without one: rowcast demo",
            ));
        }
        self.source.check()
    }

    /// Where the positions of push doors are kept.
    pub(crate) fn cursors(&self) -> PathBuf {
        self.data.join("cursors")
    }

    /// Where the journal is kept.
    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.journal.dir(&self.data)
    }
}

/// The socket for commands.
pub(crate) fn socket(data: &Path) -> PathBuf {
    data.join("rowcast.sock")
}

fn empty() -> Node {
    Node { value: Value::Table(Table::new()), origin: Origin::Set }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Config> {
        let set = |(key, value): &(&str, &str)| Assignment::dotted(key, *value, Origin::Set);
        Config::new(tree::build(pairs.iter().map(set).collect())?)
    }

    #[test]
    fn nothing_said_gives_the_defaults() {
        let config = with(&[]).unwrap();
        assert_eq!(config.data, Path::new("rowcast-data"));
        assert_eq!(config.journal_dir(), Path::new("rowcast-data/journal"));
        assert_eq!(config.http, rowcast_http::Config::default());
        assert_eq!(config.sinks.iter().count(), 0);
        assert!(config.need_source().unwrap_err().remedy().unwrap().contains("--source"));
    }

    #[test]
    fn the_command_that_mends_a_journal_names_its_directories() {
        let hint = |pairs: &[(&str, &str)]| {
            let error = Error::journal("Damaged").hint("Try `rowcast journal repair --data DIR` there.");
            with(pairs).unwrap().name_directories(error).remedy().unwrap().to_owned()
        };
        assert_eq!(hint(&[]), "Try `rowcast journal repair --data rowcast-data` there.");
        assert_eq!(
            hint(&[("data", "my data"), ("journal.dir", "/srv/j")]),
            "Try `rowcast journal repair --data 'my data' --set journal.dir=/srv/j` there."
        );
        let other = with(&[]).unwrap().name_directories(Error::journal("Gone").hint("Name it (--data DIR)."));
        assert_eq!(other.remedy(), Some("Name it (--data DIR)."));
    }

    #[test]
    fn each_section_is_read() {
        let config = with(&[
            ("source.url", "postgres://me@h/d"),
            ("source.tables", "public.a, public.b"),
            ("source.manage", "off"),
            ("journal.retention", "2h"),
            ("http.listen", "127.0.0.1:0"),
            ("http.auth", "none"),
            ("http.rotate", "5min"),
            ("data", "/tmp/x"),
        ])
        .unwrap();
        assert_eq!(config.source.tables, ["public.a", "public.b"]);
        config.need_source().unwrap();
        assert!(!config.source.manage);
        assert_eq!(config.http.auth, Some(rowcast_http::Auth::None));
        assert_eq!(config.cursors(), Path::new("/tmp/x/cursors"));
        assert_eq!(config.journal.options(&config.data, 0).retention.as_secs(), 7200);
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn where_sinks_begin_and_whether_rows_are_read_go_together() {
        use SnapshotMode::{Initial, Never};
        let settled = |pairs: &[(&str, &str)]| {
            let config = with(&[&[("kafka.brokers", "b:1")][..], pairs].concat()).unwrap();
            let starts: Vec<_> = config.sinks.starts().collect();
            (config.source.snapshot, starts)
        };
        let (snapshot, earliest, latest) =
            (Some(Start::Snapshot), Some(Start::Earliest), Some(Start::Latest));
        assert_eq!(settled(&[]), (Some(Initial), vec![snapshot]));
        assert_eq!(settled(&[("source.snapshot", "never")]), (Some(Never), vec![earliest]));
        assert_eq!(settled(&[("kafka.start", "earliest")]), (Some(Initial), vec![earliest]));
        assert_eq!(settled(&[("kafka.start", "latest")]), (Some(Never), vec![latest]));
        let alone = [("source.snapshot", "never"), ("kafka.start", "snapshot")];
        assert_eq!(settled(&alone), (Some(Never), vec![snapshot]));
        let two = [("kafka.start", "latest"), ("sinks.a.type", "kafka"), ("sinks.a.brokers", "b:1")];
        assert_eq!(settled(&two), (Some(Initial), vec![snapshot, latest]));
        assert_eq!(with(&[]).unwrap().source.snapshot, Some(Never));
        let wrong = with(&[("kafka.brokers", "b:1"), ("kafka.start", "snapshoot")]).unwrap_err();
        assert_eq!(
            format!("{wrong} | {}", wrong.remedy().unwrap()),
            "Wrong value for kafka.start (--set): \"snapshoot\" is not a value of it | \
             Did you mean \"snapshot\"? It can be \"snapshot\", \"earliest\", \"latest\""
        );
        let key = with(&[("kafka.brokers", "b:1"), ("kafka.strat", "latest")]).unwrap_err();
        assert_eq!(key.remedy(), Some("Did you mean kafka.start?"));
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        let refused = |key: &str| {
            let error = with(&[(key, "1")]).unwrap_err();
            assert_eq!(error.kind(), rowcast_engine::Kind::Usage);
            format!("{error} | {}", error.remedy().unwrap())
        };
        assert_eq!(refused("sorce.url"), "Unknown key sorce (--set) | Did you mean source?");
        assert_eq!(refused("http.lisen"), "Unknown key http.lisen (--set) | Did you mean http.listen?");
        assert_eq!(
            refused("journal.max-size"),
            "Unknown key journal.max-size (--set) | Did you mean journal.max_size?"
        );
        assert!(refused("source.adopt").starts_with("Unknown key source.adopt"));
    }

    #[test]
    fn the_environment_says_keys() {
        let variables = [
            ("ROWCAST__SOURCE__URL", "postgres://h/d"),
            ("ROWCAST__KAFKA__PROPERTIES__LINGER_MS", "5"),
            ("ROWCAST__HTTP__AUTH", ""),
            ("ROWCAST_LOG", "json"),
            ("PATH", "/bin"),
        ];
        let found = environment(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let keys: Vec<String> = found.iter().map(Assignment::key).collect();
        assert_eq!(keys, ["kafka.properties.linger.ms", "source.url"]);
        assert_eq!(found[1].origin.to_string(), "environment variable ROWCAST__SOURCE__URL");
    }

    #[test]
    fn a_file_gives_way_to_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rowcast.toml");
        std::fs::write(&file, "[http]\nlisten = \"127.0.0.1:1\"\nmax_subscriptions = 5\n").unwrap();
        let flag = Assignment::dotted("http.listen", "127.0.0.1:2", Origin::Flag("--listen"));
        let config = load(Some(&file), vec![flag]).unwrap();
        assert_eq!((config.http.listen.as_str(), config.http.max_subscriptions), ("127.0.0.1:2", 5));
        let missing = load(Some(Path::new("/nowhere.toml")), vec![]).unwrap_err();
        assert!(missing.to_string().starts_with("Cannot read the configuration file /nowhere.toml: "));
    }
}

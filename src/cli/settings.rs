//! The settings that commands share, on their way into the configuration.

use std::path::PathBuf;

use clap::Args;
use rowcast_engine::{Error, Result};

use crate::config::{self, Assignment, Config, Origin};

/// Where the configuration comes from, for every command that needs it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct Base {
    /// Data directory: journal, positions of sinks, the socket for commands [default: ./rowcast-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Configuration file (TOML) with the sections [source] [journal] [http] [kafka] [sinks.NAME]
    #[arg(long, value_name = "FILE", env = "ROWCAST_CONFIG")]
    config: Option<PathBuf>,
    /// Set any key: --set journal.retention=72h; also as ROWCAST__JOURNAL__RETENTION=72h
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// The doors, for the commands that open them.
#[derive(Debug, Default, Args)]
pub(crate) struct Settings {
    /// The database: postgres://USER@HOST:PORT/DATABASE, or host=… user=… as libpq reads it
    #[arg(long, value_name = "URL", help_heading = "Source")]
    source: Option<String>,
    /// Tables to capture: public.orders, public.*, *.* (repeatable, or with commas) [default: *.*]
    #[arg(long, value_name = "TABLES", help_heading = "Source")]
    tables: Vec<String>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Doors")]
    listen: Option<String>,
    /// Deliver into Kafka, too
    #[arg(long, value_name = "HOST:PORT", help_heading = "Doors")]
    kafka: Option<String>,
    /// First part of the names of Kafka topics [default: rowcast]
    #[arg(long, value_name = "NAME", help_heading = "Doors")]
    topic_prefix: Option<String>,
    #[command(flatten)]
    base: Base,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in http.listen=127.0.0.1:8081")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Base {
    /// The configuration.
    pub(crate) fn load(&self) -> Result<Config> {
        self.load_with(Vec::new())
    }

    fn load_with(&self, mut flags: Vec<Assignment>) -> Result<Config> {
        if let Some(data) = &self.data {
            let data = data.to_str().ok_or_else(|| Error::usage("--data is not a path in UTF-8"))?;
            flags.push(Assignment::dotted("data", data, Origin::Flag("--data")));
        }
        flags.extend(self.set.iter().map(|(key, value)| Assignment::dotted(key, value, Origin::Set)));
        config::load(self.config.as_deref(), flags)
    }
}

impl Settings {
    /// Whether the command line says which data directory is meant.
    pub(crate) fn names_data(&self) -> bool {
        self.base.data.is_some()
    }

    /// The configuration.
    pub(crate) fn load(&self) -> Result<Config> {
        let tables = (!self.tables.is_empty()).then(|| self.tables.join(","));
        let flags = [
            ("source.url", "--source", &self.source),
            ("source.tables", "--tables", &tables),
            ("http.listen", "--listen", &self.listen),
            ("kafka.brokers", "--kafka", &self.kafka),
            ("kafka.topic_prefix", "--topic-prefix", &self.topic_prefix),
        ];
        let assignment = |(key, flag, value): (&str, &'static str, &Option<String>)| {
            Some(Assignment::dotted(key, value.as_ref()?, Origin::Flag(flag)))
        };
        self.base.load_with(flags.into_iter().filter_map(assignment).collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn load(arguments: &[&str]) -> Result<Config> {
        Program::try_parse_from([&["rowcast"], arguments].concat()).unwrap().settings.load()
    }

    #[test]
    fn flags_and_set_say_the_same() {
        let config = load(&["--source", "postgres://h/d", "--tables", "a.b", "--tables", "c.*,d.e"]).unwrap();
        assert_eq!(config.source.tables, ["a.b", "c.*", "d.e"]);
        let config = load(&["--listen", "127.0.0.1:1", "--set", "http.listen=127.0.0.1:2"]).unwrap();
        assert_eq!(config.http.listen, "127.0.0.1:2");
        let config = load(&["--data", "d", "--set", "source.url=host=h dbname='a=b'"]).unwrap();
        assert_eq!((config.data.to_str(), config.source.url.as_str()), (Some("d"), "host=h dbname='a=b'"));
    }

    #[test]
    fn a_set_without_a_value_is_wrong_usage() {
        assert!(Program::try_parse_from(["rowcast", "--set", "http.listen"]).is_err());
    }
}

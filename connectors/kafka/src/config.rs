//! What a person may configure.

use std::collections::BTreeMap;
use std::fmt;

use rowcast_engine::format::debezium::DebeziumOptions;
use rowcast_engine::sink::{OnGap, Start};
use rowcast_engine::{Error, Result, in_quotes};
use serde::{Deserialize, Serialize};

use crate::client;
use crate::flat;

/// Kafka's limit for a topic's name is 249; this leaves room for schema and table.
const PREFIX_MAX: usize = 100;

/// The options of one Kafka door: the section `[kafka]`, or one of `[sinks.NAME]`.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Where Kafka is: `HOST:PORT`, several with commas between.
    pub brokers: String,
    /// The first part of every topic's name, and Debezium's `source.name`. Letters, digits, `.`, `_` and `-`.
    pub topic_prefix: String,
    /// What a consumer may rely on.
    pub delivery: Guarantee,
    /// What to do where the history is broken. A break that the journal records is told on `{prefix}.rowcast` at once,
    /// what retention has taken when the sink goes on behind it, by itself or by hand.
    pub on_gap: OnGap,
    /// Where a sink begins that has no position yet. Unless it is said: with the rows of all captured tables, or at the
    /// oldest event held where the source reads no rows by itself.
    pub start: Option<Start>,
    /// Partitions of topics that rowcast creates; the broker's default where absent.
    pub partitions: Option<i32>,
    /// Replicas of topics that rowcast creates; the broker's default where absent.
    pub replication_factor: Option<i32>,
    /// librdkafka's own options by their names: TLS, SASL, compression, batching.
    #[serde(deserialize_with = "flat::map")]
    pub properties: BTreeMap<String, String>,
    /// Debezium's own options by their names.
    #[serde(deserialize_with = "flat::map")]
    pub debezium: BTreeMap<String, String>,
}

/// What a consumer may rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Every event arrives, in order per key; after a failure some arrive again, with the same number.
    #[default]
    AtLeastOnce,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            topic_prefix: "rowcast".to_owned(),
            delivery: Guarantee::default(),
            on_gap: OnGap::default(),
            start: None,
            partitions: None,
            replication_factor: None,
            properties: BTreeMap::new(),
            debezium: BTreeMap::new(),
        }
    }
}

/// Shows the names of properties only: passwords are among the values.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("properties", &self.properties.keys())
            .field("debezium", &self.debezium)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Says what is wrong with the options, without asking Kafka.
    pub fn check(&self) -> Result<()> {
        if self.brokers.trim().is_empty() {
            return Err(Error::usage("The Kafka door has no brokers")
                .hint("Name one: --kafka HOST:PORT, or brokers = \"HOST:PORT\" in the sink's section ([kafka], [sinks.NAME])."));
        }
        check_prefix(&self.topic_prefix)?;
        check_count("partitions", self.partitions, i32::MAX)?;
        // The protocol has 16 bits for it.
        check_count("replication_factor", self.replication_factor, i32::from(i16::MAX))?;
        self.debezium_options()?;
        client::check(self)
    }

    /// Debezium's options, its own defaults for those not given.
    pub(crate) fn debezium_options(&self) -> Result<DebeziumOptions> {
        let mut options = DebeziumOptions::new(&self.topic_prefix);
        for (name, value) in &self.debezium {
            match name.as_str() {
                "skipped.operations" => options.skip_truncates = skips_truncates(value)?,
                "tombstones.on.delete" => options.tombstones_on_delete = boolean(name, value)?,
                "unavailable.value.placeholder" => options.unavailable_value_placeholder.clone_from(value),
                _ => {
                    return Err(Error::usage(format!("Debezium's option {name} is not supported")).hint(
                        format!(
                            "Remove it from [kafka.debezium]; supported are {}.",
                            DEBEZIUM_OPTIONS.join(", ")
                        ),
                    ));
                }
            }
        }
        Ok(options)
    }
}

const DEBEZIUM_OPTIONS: [&str; 3] =
    ["skipped.operations", "tombstones.on.delete", "unavailable.value.placeholder"];

fn skips_truncates(operations: &str) -> Result<bool> {
    match operations.trim() {
        "t" => Ok(true),
        "none" => Ok(false),
        other => Err(Error::usage(format!("Debezium's option skipped.operations is {}", in_quotes(other)))
            .hint("Write \"t\" to leave truncates out, or \"none\" to have them, too.")),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    value.parse().map_err(|_| {
        Error::usage(format!("Debezium's option {name} is {}", in_quotes(value))).hint("Write true or false.")
    })
}

fn check_prefix(prefix: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let sound = (1..=PREFIX_MAX).contains(&prefix.len()) && prefix.bytes().all(fits);
    if sound && !prefix.starts_with('.') && !prefix.ends_with('.') {
        return Ok(());
    }
    Err(Error::usage(format!("{} cannot be the prefix of Kafka topics", in_quotes(prefix))).hint(format!(
        "Choose a topic_prefix of 1 to {PREFIX_MAX} letters, digits, '.', '_' and '-', with no '.' at either end."
    )))
}

fn check_count(name: &str, value: Option<i32>, max: i32) -> Result<()> {
    match value {
        Some(value) if !(1..=max).contains(&value) => {
            Err(Error::usage(format!("Kafka topics cannot have {name} = {value}")).hint(format!(
                "Choose 1 to {max}, or leave {name} out of the sink's section for the broker's default."
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Kind;
    use serde_json::json;

    use super::*;

    fn config(json: serde_json::Value) -> Config {
        serde_json::from_value(json).unwrap()
    }

    fn refusal(json: serde_json::Value) -> String {
        let error = config(json).check().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        format!("{error}. {}", error.remedy().unwrap())
    }

    #[test]
    fn brokers_are_all_that_is_needed() {
        let config = config(json!({"brokers": "localhost:9092"}));
        config.check().unwrap();
        assert_eq!(config, Config { brokers: "localhost:9092".to_owned(), ..Config::default() });
        assert_eq!(config.start, None);
        assert_eq!(config.on_gap, OnGap::Stop);
    }

    #[test]
    fn values_of_flat_tables_may_be_written_in_any_way_that_toml_has() {
        let config = config(json!({
            "brokers": "b:1",
            "properties": {"linger.ms": 10, "socket": {"keepalive": {"enable": true}}, "client.id": "c"},
            "debezium": {
                "tombstones": {"on": {"delete": "false"}},
                "unavailable.value.placeholder": "?",
                "skipped.operations": "none",
            },
        }));
        config.check().unwrap();
        let expected = [("client.id", "c"), ("linger.ms", "10"), ("socket.keepalive.enable", "true")];
        assert!(config.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected));
        let options = config.debezium_options().unwrap();
        assert!(!options.tombstones_on_delete);
        assert!(!options.skip_truncates);
        assert!(!format!("{config:?}").contains("\"10\""), "values are not shown");
        assert_eq!(options.unavailable_value_placeholder, "?");
        assert_eq!(options.topic_prefix, "rowcast");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        assert!(refusal(json!({})).contains("--kafka HOST:PORT"));
        let with = |key: &str, value: serde_json::Value| {
            let mut options = json!({"brokers": "b:1"});
            options[key] = value;
            refusal(options)
        };
        assert!(with("topic_prefix", json!("my app")).contains("\"my app\" cannot be the prefix"));
        assert!(with("topic_prefix", json!("")).contains("letters, digits"));
        assert!(with("topic_prefix", json!("app.")).contains("no '.' at either end"));
        assert!(with("partitions", json!(0)).contains("partitions = 0"));
        assert!(with("replication_factor", json!(40_000)).contains("1 to 32767"));
        let unknown = with("debezium", json!({"decimal.handling.mode": "string"}));
        assert!(unknown.contains("decimal.handling.mode is not supported"), "{unknown}");
        assert!(unknown.contains("tombstones.on.delete, unavailable.value.placeholder"), "{unknown}");
        assert!(with("debezium", json!({"skipped.operations": "u"})).contains("\"none\" to have them"));
        assert!(with("debezium", json!({"tombstones.on.delete": "no"})).contains("true or false"));
        assert!(with("properties", json!({"acks": "1"})).contains("acks"));
        assert!(with("properties", json!({"lingr.ms": 1})).contains("lingr.ms"));
        assert!(with("properties", json!({"linger.ms": "soon"})).contains("linger.ms"));
    }

    #[test]
    fn a_start_is_one_of_three() {
        for (said, start) in
            [("snapshot", Start::Snapshot), ("earliest", Start::Earliest), ("latest", Start::Latest)]
        {
            assert_eq!(config(json!({"brokers": "b:1", "start": said})).start, Some(start));
            assert_eq!(start.name(), said);
        }
        let error = serde_json::from_value::<Config>(json!({"start": "now"})).unwrap_err();
        assert!(error.to_string().contains("`snapshot`, `earliest`, `latest`"), "{error}");
    }

    #[test]
    fn other_guarantees_are_refused_by_name() {
        let error = serde_json::from_value::<Config>(json!({"delivery": "exactly_once"})).unwrap_err();
        assert!(error.to_string().contains("`exactly_once`, expected `at_least_once`"), "{error}");
    }
}

//! The doors that push: `[sinks.NAME]`, and `[kafka]`, which is short for the one of that name.

use std::collections::BTreeMap;

use rowcast_engine::sink::Start;
use rowcast_engine::{Error, Result, in_quotes};

#[cfg(feature = "kafka")]
use super::secrets;
use super::typed;
use super::value::{Node, Origin, Table, Value};

/// What `type` may be.
const TYPES: [&str; 1] = ["kafka"];

/// The doors that push, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sinks(BTreeMap<String, Sink>);

/// One of them.
#[derive(Clone, Debug)]
pub(crate) enum Sink {
    /// Into Kafka.
    #[cfg(feature = "kafka")]
    Kafka(Box<rowcast_kafka::Config>),
}

impl Sinks {
    pub(super) fn read(kafka: Option<Node>, sinks: Option<Node>) -> Result<Self> {
        let mut read = BTreeMap::new();
        for (name, mut node) in sinks.map(named).transpose()?.unwrap_or_default() {
            let section = format!("sinks.{name}");
            check_name(&name, &node.origin)?;
            let kind = take_type(&section, &mut node)?;
            read.insert(name, Sink::read(&kind, &section, node)?);
        }
        if let Some(node) = kafka {
            let origin = node.origin.clone();
            let sink = Sink::read("kafka", "kafka", node)?;
            if read.insert("kafka".to_owned(), sink).is_some() {
                return Err(Error::usage(format!("[kafka] ({origin}) and [sinks.kafka] are the same door"))
                    .hint("Give the one under [sinks] another name"));
            }
        }
        Ok(Self(read))
    }

    pub(super) fn check(&self) -> Result<()> {
        self.0.values().try_for_each(Sink::check)
    }

    /// Where each begins that has no position, as far as it is said.
    pub(super) fn starts(&self) -> impl Iterator<Item = Option<Start>> {
        self.0.values().map(Sink::start)
    }

    /// Where those begin of which nothing else is said.
    pub(super) fn start_unless_said(&mut self, start: Start) {
        self.0.values_mut().for_each(|sink| sink.start_unless_said(start));
    }

    /// Each with its name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Sink)> {
        self.0.iter()
    }
}

fn named(node: Node) -> Result<Table> {
    match node.value {
        Value::Table(table) => Ok(table),
        _ => Err(Error::usage(format!("sinks is a section of named doors ({})", node.origin))
            .hint("Write [sinks.NAME] with type = \"kafka\"")),
    }
}

/// The name is that of a file, too.
fn check_name(name: &str, origin: &Origin) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(fits) && name != "http" {
        return Ok(());
    }
    Err(Error::usage(format!("{} cannot be the name of a sink ({origin})", in_quotes(name)))
        .hint("Use up to 64 letters, digits, '_' and '-'; http is the name of the door for clients"))
}

fn take_type(section: &str, node: &mut Node) -> Result<String> {
    let Value::Table(table) = &mut node.value else { return Ok(String::new()) };
    match table.remove("type").map(|node| node.value) {
        Some(Value::Text(kind) | Value::String(kind)) => Ok(kind),
        _ => Err(Error::usage(format!("[{section}] has no type ({})", node.origin))
            .hint(format!("Write type = \"{}\"", TYPES.join("\" or \"")))),
    }
}

#[cfg(feature = "kafka")]
impl Sink {
    fn read(kind: &str, section: &str, mut node: Node) -> Result<Self> {
        if kind != "kafka" {
            return Err(unknown_type(kind, section, &node.origin));
        }
        if let Value::Table(table) = &mut node.value
            && let Some(Node { value: Value::Table(properties), .. }) = table.get_mut("properties")
        {
            secrets::resolve_properties(section, properties)?;
        }
        Ok(Self::Kafka(typed::read(section, node)?))
    }

    fn check(&self) -> Result<()> {
        let Self::Kafka(config) = self;
        config.check()
    }

    fn start(&self) -> Option<Start> {
        let Self::Kafka(config) = self;
        config.start
    }

    fn start_unless_said(&mut self, start: Start) {
        let Self::Kafka(config) = self;
        config.start.get_or_insert(start);
    }
}

#[cfg(not(feature = "kafka"))]
impl Sink {
    fn read(kind: &str, section: &str, node: Node) -> Result<Self> {
        if kind != "kafka" {
            return Err(unknown_type(kind, section, &node.origin));
        }
        Err(Error::usage(format!(
            "[{section}] asks for Kafka ({}), and this program was built without it",
            node.origin
        ))
        .hint("Build it with: cargo build --release --features kafka"))
    }

    fn check(&self) -> Result<()> {
        match *self {}
    }

    fn start(&self) -> Option<Start> {
        match *self {}
    }

    fn start_unless_said(&mut self, _: Start) {
        match *self {}
    }
}

fn unknown_type(kind: &str, section: &str, origin: &Origin) -> Error {
    let meant = typed::nearest(kind, &TYPES).unwrap_or(TYPES[0]);
    Error::usage(format!("[{section}] has type {}, which is not known ({origin})", in_quotes(kind)))
        .hint(format!("Did you mean type = \"{meant}\"?"))
}

#[cfg(all(test, feature = "kafka"))]
mod tests {
    use super::super::tree;
    use super::super::value::Assignment;
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Sinks> {
        let set = |(key, value): &(&str, &str)| Assignment::dotted(key, *value, Origin::Set);
        let mut tree = tree::build(pairs.iter().map(set).collect())?;
        let sinks = Sinks::read(tree.remove("kafka"), tree.remove("sinks"))?;
        sinks.check().map(|()| sinks)
    }

    #[test]
    fn kafka_is_short_for_a_sink_of_that_name() {
        let sinks = with(&[
            ("kafka.brokers", "b:1"),
            ("kafka.debezium.tombstones.on.delete", "false"),
            ("sinks.second.type", "kafka"),
            ("sinks.second.brokers", "c:1"),
            ("sinks.second.properties.linger.ms", "7"),
        ])
        .unwrap();
        let configs: Vec<_> =
            sinks.iter().map(|(name, Sink::Kafka(config))| (name.as_str(), config)).collect();
        assert_eq!(configs.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["kafka", "second"]);
        assert_eq!(configs[0].1.debezium["tombstones.on.delete"], "false");
        assert_eq!(
            (configs[1].1.brokers.as_str(), configs[1].1.properties["linger.ms"].as_str()),
            ("c:1", "7")
        );
    }

    #[test]
    fn mistakes_are_refused() {
        let refused = |pairs: &[(&str, &str)]| {
            let error = with(pairs).unwrap_err();
            format!("{error} | {}", error.remedy().unwrap_or_default())
        };
        assert!(refused(&[("kafka.topic_prefix", "x")]).contains("--kafka HOST:PORT"));
        assert!(refused(&[("kafka.broker", "x")]).contains("Did you mean kafka.brokers?"));
        assert!(refused(&[("sinks.a.brokers", "x")]).contains("[sinks.a] has no type"));
        assert!(refused(&[("sinks.a.type", "kafak")]).contains("Did you mean type = \"kafka\"?"));
        assert!(refused(&[("sinks.a/b.type", "kafka")]).contains("cannot be the name"));
        let twice = [("kafka.brokers", "b:1"), ("sinks.kafka.type", "kafka"), ("sinks.kafka.brokers", "c:1")];
        assert!(refused(&twice).contains("the same door"));
    }
}

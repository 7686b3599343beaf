//! The configuration as it counts, with where each value comes from, without secrets.

use std::fmt::Write as _;

use rowcast_engine::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::Config;
use super::secrets::{HIDDEN, is_secret};
use super::sinks::Sink;
use super::value::{Node, Table, Value};

/// As TOML that could be a file again, apart from what is hidden.
pub(crate) fn show(config: &Config) -> Result<String> {
    let mut out = String::new();
    line(&mut out, "data", &Json::from(config.data.display().to_string()), config.said.get("data"));
    section(&mut out, "source", &config.source, said(config, &["source"]))?;
    section(&mut out, "journal", &config.journal, said(config, &["journal"]))?;
    section(&mut out, "http", &config.http, said(config, &["http"]))?;
    for (name, sink) in config.sinks.iter() {
        let (title, said) = match (said(config, &["sinks", name]), said(config, &["kafka"])) {
            (None, Some(table)) => ("kafka".to_owned(), Some(table)),
            (table, _) => (format!("sinks.{name}"), table),
        };
        sink_section(&mut out, &title, sink, said)?;
    }
    Ok(out)
}

#[cfg(feature = "kafka")]
fn sink_section(out: &mut String, title: &str, sink: &Sink, said: Option<&Table>) -> Result<()> {
    let Sink::Kafka(config) = sink;
    section(out, title, config, said)
}

#[cfg(not(feature = "kafka"))]
fn sink_section(_: &mut String, _: &str, sink: &Sink, _: Option<&Table>) -> Result<()> {
    match *sink {}
}

/// What was said in a section.
fn said<'a>(config: &'a Config, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(&config.said, |table, name| below(table, name))
}

fn below<'a>(table: &'a Table, name: &str) -> Option<&'a Table> {
    match &table.get(name)?.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn section(out: &mut String, title: &str, values: &impl Serialize, said: Option<&Table>) -> Result<()> {
    let values = serde_json::to_value(values)
        .map_err(|error| Error::failed(format!("Cannot show the section {title}")).because(error))?;
    let Json::Object(values) = values else { return Ok(()) };
    let _ = writeln!(out, "\n[{title}]");
    // A sink's type is read before its other keys.
    if let Some(kind) = said.and_then(|said| said.get("type")) {
        line(out, "type", &Json::from("kafka"), Some(kind));
    }
    table(out, title, &values, said);
    Ok(())
}

fn table(out: &mut String, title: &str, values: &Map<String, Json>, said: Option<&Table>) {
    let is_section = |value: &Json| value.as_object().is_some_and(|inner| !inner.is_empty());
    for (name, value) in values.iter().filter(|(_, value)| !value.is_object()) {
        let origin = said.and_then(|said| said.get(name).or_else(|| said.get(&format!("{name}_file"))));
        line(out, name, value, origin);
    }
    for (name, value) in values.iter().filter(|(_, value)| is_section(value)) {
        let _ = writeln!(out, "\n[{title}.{name}]");
        if let Some(inner) = value.as_object() {
            table(out, &format!("{title}.{name}"), inner, said.and_then(|said| below(said, name)));
        }
    }
}

/// One key; a key that has no value of its own is left out, as it would be in a file.
fn line(out: &mut String, name: &str, value: &Json, said: Option<&Node>) {
    let shown = match value {
        // What nothing works without is missed.
        Json::Null if name == "url" => return out.push_str("# url is not set\n"),
        Json::Null => return,
        _ if is_secret(name) => Json::from(HIDDEN).to_string(),
        // For texts, numbers, truth values and lists of them JSON is TOML.
        value => value.to_string(),
    };
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let name = if name.bytes().all(bare) { name.to_owned() } else { Json::from(name).to_string() };
    let _ = match said {
        Some(node) => writeln!(out, "{name} = {shown}  # {}", node.origin),
        None => writeln!(out, "{name} = {shown}"),
    };
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::super::value::{Assignment, Origin};
    use super::*;

    fn shown(pairs: &[(&str, &str)]) -> String {
        let set = |(key, value): &(&str, &str)| Assignment::dotted(key, *value, Origin::Set);
        let tree = tree::build(pairs.iter().map(set).collect()).unwrap();
        show(&Config::new(tree).unwrap()).unwrap()
    }

    #[test]
    fn it_can_be_read_again_and_says_where_from() {
        let text = shown(&[("http.listen", "127.0.0.1:0"), ("source.url", "postgres://me:sesame@h:1/d")]);
        assert!(text.contains("listen = \"127.0.0.1:0\"  # --set\n"), "{text}");
        assert!(
            text.starts_with("data = \"rowcast-data\"\n\n[source]\nurl = \"postgres://me@h:1/d"),
            "{text}"
        );
        assert!(text.contains("\nretention = \"1d\"\n") && !text.contains("sesame"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shown.toml");
        std::fs::write(&file, &text).unwrap();
        let again = super::super::load(Some(&file), vec![]).unwrap();
        assert_eq!(again.http.listen, "127.0.0.1:0");
    }

    #[test]
    fn a_source_that_nobody_named_is_not_set() {
        for pairs in [&[][..], &[("source.url", "  ")]] {
            let text = shown(pairs);
            assert!(text.contains("[source]\n# url is not set\n"), "{text}");
            assert!(!text.contains("not readable"), "{text}");
        }
        assert!(shown(&[("source.url", "mysql://h/d")]).contains("url = \"(not readable)\"  # --set\n"));
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn secrets_stay_hidden() {
        let text = shown(&[
            ("kafka.brokers", "b:1"),
            ("kafka.properties.sasl.password", "sesame"),
            ("kafka.properties.linger.ms", "5"),
        ]);
        assert!(text.contains("[kafka.properties]\n\"linger.ms\" = \"5\"  # --set\n"), "{text}");
        assert!(text.contains("\"sasl.password\" = \"(hidden)\"") && !text.contains("sesame"), "{text}");
    }
}

//! What somebody said about a key, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a file.
    File {
        /// Its path as it was given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// By a variable of the environment.
    Environment(String),
    /// By a flag of its own.
    Flag(&'static str),
    /// By `--set`.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// A value before its type is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Typed where there are no types: the command line, the environment. Becomes whatever is wanted.
    Text(String),
    /// A string of a file.
    String(String),
    /// A whole number of a file.
    Integer(i64),
    /// A number of a file.
    Float(f64),
    /// A truth value of a file.
    Boolean(bool),
    /// A list of a file.
    List(Vec<Self>),
    /// A section.
    Table(Table),
}

/// A section: keys and what was said of them.
pub(crate) type Table = BTreeMap<String, Node>;

/// A value and where it was given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// The value.
    pub(crate) value: Value,
    /// Where it was given last.
    pub(crate) origin: Origin,
}

/// One key and its value, from one origin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    /// The key's parts: `["http", "listen"]`.
    pub(crate) path: Vec<String>,
    /// What it becomes.
    pub(crate) value: Value,
    /// Who said so.
    pub(crate) origin: Origin,
}

/// Sections whose keys have dots in them: whatever follows is one name.
const FLAT: [&str; 2] = ["properties", "debezium"];

/// How many parts lead to the flat section that a path goes into.
pub(crate) fn flat_depth(path: &[String]) -> Option<usize> {
    match path {
        [kafka, table, ..] if kafka == "kafka" && FLAT.contains(&table.as_str()) => Some(2),
        [sinks, _, table, ..] if sinks == "sinks" && FLAT.contains(&table.as_str()) => Some(3),
        _ => None,
    }
}

impl Assignment {
    /// From the parts of a key; those behind a flat section become one.
    pub(crate) fn new(mut path: Vec<String>, value: Value, origin: Origin) -> Self {
        if let Some(depth) = flat_depth(&path).filter(|depth| path.len() > *depth) {
            let name = path.split_off(depth).join(".");
            path.push(name);
        }
        Self { path, value, origin }
    }

    /// From a key as it is written on the command line: `http.listen`.
    pub(crate) fn dotted(key: &str, value: impl Into<String>, origin: Origin) -> Self {
        Self::new(key.split('.').map(str::to_owned).collect(), Value::Text(value.into()), origin)
    }

    /// From a variable of the environment behind its prefix: `HTTP__LISTEN`.
    pub(crate) fn variable(name: &str, value: String, origin: Origin) -> Self {
        let mut path: Vec<String> = name.split("__").map(str::to_lowercase).collect();
        if let Some(depth) = flat_depth(&path) {
            path.iter_mut().skip(depth).for_each(|part| *part = part.replace('_', "."));
        }
        Self::new(path, Value::Text(value), origin)
    }

    /// The key as people write it.
    pub(crate) fn key(&self) -> String {
        self.path.join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_behind_flat_sections_are_one() {
        let path = |key: &str| Assignment::dotted(key, "", Origin::Set).path;
        assert_eq!(
            path("kafka.debezium.decimal.handling.mode"),
            ["kafka", "debezium", "decimal.handling.mode"]
        );
        assert_eq!(path("sinks.big.properties.linger.ms"), ["sinks", "big", "properties", "linger.ms"]);
        assert_eq!(path("http.listen"), ["http", "listen"]);
        assert_eq!(path("kafka.debezium"), ["kafka", "debezium"]);
    }

    #[test]
    fn variables_write_dots_of_names_as_underscores() {
        let path = |name: &str| Assignment::variable(name, String::new(), Origin::Set).path;
        assert_eq!(path("SOURCE__URL_FILE"), ["source", "url_file"]);
        assert_eq!(path("KAFKA__PROPERTIES__SASL_PASSWORD"), ["kafka", "properties", "sasl.password"]);
        assert_eq!(path("SINKS__BIG__DEBEZIUM__A_B"), ["sinks", "big", "debezium", "a.b"]);
    }
}

//! Tables of options whose names have dots in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A value as a configuration file may have it. `linger.ms = 5` without quotes around the name is a table in a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Table(BTreeMap<String, Self>),
}

/// Reads a table, nested or not, as one of full names and texts.
pub(crate) fn map<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut flat = BTreeMap::new();
    flatten("", BTreeMap::deserialize(from)?, &mut flat);
    Ok(flat)
}

fn flatten(prefix: &str, table: BTreeMap<String, Value>, flat: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let name = format!("{prefix}{name}");
        let text = match value {
            Value::Boolean(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(value) => value,
            Value::Table(table) => {
                flatten(&format!("{name}."), table, flat);
                continue;
            }
        };
        flat.insert(name, text);
    }
}

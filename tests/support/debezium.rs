//! Tables rebuilt from Debezium-shaped Kafka records.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::Database;
use super::database::Table;
use super::kafka::Record;
use super::rebuild::{Rebuilt, compare};

/// What stands for a TOASTed value that did not change and was not sent.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Tables rebuilt from the topics `{prefix}.{schema}.{table}`, which may tell a thing twice but never out of order.
pub(crate) struct DebeziumTables {
    prefix: String,
    tables: BTreeMap<String, Rebuilt>,
    told: HashSet<(u64, u64)>,
    /// By event: rows whose key changed, gone under the old key and not yet there under the new one.
    moved: HashMap<u64, Value>,
    /// The newest event of each partition.
    newest: HashMap<(String, i32), u64>,
    /// Up to this event rows from before may be missing, which a snapshot brings.
    filling_until: u64,
    /// Records that had been told before.
    pub(crate) repeated: u64,
    /// How many were applied.
    pub(crate) count: u64,
    /// How many of them are rows that a snapshot read.
    pub(crate) reads: u64,
}

impl DebeziumTables {
    /// Empty tables of these shapes.
    pub(crate) fn new(prefix: &str, tables: &[Table]) -> Self {
        Self {
            prefix: prefix.to_owned(),
            tables: tables.iter().map(|table| (table.channel.clone(), Rebuilt::new(table))).collect(),
            told: HashSet::new(),
            moved: HashMap::new(),
            newest: HashMap::new(),
            filling_until: 0,
            repeated: 0,
            count: 0,
            reads: 0,
        }
    }

    /// Tables with rows from before, which a snapshot brings.
    pub(crate) fn filling(mut self) -> Self {
        self.filling_until = u64::MAX;
        self
    }

    /// What comes behind the newest event of this channel has to fit. Other partitions may not have come that far.
    pub(crate) fn filled_behind(&mut self, channel: &str) {
        let topic = format!("{}.{channel}", self.prefix);
        let newest = self.newest.iter().filter(|((of, _), _)| *of == topic).map(|(_, id)| *id);
        self.filling_until = newest.max().expect("an event of the channel");
    }

    /// Applies one record.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), String> {
        let identity = (header(record, "rowcast.id")?, header(record, "rowcast.part")?);
        if !self.told.insert(identity) {
            self.repeated += 1;
            return Ok(());
        }
        self.count += 1;
        self.reads += u64::from(record.value.as_ref().is_some_and(|value| value["op"] == "r"));
        let newest = self.newest.entry((record.topic.clone(), record.partition)).or_default();
        if identity.0 < *newest {
            return Err(format!("The number after {newest} is {}: {record:?}", identity.0));
        }
        *newest = identity.0;
        let channel = record.topic.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('.'));
        let channel = channel.ok_or_else(|| format!("A topic of somebody else: {}", record.topic))?;
        // Custom channels have topics, too.
        let Some(table) = self.tables.get_mut(channel) else { return Ok(()) };
        table.filling = identity.0 <= self.filling_until;
        let moved = self.moved.remove(&identity.0);
        let gone = change(table, record, moved).map_err(|error| format!("{error}: {record:?}"))?;
        if record.headers.contains_key("__debezium.newkey") {
            self.moved.extend(gone.map(|row| (identity.0, row)));
        }
        Ok(())
    }

    /// How many events were told, each in one record or several.
    pub(crate) fn events(&self) -> u64 {
        self.told.iter().filter(|(_, part)| *part == 0).count() as u64
    }

    /// A table's rows as rebuilt.
    pub(crate) fn rows(&self, channel: &str) -> Vec<Value> {
        self.tables.get(channel).map(Rebuilt::rows).unwrap_or_default()
    }

    /// The shapes of the tables.
    pub(crate) fn tables(&self) -> Vec<Table> {
        self.tables.values().map(|rebuilt| rebuilt.table.clone()).collect()
    }

    /// The rows of the database, intervals as Debezium counts them.
    pub(crate) async fn expected(tables: &[Table], database: &Database) -> Vec<(String, Vec<Value>)> {
        let mut expected = Vec::new();
        for table in tables {
            let rows = database.rows(&table.channel).await;
            expected.push((table.channel.clone(), rows.iter().map(|row| counted(table, row)).collect()));
        }
        expected
    }

    /// Compares with the rows expected; the error shows some that differ.
    pub(crate) fn compare(&self, expected: &[(String, Vec<Value>)]) -> Result<(), String> {
        expected.iter().try_for_each(|(channel, rows)| compare(channel, &self.tables[channel].rows(), rows))
    }
}

/// Only an interval cannot be had back from what Debezium writes, so the table's own are brought there, too.
fn counted(table: &Table, row: &Value) -> Value {
    let count = |(name, ty): &(String, String)| match row[name].as_str() {
        Some(text) if ty == "interval" => (name.clone(), micros(text).into()),
        _ => (name.clone(), row[name].clone()),
    };
    table.columns.iter().map(count).collect()
}

/// Microseconds of `P1Y2M-3DT4H-5M6.5S`, a month being the twelfth part of 365.25 days.
fn micros(interval: &str) -> i64 {
    const DATE: &[(&str, i64)] = &[("Y", 31_557_600), ("M", 2_629_800), ("W", 604_800), ("D", 86_400)];
    const TIME: &[(&str, i64)] = &[("H", 3_600), ("M", 60), ("S", 1)];
    let (date, time) = interval[1..].split_once('T').unwrap_or((&interval[1..], ""));
    let sum = |text: &str, units: &[(&str, i64)]| -> i64 {
        let parts = text.split_inclusive(char::is_alphabetic).map(|part| part.split_at(part.len() - 1));
        let count = |(number, unit): (&str, &str)| {
            let seconds = units.iter().find(|(name, _)| *name == unit).expect("a unit").1;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            format!("{whole}{fraction:0<6}").parse::<i64>().expect("a number") * seconds
        };
        parts.map(count).sum()
    };
    sum(date, DATE) + sum(time, TIME)
}

fn header(record: &Record, name: &str) -> Result<u64, String> {
    let text = record.headers.get(name).ok_or_else(|| format!("No header {name}: {record:?}"))?;
    text.parse().map_err(|_| format!("Header {name} is {text}"))
}

/// Applies one record; gives the row that it removed, or `moved` again while it is not there yet.
fn change(table: &mut Rebuilt, record: &Record, moved: Option<Value>) -> Result<Option<Value>, String> {
    // A tombstone follows its delete and says nothing new.
    let Some(value) = &record.value else { return Ok(moved) };
    let keyless = table.table.key.is_empty();
    match value["op"].as_str() {
        Some(op @ ("c" | "r" | "u")) => {
            let mut row = restore(&table.table, &value["after"])?;
            if keyless {
                if op == "u" {
                    table.remove(&restore(&table.table, &value["before"])?)?;
                }
                return table.insert(&row).map(|()| None);
            }
            let old = moved.or_else(|| table.find(&row));
            fill(table, &mut row, old.as_ref())?;
            table.put(&row)?;
        }
        Some("d") => {
            let old = if keyless { &value["before"] } else { &record.key };
            let row = restore(&table.table, old)?;
            return table.take(&row);
        }
        Some("t") => table.clear(),
        op => return Err(format!("Op {op:?}")),
    }
    Ok(None)
}

/// Takes the values that were not sent from the row as it was.
fn fill(table: &Rebuilt, row: &mut Map<String, Value>, old: Option<&Value>) -> Result<(), String> {
    for (name, _) in &table.table.columns {
        match old.and_then(|old| old.get(name)) {
            _ if row.contains_key(name) => {}
            Some(value) => _ = row.insert(name.clone(), value.clone()),
            None if table.filling => {}
            None => return Err(format!("No value of {name}, and no old one")),
        }
    }
    Ok(())
}

/// The row as Postgres' `to_jsonb` has it, from Debezium's rendering, without the values that were not sent.
fn restore(table: &Table, row: &Value) -> Result<Map<String, Value>, String> {
    let row = row.as_object().ok_or("No row")?;
    row.iter()
        .filter(|(_, value)| !unavailable(value))
        .map(|(name, value)| {
            let ty = table.columns.iter().find(|(column, _)| column == name).map(|(_, ty)| ty.as_str());
            let value = restore_value(ty.ok_or_else(|| format!("No column {name}"))?, value);
            Ok((name.clone(), value.map_err(|error| format!("{name}: {error}"))?))
        })
        .collect()
}

/// Whether it stands for a value that was not sent: as text, as bytes, or in an array.
fn unavailable(value: &Value) -> bool {
    match value {
        Value::String(text) => text == UNAVAILABLE || *text == BASE64.encode(UNAVAILABLE),
        Value::Array(values) => values.len() == 1 && unavailable(&values[0]),
        _ => false,
    }
}

fn restore_value(ty: &str, value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    if let (Some(element), Some(values)) = (ty.strip_suffix("[]"), value.as_array()) {
        return values.iter().map(|value| restore_value(element, value)).collect();
    }
    let (name, modifier) = split_type(ty);
    let text = || value.as_str().ok_or_else(|| format!("{value} is no string of type {ty}"));
    let number = || value.as_i64().ok_or_else(|| format!("{value} is no integer of type {ty}"));
    let bytes = || BASE64.decode(text()?).map_err(|error| format!("{value}: {error}"));
    let restored = match name {
        "numeric" if value.is_object() => {
            let unscaled = restore_bytes(&value["value"])?;
            decimal(&unscaled, usize::try_from(value["scale"].as_u64().ok_or("No scale")?).unwrap_or(0))?
        }
        "numeric" => {
            let scale = modifier.and_then(|modifier| modifier.split(',').nth(1)).unwrap_or("0");
            decimal(&bytes()?, scale.parse().map_err(|_| format!("{ty} has no scale"))?)?
        }
        "money" => decimal(&bytes()?, 2)?,
        "bytea" => format!("\\x{}", bytes()?.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        "json" | "jsonb" | "hstore" => {
            return serde_json::from_str(text()?).map_err(|error| error.to_string());
        }
        "date" => date(number()?),
        "timestamp without time zone" => timestamp(number()? * multiple(modifier)),
        "time without time zone" => time(number()? * multiple(modifier)),
        "timestamp with time zone" => trim_fraction(text()?, 'Z', "+00:00"),
        "time with time zone" => trim_fraction(text()?, 'Z', "+00"),
        "bit" if modifier == Some("1") => String::from(if value == true { "1" } else { "0" }),
        "bit" | "bit varying" => {
            let length =
                modifier.and_then(|modifier| modifier.parse().ok()).ok_or("A bit string of no length")?;
            bits(&bytes()?, length)
        }
        _ => return Ok(value.clone()),
    };
    Ok(restored.into())
}

fn restore_bytes(value: &Value) -> Result<Vec<u8>, String> {
    BASE64.decode(value.as_str().ok_or("No bytes")?).map_err(|error| error.to_string())
}

/// `timestamp(3) without time zone` is `timestamp without time zone` with the modifier `3`.
fn split_type(ty: &str) -> (&str, Option<&str>) {
    let plain = [
        "timestamp without time zone",
        "timestamp with time zone",
        "time without time zone",
        "time with time zone",
    ];
    let Some((name, rest)) = ty.split_once('(') else { return (ty, None) };
    let Some((modifier, suffix)) = rest.split_once(')') else { return (ty, None) };
    let whole = plain.into_iter().find(|plain| plain.strip_prefix(name).is_some_and(|rest| rest == suffix));
    (whole.unwrap_or(name), Some(modifier))
}

/// Up to three digits of a second's fraction come in milliseconds, more in microseconds.
fn multiple(modifier: Option<&str>) -> i64 {
    match modifier.and_then(|digits| digits.parse::<u8>().ok()) {
        Some(0..=3) => 1_000,
        _ => 1,
    }
}

/// A big-endian two's complement number with its decimal point `scale` digits from the right. Up to 128 bits.
fn decimal(unscaled: &[u8], scale: usize) -> Result<String, String> {
    if unscaled.is_empty() || unscaled.len() > 16 {
        return Err(format!("A decimal of {} bytes", unscaled.len()));
    }
    let fill = if unscaled[0] & 0x80 == 0 { 0 } else { 0xff };
    let mut bytes = [fill; 16];
    bytes[16 - unscaled.len()..].copy_from_slice(unscaled);
    let number = i128::from_be_bytes(bytes);
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if number < 0 { "-" } else { "" };
    let point = if scale == 0 { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{fraction}"))
}

/// Days since 1970-01-01 as `to_jsonb` prints a date.
fn date(days: i64) -> String {
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": civil_from_days.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    }
}

fn timestamp(micros: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let (date, time) = (date(micros.div_euclid(DAY)), time(micros.rem_euclid(DAY)));
    match date.strip_suffix(" BC") {
        Some(date) => format!("{date}T{time} BC"),
        None => format!("{date}T{time}"),
    }
}

fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    trim_fraction(&format!("{hours:02}:{minutes:02}:{seconds:02}.{fraction:06}Z"), 'Z', "")
}

/// `12:00:00.120000Z` as `12:00:00.12` and the ending that Postgres writes.
fn trim_fraction(text: &str, zone: char, ending: &str) -> String {
    let text = text.strip_suffix(zone).unwrap_or(text);
    let trimmed = match text.split_once('.') {
        Some((whole, fraction)) => match fraction.trim_end_matches('0') {
            "" => whole.to_owned(),
            fraction => format!("{whole}.{fraction}"),
        },
        None => text.to_owned(),
    };
    trimmed + ending
}

/// Bit strings come with the last bit first, in the lowest bit of the first byte.
fn bits(bytes: &[u8], length: usize) -> String {
    let bit = |index: usize| bytes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    (0..length).rev().map(|index| if bit(index) { '1' } else { '0' }).collect()
}

/// As in the recording of Debezium's, `data/debezium/types`.
#[test]
fn counts_intervals_as_debezium_does() {
    for (interval, count) in [
        ("P1Y2M3DT4H5M6.789S", 37_091_106_789_000),
        ("PT0S", 0),
        ("P-1M1D", -2_543_400_000_000),
        ("PT-0.5S", -500_000),
    ] {
        assert_eq!(micros(interval), count, "{interval}");
    }
}

#[test]
fn restores_what_debezium_wrote() {
    for (ty, written, restored) in [
        ("numeric(10,2)", r#""ANI=""#, r#""2.10""#),
        ("numeric", r#"{"scale":3,"value":"/w=="}"#, r#""-0.001""#),
        ("date", "-1", r#""1969-12-31""#),
        ("date", "11016", r#""2000-02-29""#),
        ("timestamp without time zone", "951782400120000", r#""2000-02-29T00:00:00.12""#),
        ("timestamp(3) without time zone", "951782400120", r#""2000-02-29T00:00:00.12""#),
        ("timestamp with time zone", r#""2000-02-29T00:00:00Z""#, r#""2000-02-29T00:00:00+00:00""#),
        ("time without time zone", "86399999999", r#""23:59:59.999999""#),
        ("bytea", r#""AQI=""#, r#""\\x0102""#),
        ("jsonb", r#""{\"a\": 1}""#, r#"{"a":1}"#),
        ("bit(9)", r#""AQE=""#, r#""100000001""#),
        ("integer[]", "[1,null]", "[1,null]"),
        ("text", r#""x""#, r#""x""#),
    ] {
        let value: Value = serde_json::from_str(written).unwrap();
        assert_eq!(restore_value(ty, &value).unwrap().to_string(), restored, "{ty}");
    }
}

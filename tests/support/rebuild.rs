//! Tables rebuilt from events, to be compared with the tables themselves.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use super::database::Table;

/// Tables rebuilt from native events. An event that does not fit what came before is an error.
pub(crate) struct Tables {
    tables: BTreeMap<String, Rebuilt>,
    /// The newest event's number.
    pub(crate) last_id: u64,
    /// How many events were applied.
    pub(crate) count: u64,
    /// The payloads of custom events with their channels, in order.
    pub(crate) messages: Vec<(String, Value)>,
    changes: HashSet<(String, u64)>,
    /// The event before, when it was not the last of its transaction.
    open: Option<(String, u64)>,
    filling: bool,
}

/// One table.
pub(super) struct Rebuilt {
    pub(super) table: Table,
    /// By the primary key's values; by the whole row without one, and then a row can be there more than once.
    rows: BTreeMap<String, Vec<Value>>,
    /// Rows from before are still to come.
    pub(super) filling: bool,
}

impl Tables {
    /// Empty tables of these shapes.
    pub(crate) fn new(tables: &[Table]) -> Self {
        Self {
            tables: tables.iter().map(|table| (table.channel.clone(), Rebuilt::new(table))).collect(),
            last_id: 0,
            count: 0,
            messages: Vec::new(),
            changes: HashSet::new(),
            open: None,
            filling: false,
        }
    }

    /// Tables with rows from before, which a snapshot brings.
    pub(crate) fn filling(mut self) -> Self {
        self.fill(true);
        self
    }

    /// Whether rows from before are still to come. Then a change can be one of a row that has not been told, and leave
    /// out values that nobody has; afterwards every change has to fit.
    pub(crate) fn fill(&mut self, filling: bool) {
        self.filling = filling;
        self.tables.values_mut().for_each(|table| table.filling = filling);
    }

    /// Applies one event of a stream that has all channels. Numbers have to rise, every change (LSN and index) to
    /// come once, and every transaction whole and without another's events in between.
    pub(crate) fn apply(&mut self, event: &Value) -> Result<(), String> {
        self.check_number(event)?;
        self.check_transaction(event)?;
        self.change(event).map_err(|error| format!("{error}: {event}"))?;
        self.count += 1;
        Ok(())
    }

    fn check_number(&mut self, event: &Value) -> Result<(), String> {
        let id = event["id"].as_u64().ok_or_else(|| format!("No number: {event}"))?;
        if id <= self.last_id {
            return Err(format!("The number after {} is {id}: {event}", self.last_id));
        }
        self.last_id = id;
        Ok(())
    }

    fn check_transaction(&mut self, event: &Value) -> Result<(), String> {
        let tx = &event["tx"];
        if tx.is_null() {
            return match &self.open {
                Some((open, _)) if event["op"] == "read" => {
                    Err(format!("A row of a snapshot within transaction {open}: {event}"))
                }
                _ => Ok(()),
            };
        }
        let (Some(lsn), Some(seq), Some(last)) =
            (tx["lsn"].as_str(), tx["seq"].as_u64(), tx["last"].as_bool())
        else {
            return Err(format!("A broken tx: {event}"));
        };
        if !self.changes.insert((lsn.to_owned(), seq)) {
            return Err(format!("A change for the second time: {event}"));
        }
        let expected = match &self.open {
            Some((open, before)) if open == lsn => before + 1,
            Some((open, before)) => {
                return Err(format!("Transaction {open} breaks off after {before}, before {event}"));
            }
            None => 0,
        };
        if seq != expected {
            return Err(format!("Index {seq} where {expected} was due: {event}"));
        }
        self.open = (!last).then(|| (lsn.to_owned(), seq));
        Ok(())
    }

    fn change(&mut self, event: &Value) -> Result<(), String> {
        let channel = event["channel"].as_str().ok_or("No channel")?;
        let op = event["op"].as_str().ok_or("No op")?;
        if op == "message" {
            self.messages.push((channel.to_owned(), event["payload"].clone()));
            return Ok(());
        }
        if !event["errors"].is_null() {
            return Err("A value that could not be rendered".into());
        }
        let table = self.tables.get_mut(channel).ok_or("A channel that is no table of the test")?;
        match op {
            "truncate" => table.rows.clear(),
            "insert" => table.insert(row(&event["after"])?)?,
            "read" if self.filling => table.put(row(&event["after"])?)?,
            "read" => return Err("A row of a snapshot that nobody wants".into()),
            "update" => table.update(event)?,
            "delete" => {
                let old = event["before"].as_object().or(event["key"].as_object());
                table.take(old.ok_or("A delete without key and before")?)?;
            }
            _ => return Err("An op that no table knows".into()),
        }
        Ok(())
    }

    /// A table's rows as rebuilt.
    pub(crate) fn rows(&self, channel: &str) -> Vec<Value> {
        self.tables.get(channel).map(Rebuilt::rows).unwrap_or_default()
    }

    /// The names of the tables.
    pub(crate) fn channels(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }
}

impl Rebuilt {
    pub(super) fn new(table: &Table) -> Self {
        Self { table: table.clone(), rows: BTreeMap::new(), filling: false }
    }

    pub(super) fn rows(&self) -> Vec<Value> {
        self.rows.values().flatten().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    /// The values of the primary key (all values without one) as text.
    pub(super) fn key(&self, row: &Map<String, Value>) -> Result<String, String> {
        if self.table.key.is_empty() {
            return Ok(canonical(&Value::Object(row.clone())).to_string());
        }
        let values = self.table.key.iter().map(|column| {
            row.get(column).map(canonical).ok_or_else(|| format!("No value of the key's column {column}"))
        });
        Ok(Value::Array(values.collect::<Result<_, _>>()?).to_string())
    }

    /// The row under the key of this one.
    pub(super) fn find(&self, row: &Map<String, Value>) -> Option<Value> {
        self.rows.get(&self.key(row).ok()?)?.last().cloned()
    }

    pub(super) fn insert(&mut self, row: &Map<String, Value>) -> Result<(), String> {
        if self.filling {
            return self.put(row);
        }
        let rows = self.rows.entry(self.key(row)?).or_default();
        if !self.table.key.is_empty() && !rows.is_empty() {
            return Err("An insert of a key that is there already".into());
        }
        rows.push(Value::Object(row.clone()));
        Ok(())
    }

    /// Inserts or replaces.
    pub(super) fn put(&mut self, row: &Map<String, Value>) -> Result<(), String> {
        let key = self.key(row)?;
        self.rows.insert(key, vec![Value::Object(row.clone())]);
        Ok(())
    }

    fn update(&mut self, event: &Value) -> Result<(), String> {
        let mut after = row(&event["after"])?.clone();
        let old = match event["before"].as_object() {
            Some(before) => self.take(before)?,
            None => self.take(&after)?,
        };
        for column in event["unchanged"].as_array().into_iter().flatten() {
            let column = column.as_str().ok_or("An unchanged column without a name")?;
            if after.contains_key(column) {
                return Err(format!("{column} is unchanged and in after"));
            }
            match old.as_ref().and_then(|old| old.get(column)) {
                Some(value) => _ = after.insert(column.to_owned(), value.clone()),
                None if self.filling => {}
                None => return Err(format!("{column} is unchanged, and no event has told it")),
            }
        }
        self.insert(&after)
    }

    /// Removes a row, which has to be there unless rows are still to come.
    pub(super) fn take(&mut self, row: &Map<String, Value>) -> Result<Option<Value>, String> {
        match self.remove(row) {
            Err(_) if self.filling => Ok(None),
            removed => removed.map(Some),
        }
    }

    pub(super) fn remove(&mut self, row: &Map<String, Value>) -> Result<Value, String> {
        let key = self.key(row)?;
        let rows = self.rows.get_mut(&key).ok_or_else(|| format!("No row {key}"))?;
        let old = rows.pop().ok_or_else(|| format!("No row {key}"))?;
        if rows.is_empty() {
            self.rows.remove(&key);
        }
        Ok(old)
    }
}

fn row(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{value} is no row"))
}

/// Compares rows without regard to their order.
pub(crate) fn compare(channel: &str, rebuilt: &[Value], table: &[Value]) -> Result<(), String> {
    const SHOWN: usize = 3;
    let mut counts = BTreeMap::<String, i64>::new();
    for row in table {
        *counts.entry(canonical(row).to_string()).or_default() += 1;
    }
    for row in rebuilt {
        *counts.entry(canonical(row).to_string()).or_default() -= 1;
    }
    let show = |sign: i64| {
        let rows = counts.iter().filter(|(_, count)| count.signum() == sign);
        rows.map(|(row, _)| row.as_str()).take(SHOWN).collect::<Vec<_>>().join("\n  ")
    };
    if counts.values().all(|count| *count == 0) {
        return Ok(());
    }
    Err(format!(
        "{channel}: {} rows in the table, {} rebuilt; only in the table:\n  {}\nonly rebuilt:\n  {}",
        table.len(),
        rebuilt.len(),
        show(1),
        show(-1)
    ))
}

/// The value with equal jsonb numbers written equally (`1e3`, `1000.0` and `1000`) and members sorted.
pub(crate) fn canonical(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = number.as_f64().map(|float| float.to_string()).unwrap_or_default();
            text.parse::<i64>().map_or_else(|_| value.clone(), Value::from)
        }
        Value::Array(values) => values.iter().map(canonical).collect(),
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> =
                members.iter().map(|(name, value)| (name.clone(), canonical(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        _ => value.clone(),
    }
}

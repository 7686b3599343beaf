//! An event as one line for a person at a terminal.

use serde_json::{Map, Value};

use super::output::{Style, harmless};

/// A part of the line and its colour.
type Part = (u8, String);

const PLAIN: u8 = 0;
const BOLD: u8 = 1;
const FAINT: u8 = 2;
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;

/// `04:05:06.123  update    public.orders  id=7  status: "new" → "paid"`, cut at `width` columns.
pub(crate) fn describe(event: &Value, style: &Style, width: Option<usize>) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let op = text("op");
    let colour = match op {
        "insert" | "read" => GREEN,
        "update" => YELLOW,
        "delete" | "truncate" | "gap" => RED,
        _ => CYAN,
    };
    // 2026-11-21T04:05:06.123456Z: a person at a terminal knows the day.
    let time = text("ts").get(11..23).unwrap_or_default();
    let mut parts = vec![
        (FAINT, format!("{time}  ")),
        (colour, format!("{op:<9} ")),
        (BOLD, format!("{}  ", harmless(text("channel")))),
    ];
    if let Some(key) = event["key"].as_object() {
        parts.push((CYAN, format!("{}  ", columns(key))));
    }
    parts.extend(detail(event, op));
    cut(parts, style, width)
}

fn detail(event: &Value, op: &str) -> Vec<Part> {
    let mut parts = match op {
        "insert" | "read" => vec![(PLAIN, rest(event, &event["after"]))],
        "update" => changes(event),
        "delete" => vec![(FAINT, rest(event, &event["before"]))],
        "message" => vec![(PLAIN, event["payload"].to_string())],
        "gap" => {
            let text = |name: &str| event[name].as_str().unwrap_or_default();
            vec![(RED, format!("{}: {}", text("reason"), text("detail")))]
        }
        _ => Vec::new(),
    };
    if let Some(names) = event["unchanged"].as_array().filter(|names| !names.is_empty()) {
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        parts.push((FAINT, format!("  (not sent, unchanged: {})", names.join(", "))));
    }
    parts
}

/// The columns that differ, where the old row is known; else the new row.
fn changes(event: &Value) -> Vec<Part> {
    let (Some(changed), Some(before)) = (event["changed"].as_array(), event["before"].as_object()) else {
        return vec![(PLAIN, rest(event, &event["after"]))];
    };
    let change = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        let old = before.get(name).unwrap_or(&Value::Null);
        format!("{name}: {old} → {}", event["after"][name])
    };
    vec![(PLAIN, changed.iter().map(change).collect::<Vec<_>>().join(", "))]
}

/// A row without the columns of its key.
fn rest(event: &Value, row: &Value) -> String {
    let Some(row) = row.as_object() else { return String::new() };
    let is_key = |name: &String| event["key"].as_object().is_some_and(|key| key.contains_key(name));
    let rest: Map<String, Value> = row
        .iter()
        .filter(|(name, _)| !is_key(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    columns(&rest)
}

fn columns(row: &Map<String, Value>) -> String {
    row.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Paints the parts, up to `width` characters in all.
fn cut(parts: Vec<Part>, style: &Style, width: Option<usize>) -> String {
    let mut left = width.unwrap_or(usize::MAX);
    let mut line = String::new();
    for (colour, text) in parts {
        let text = harmless(&text);
        let length = text.chars().count();
        let fits = length <= left;
        let text =
            if fits { text } else { text.chars().take(left.saturating_sub(1)).chain(['…']).collect() };
        line.push_str(&if colour == PLAIN { text } else { style.paint(colour, &text) });
        if !fits {
            break;
        }
        left -= length;
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(event: &Value) -> String {
        describe(event, &Style::new(false), None)
    }

    #[test]
    fn each_operation_has_its_line() {
        let row = |op: &str, before: Value, after: Value, changed: Value| {
            json!({"id": 1, "channel": "public.orders", "op": op, "key": {"id": 7}, "before": before, "after": after,
                "changed": changed, "unchanged": [], "ts": "2026-11-21T04:05:06.123456Z"})
        };
        let insert = row("insert", json!(null), json!({"id": 7, "note": "a\u{1b}[31m"}), json!(null));
        assert_eq!(plain(&insert), "04:05:06.123  insert    public.orders  id=7  note=\"a\\u001b[31m\"");
        let update = row("update", json!({"id": 7, "n": 1}), json!({"id": 7, "n": 2}), json!(["n"]));
        assert_eq!(plain(&update), "04:05:06.123  update    public.orders  id=7  n: 1 → 2");
        let blind = row("update", json!(null), json!({"id": 7, "n": 2}), json!(null));
        assert!(plain(&blind).ends_with("id=7  n=2"));
        let delete = row("delete", json!({"id": 7}), json!(null), json!(null));
        assert!(plain(&delete).ends_with("delete    public.orders  id=7"));
        let message = json!({"channel": "shipped\u{9b}", "op": "message", "payload": {"id": 1}, "ts": ""});
        assert!(plain(&message).ends_with("message   shipped\u{fffd}  {\"id\":1}"));
        let gap = json!({"channel": null, "op": "gap", "reason": "source_lost", "detail": "Slot", "ts": ""});
        assert!(plain(&gap).ends_with("source_lost: Slot"));
    }

    #[test]
    fn long_lines_are_cut() {
        let event = json!({"channel": "c", "op": "message", "payload": "x".repeat(100), "ts": "2026-11-21T04:05:06.123456Z"});
        let line = describe(&event, &Style::new(false), Some(40));
        assert_eq!(line.chars().count(), 40);
        assert!(line.ends_with("xx…"));
        assert!(describe(&event, &Style::new(true), Some(40)).contains("\u{1b}[36mmessage"));
    }
}

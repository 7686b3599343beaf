//! `rowcast.toml`, with the line of each key.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use rowcast_engine::{Error, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{Assignment, Origin, Table, Value, flat_depth};

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Assignment>> {
    let text = fs::read_to_string(path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => {
                "Name one that is there (--config FILE, or ROWCAST_CONFIG), or leave it out: `rowcast run --source …` \
                 needs none"
            }
            ErrorKind::PermissionDenied => "Let the user that rowcast runs as read it",
            ErrorKind::InvalidData => "Write it in UTF-8",
            _ => "Name a file in TOML that can be read",
        };
        Error::usage(format!("Cannot read the configuration file {}", path.display())).because(error).hint(hint)
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Assignment>> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, &span));
        Error::usage(format!("{}, line {line}, is not TOML: {}", path.display(), error.message()))
            .hint(remedy(error.message()))
    })?;
    let mut file = File { path, text, found: Vec::new() };
    file.table(&[], table.get_ref())?;
    Ok(file.found)
}

/// What most mistakes are.
const QUOTES: &str = "Write texts in quotes: listen = \"127.0.0.1:8080\", retention = \"24h\"; numbers, true and \
                      false stand without";
const LISTS: &str = "Write lists with commas and in brackets: tables = [\"public.orders\", \"log.*\"]";
const BACKSLASH: &str =
    "In double quotes a backslash is written twice; in single quotes it stands for itself: 'a\\b'";

/// What to do about each kind of mistake, by a word of the parser's message; the first one that is in it counts.
const REMEDIES: [(&str, &str); 10] = [
    ("must be quoted", QUOTES),
    (
        "unexpected key or value",
        "One key, or one section, stands on a line; a comment behind it begins with #",
    ),
    ("duplicate", "A key or a section stands once in a file: bring the two together"),
    ("comma", LISTS),
    ("array", LISTS),
    ("table", "A section is a name in brackets on a line of its own: [http]"),
    ("unicode", BACKSLASH),
    ("escape", BACKSLASH),
    ("string", "A text ends on its line, with the quote that it begins with: listen = \"127.0.0.1:8080\""),
    ("key", "Write key and value with = between them: listen = \"127.0.0.1:8080\""),
];

fn remedy(message: &str) -> &'static str {
    REMEDIES.iter().find(|(word, _)| message.contains(word)).map_or(QUOTES, |(_, hint)| hint)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<Assignment>,
}

impl File<'_> {
    fn table(&mut self, above: &[String], table: &DeTable<'_>) -> Result<()> {
        for (name, value) in table {
            let mut path = above.to_vec();
            path.push(name.get_ref().clone().into_owned());
            let origin = Origin::File { path: self.path.to_owned(), line: line_of(self.text, &name.span()) };
            if let DeValue::Table(inner) = value.get_ref() {
                // `linger.ms = 5` without quotes is a table for TOML, and a part of the name for us.
                if flat_depth(&path).is_none_or(|depth| path.len() <= depth) {
                    self.found.push(Assignment::new(path.clone(), Value::Table(Table::new()), origin));
                }
                self.table(&path, inner)?;
                continue;
            }
            let value = convert(value).map_err(|what| {
                Error::usage(format!("Wrong value for {} ({origin}): {what}", path.join(".")))
            })?;
            self.found.push(Assignment::new(path, value, origin));
        }
        Ok(())
    }
}

/// A list from text in TOML's notation: `["a", "b"]`.
pub(crate) fn list(text: &str) -> Option<Vec<Value>> {
    let document = format!("list = {text}");
    let table = DeTable::parse(&document).ok()?;
    match convert(table.get_ref().get("list")?) {
        Ok(Value::List(list)) => Some(list),
        _ => None,
    }
}

fn convert(value: &Spanned<DeValue<'_>>) -> Result<Value, &'static str> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::String(text.clone().into_owned())),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Integer)
            .map_err(|_| "the number is too large"),
        DeValue::Float(number) => number.as_str().parse().map(Value::Float).map_err(|_| "it is not a number"),
        DeValue::Boolean(yes) => Ok(Value::Boolean(*yes)),
        DeValue::Array(list) => list.iter().map(convert).collect::<Result<_, _>>().map(Value::List),
        DeValue::Datetime(_) => Err("no key takes a date or time; write lengths of time in quotes: \"24h\""),
        DeValue::Table(_) => Err("no key takes a list of sections"),
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_line() {
        let text =
            "[source]\nurl = \"postgres://h/d\"\ntables = ['a', 'b']\n\n[kafka.properties]\nlinger.ms = 5\n";
        let found = parse(Path::new("r.toml"), text).unwrap();
        let keys: Vec<(String, String)> =
            found.iter().map(|found| (found.key(), found.origin.to_string())).collect();
        let expected = [
            ("kafka", "r.toml, line 5"),
            ("kafka.properties", "r.toml, line 5"),
            ("kafka.properties.linger.ms", "r.toml, line 6"),
            ("source", "r.toml, line 1"),
            ("source.tables", "r.toml, line 3"),
            ("source.url", "r.toml, line 2"),
        ];
        assert_eq!(keys, expected.map(|(key, origin)| (key.to_owned(), origin.to_owned())));
        assert_eq!(found[4].value, Value::List(vec![Value::String("a".into()), Value::String("b".into())]));
    }

    #[test]
    fn each_mistake_has_its_remedy() {
        for (text, hint) in [
            ("listen = 127.0.0.1:80", "Write texts in quotes"),
            ("listen = localhost", "Write texts in quotes"),
            ("listen = \"a\"\nlisten = \"b\"", "stands once"),
            ("[http]\n[http]", "stands once"),
            ("tables = [\"a\" \"b\"]", "Write lists with commas"),
            ("tables = [\"a\"", "Write lists with commas"),
            ("[http\nlisten = \"a\"", "A section is a name in brackets"),
            ("listen = \"a", "A text ends on its line"),
            ("url = \"a\\x\"", "a backslash is written twice"),
            ("url = \"a\\q\"", "a backslash is written twice"),
            ("listen", "with = between"),
            ("listen =", "Write texts in quotes"),
            ("listen = yes", "Write texts in quotes"),
            ("max_connections = 1_", "Write texts in quotes"),
            ("[http]]", "stands on a line"),
            ("listen = \"a\" max_connections = 1", "stands on a line"),
        ] {
            let error = parse(Path::new("r.toml"), text).unwrap_err();
            let remedy = error.remedy().unwrap();
            assert!(remedy.contains(hint), "{text}: {error} | {remedy}");
        }
        let missing = read(Path::new("/nowhere/r.toml")).unwrap_err();
        assert!(missing.remedy().unwrap().contains("--config FILE"), "{missing}");
    }

    #[test]
    fn mistakes_have_their_line() {
        let error = parse(Path::new("r.toml"), "[http]\nlisten = 127.0.0.1:80\n").unwrap_err();
        assert!(error.to_string().starts_with("r.toml, line 2, is not TOML"), "{error}");
        let error = parse(Path::new("r.toml"), "[journal]\n\nretention = 2026-01-01\n").unwrap_err();
        assert!(error.to_string().contains("journal.retention (r.toml, line 3): no key"), "{error}");
    }
}

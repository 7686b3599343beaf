//! Which tables are captured: patterns such as `public.*`.

use rowcast_engine::schema::quoted;
use rowcast_engine::{Error, Result, in_quotes};

/// Schemas that are never captured, whatever a pattern says.
const SYSTEM: [&str; 3] = ["information_schema", "pg_catalog", "rowcast"];

/// The tables that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    wanted: Vec<Pattern>,
    unwanted: Vec<Pattern>,
}

/// `schema.table`, where `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    schema: String,
    table: String,
}

impl Tables {
    /// Reads patterns: `public.orders`, `public.*`, `public.order_*`, `*`. Parts may be SQL-quoted.
    ///
    /// # Errors
    ///
    /// `Kind::Usage` for a pattern without a schema or with an unfinished quote.
    pub(crate) fn parse(wanted: &[String], unwanted: &[String]) -> Result<Self> {
        let parse = |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect::<Result<_>>();
        Ok(Self { wanted: parse(wanted)?, unwanted: parse(unwanted)? })
    }

    /// Whether a table is among them.
    pub(crate) fn matches(&self, schema: &str, table: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, table));
        !is_system(schema) && any(&self.wanted) && !any(&self.unwanted)
    }

    /// Whether a table that the server tells under this name is to be taken in, by its own name or as a part of the tables
    /// above it; left out by its own name it is, whatever is above it. A partition that is told under the name of its root
    /// cannot be left out: whose row that was nobody sees (`setup/exposed.rs`).
    pub(crate) fn takes(&self, schema: &str, table: &str, tree: &[(String, String)]) -> bool {
        !self.excludes(schema, table) && tree.iter().any(|(schema, table)| self.matches(schema, table))
    }

    /// All tables, without those that are to be left out.
    pub(crate) fn all_but_excluded(&self) -> Self {
        let all = Pattern { schema: "*".to_owned(), table: "*".to_owned() };
        Self { wanted: vec![all], unwanted: self.unwanted.clone() }
    }

    /// Whether a table is named among those to leave out.
    pub(crate) fn excludes(&self, schema: &str, table: &str) -> bool {
        self.unwanted.iter().any(|pattern| pattern.matches(schema, table))
    }

    /// Whether anything is to be left out at all.
    pub(crate) fn leaves_out(&self) -> bool {
        !self.unwanted.is_empty()
    }

    /// Each pattern as two of SQL's LIKE, for schema and table, and whether it leaves out.
    pub(crate) fn likes(&self) -> impl Iterator<Item = (bool, String, String)> {
        let likes = |excluded| move |p: &Pattern| (excluded, to_like(&p.schema), to_like(&p.table));
        self.wanted.iter().map(likes(false)).chain(self.unwanted.iter().map(likes(true)))
    }

    /// The patterns without wildcards: tables that are missed when they do not exist.
    pub(crate) fn exact(&self) -> impl Iterator<Item = (&str, &str)> {
        let plain = |pattern: &&Pattern| !pattern.schema.contains('*') && !pattern.table.contains('*');
        self.wanted.iter().filter(plain).map(|pattern| (pattern.schema.as_str(), pattern.table.as_str()))
    }
}

fn is_system(schema: &str) -> bool {
    SYSTEM.contains(&schema) || schema.starts_with("pg_toast") || schema.starts_with("pg_temp")
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self { schema: "*".to_owned(), table: "*".to_owned() });
        }
        let bad = || {
            Error::usage(format!("{} is not a table pattern", in_quotes(text)))
                .hint("Write schema.table, such as public.orders, public.* or * for all")
        };
        let parts = split(text).ok_or_else(bad)?;
        match <[String; 2]>::try_from(parts) {
            Ok([schema, table]) if !schema.is_empty() && !table.is_empty() => Ok(Self { schema, table }),
            _ => Err(bad()),
        }
    }

    fn matches(&self, schema: &str, table: &str) -> bool {
        like(&self.schema, schema) && like(&self.table, table)
    }
}

/// The parts between dots, quotes taken off; `None` when a quote has no end.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut inside = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                parts.last_mut()?.push('"');
            }
            '"' => inside = !inside,
            '.' if !inside => parts.push(String::new()),
            c => parts.last_mut()?.push(c),
        }
    }
    (!inside).then_some(parts)
}

/// Whether `text` is what `pattern` says, `*` standing for any run of characters.
fn like(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    true
}

/// The same pattern for SQL's LIKE.
fn to_like(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len());
    for c in pattern.chars() {
        match c {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', c]),
            c => like.push(c),
        }
    }
    like
}

/// `schema.table` for use in SQL.
pub(crate) fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

/// A name for use in SQL, always quoted, since keywords are many.
pub(crate) fn identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name).trim().to_owned()
}

/// A string for use in SQL.
pub(crate) fn literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text).trim().to_owned()
}

/// A role or database for a remedy: quoted only where it must be.
pub(crate) fn shown(name: &str) -> String {
    quoted(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(wanted: &[&str], unwanted: &[&str]) -> Tables {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Tables::parse(&owned(wanted), &owned(unwanted)).unwrap()
    }

    #[test]
    fn patterns() {
        let some = tables(&["public.*", "shop.orders", "log.day_*_raw"], &["public.secret*"]);
        assert!(some.matches("public", "anything") && some.matches("shop", "orders"));
        assert!(some.matches("log", "day_1_raw") && !some.matches("log", "day_raw"));
        assert!(!some.matches("shop", "orders2") && !some.matches("public", "secrets"));
        assert_eq!(some.exact().collect::<Vec<_>>(), [("shop", "orders")]);
    }

    #[test]
    fn everything_leaves_the_system_out() {
        for all in [tables(&["*"], &[]), tables(&["*.*"], &[])] {
            assert!(all.matches("public", "orders"));
            assert!(!all.matches("pg_catalog", "pg_class") && !all.matches("rowcast", "installation"));
            assert!(!all.matches("pg_toast", "pg_toast_1") && !all.matches("information_schema", "x"));
        }
    }

    #[test]
    fn the_same_patterns_for_sql() {
        let some = tables(&["public.day_*", r#""a%".c"#], &[r"public.x\"]);
        let likes: Vec<_> = some.likes().collect();
        let like = |excluded, schema: &str, table: &str| (excluded, schema.to_owned(), table.to_owned());
        assert_eq!(
            likes,
            [like(false, "public", r"day\_%"), like(false, r"a\%", "c"), like(true, "public", r"x\\")]
        );
    }

    #[test]
    fn a_leaf_can_be_left_out() {
        let tree =
            |names: &[&str]| names.iter().map(|n| ("public".to_owned(), (*n).to_owned())).collect::<Vec<_>>();
        let some = tables(&["public.root"], &["public.leaf_old"]);
        assert!(some.takes("public", "leaf", &tree(&["leaf", "root"])));
        assert!(!some.takes("public", "leaf_old", &tree(&["leaf_old", "root"])));
        assert!(!some.takes("public", "other", &tree(&["other"])));
    }

    #[test]
    fn quotes() {
        let some = tables(&[r#"public."Order.Items""#, r#""a""b".c"#], &[]);
        assert!(some.matches("public", "Order.Items") && some.matches("a\"b", "c"));
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for text in ["orders", "", "a.b.c", "public.", r#"public."x"#] {
            let error = Tables::parse(&[text.to_owned()], &[]).unwrap_err();
            assert_eq!(error.kind(), rowcast_engine::Kind::Usage, "{text}");
        }
    }
}

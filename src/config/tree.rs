//! All assignments together: the later one wins.

use rowcast_engine::{Error, Result, in_quotes};

use super::value::{Assignment, Node, Origin, Table, Value};

/// Keys of which one says the same as the other in another way: giving one takes back the other.
const EITHER: [(&str, &str); 1] = [("url", "url_file")];

/// Makes one tree.
pub(crate) fn build(assignments: Vec<Assignment>) -> Result<Table> {
    let mut tree = Table::new();
    for assignment in assignments {
        place(&mut tree, assignment)?;
    }
    Ok(tree)
}

fn place(tree: &mut Table, assignment: Assignment) -> Result<()> {
    let key = assignment.key();
    let Assignment { path, value, origin } = assignment;
    let Some((name, sections)) = path.split_last().filter(|_| path.iter().all(|part| !part.is_empty()))
    else {
        return Err(Error::usage(format!("{} is not a key ({origin})", in_quotes(&key)))
            .hint("Write section and key with a dot between: --set http.listen=127.0.0.1:8081"));
    };
    let mut table = tree;
    for section in sections {
        let fresh = || Node { value: Value::Table(Table::new()), origin: origin.clone() };
        let node = table.entry(section.clone()).or_insert_with(fresh);
        let Value::Table(inner) = &mut node.value else {
            return Err(Error::usage(format!("{section} is not a section ({})", node.origin)));
        };
        table = inner;
    }
    put(table, name, &key, value, origin)
}

fn put(table: &mut Table, name: &str, key: &str, value: Value, origin: Origin) -> Result<()> {
    let is_section = matches!(value, Value::Table(_));
    match table.get(name).map(|node| (&node.value, &node.origin)) {
        Some((Value::Table(_), _)) if is_section => return Ok(()),
        Some((Value::Table(_), _)) => {
            return Err(Error::usage(format!("{key} is a section and takes no value ({origin})")));
        }
        Some((_, before)) if is_section => {
            return Err(Error::usage(format!("{key} is a value ({before}) and a section ({origin})")));
        }
        _ => {}
    }
    for (one, other) in EITHER {
        if name == one {
            table.remove(other);
        } else if name == other {
            table.remove(one);
        }
    }
    table.insert(name.to_owned(), Node { value, origin });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Assignment {
        Assignment::dotted(key, value, Origin::Set)
    }

    #[test]
    fn the_later_one_wins() {
        let first = Assignment::dotted("http.listen", "a", Origin::Environment("X".into()));
        let tree = build(vec![first, set("http.listen", "b"), set("data", "d")]).unwrap();
        let Value::Table(http) = &tree["http"].value else { panic!("a section") };
        assert_eq!(http["listen"], Node { value: Value::Text("b".into()), origin: Origin::Set });
        assert_eq!(tree["data"].value, Value::Text("d".into()));
    }

    #[test]
    fn an_address_replaces_the_file_that_held_one() {
        let tree = build(vec![set("source.url_file", "/f"), set("source.url", "postgres://h/d")]).unwrap();
        let Value::Table(source) = &tree["source"].value else { panic!("a section") };
        assert_eq!(source.keys().collect::<Vec<_>>(), ["url"]);
    }

    #[test]
    fn sections_and_values_do_not_mix() {
        for (first, second) in [("http", "http.listen"), ("http.listen", "http"), ("a..b", "c"), ("", "c")] {
            assert!(build(vec![set(first, "1"), set(second, "2")]).is_err(), "{first} {second}");
        }
    }
}

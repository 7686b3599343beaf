//! Partitions that `source.exclude` names, and whose rows are captured all the same: the server tells them under the name of
//! a table above them, and which partition a row lies in is nowhere to be seen.

use std::collections::{BTreeMap, HashSet};

use rowcast_engine::schema::Schema;
use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use super::publications::{self, named};
use super::server::Server;
use super::{captured, installation};
use crate::config::Source;
use crate::tables::Tables;
use crate::wire::sql_error;

/// All partitions, each with the tables above it, the root last. What lies in an unlogged one is told nowhere.
const PARTITIONS: &str = "
select n.nspname::text, c.relname::text, c.relkind = 'p', above.schemas, above.names
from pg_class c join pg_namespace n on n.oid = c.relnamespace
cross join lateral (
    select array_agg(k.nspname::text order by a.depth) as schemas, array_agg(r.relname::text order by a.depth) as names
    from pg_partition_ancestors(c.oid) with ordinality a(relid, depth)
    join pg_class r on r.oid = a.relid join pg_namespace k on k.oid = r.relnamespace
    where r.oid <> c.oid) above
where c.relispartition and c.relkind in ('r', 'p') and c.relpersistence = 'p' and above.names is not null
order by 1, 2";

/// Schema and name.
type Name = (String, String);

/// A table below another one.
struct Partition {
    name: Name,
    partitioned: bool,
    above: Vec<Name>,
}

/// One whose rows leave all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) channel: String,
    pub(crate) found: String,
    pub(crate) remedy: String,
}

/// How the publications show trees.
struct Showing {
    via_root: bool,
    /// The options are not ours.
    theirs: bool,
    /// What is captured of a publication that is not ours; ours has all that is wanted.
    captured: Option<HashSet<Name>>,
}

/// All that there are, as it is, or as a start would make it.
///
/// # Errors
///
/// When the server cannot be asked.
pub(crate) async fn read(client: &Client, source: &Source, server: &Server) -> Result<Vec<Exposed>> {
    if !source.tables.leaves_out() {
        return Ok(Vec::new());
    }
    let rows = client.query(PARTITIONS, &[]).await;
    let rows =
        rows.map_err(|error| sql_error("Cannot look for partitions that are to be left out", error))?;
    let partition = |row: &tokio_postgres::Row| {
        let schemas: Vec<String> = row.get(3);
        Partition {
            name: (row.get(0), row.get(1)),
            partitioned: row.get(2),
            above: schemas.into_iter().zip(row.get::<_, Vec<String>>(4)).collect(),
        }
    };
    let partitions: Vec<Partition> = rows.iter().map(partition).collect();
    if !partitions.iter().any(|partition| excludes(&source.tables, &partition.name)) {
        return Ok(Vec::new());
    }
    let showing = showing(client, source, server).await?;
    Ok(find(&partitions, &source.tables, &showing))
}

async fn showing(client: &Client, source: &Source, server: &Server) -> Result<Showing> {
    let there = publications::read(client, server.version, &source.publication).await?;
    let ours = source.manage && publications::are_ours(client, source, server.version).await?;
    Ok(match there {
        Some(there) if !ours => {
            let captured = captured::names(client, source, server.version).await?;
            Showing { via_root: there.via_root, theirs: true, captured: Some(captured.into_iter().collect()) }
        }
        _ => Showing { via_root: source.via_partition_root, theirs: false, captured: None },
    })
}

fn excludes(tables: &Tables, (schema, name): &Name) -> bool {
    tables.excludes(schema, name)
}

fn find(partitions: &[Partition], tables: &Tables, showing: &Showing) -> Vec<Exposed> {
    let matches = |(schema, name): &Name| tables.matches(schema, name);
    let is_captured = |name: &Name| showing.captured.as_ref().is_none_or(|captured| captured.contains(name));
    let excluded = partitions.iter().filter(|partition| excludes(tables, &partition.name));
    let told = excluded.filter_map(|partition| {
        if showing.via_root {
            let root = partition.above.iter().rev().find(|name| matches(name) && is_captured(name))?;
            return Some(through(&partition.name, root, partition.partitioned, showing.theirs));
        }
        // Its own partitions are told by their names.
        let wanted = partition.above.iter().any(matches);
        let below = |leaf: &&Partition| {
            leaf.above.contains(&partition.name)
                && !leaf.partitioned
                && !excludes(tables, &leaf.name)
                && is_captured(&leaf.name)
        };
        let leaf = wanted.then(|| partitions.iter().find(below)).flatten()?;
        Some(by_leaf(&partition.name, &leaf.name))
    });
    told.collect()
}

fn through(partition: &Name, root: &Name, partitioned: bool, theirs: bool) -> Exposed {
    let root = Schema::channel_of(&root.0, &root.1);
    let option = if theirs { ", with publish_via_partition_root = false of the publication" } else { "" };
    let below = if partitioned { ", when its own partitions are named there, too" } else { "" };
    Exposed {
        channel: Schema::channel_of(&partition.0, &partition.1),
        found: format!("it is a partition, and its rows are told as those of {root}"),
        remedy: format!(
            "source.via_partition_root = false{option} has partitions told by their own names, and this one left out{below}; \
             or leave {root} out with all its partitions (source.exclude); or take the pattern out of source.exclude"
        ),
    }
}

fn by_leaf(partition: &Name, leaf: &Name) -> Exposed {
    let leaf = Schema::channel_of(&leaf.0, &leaf.1);
    Exposed {
        channel: Schema::channel_of(&partition.0, &partition.1),
        found: format!("its rows lie in partitions of its own, and those of {leaf} are told"),
        remedy: "Name its partitions in source.exclude, too; or take the pattern out of there".to_owned(),
    }
}

/// By channel, for the status.
pub(crate) fn by_channel(exposed: &[Exposed]) -> BTreeMap<String, String> {
    exposed.iter().map(|one| (one.channel.clone(), format!("{}. {}", one.found, one.remedy))).collect()
}

/// Says which those are.
pub(crate) fn warn(exposed: &[Exposed]) {
    let Some(first) = exposed.first() else { return };
    tracing::warn!(
        tables = names(exposed),
        hint = first.remedy,
        "Partitions that source.exclude names are captured all the same: {} ({})",
        first.found,
        first.channel
    );
}

fn names(exposed: &[Exposed]) -> String {
    named(exposed.iter().map(|one| one.channel.clone()))
}

/// Refuses them before a first start has made anything. Later capture does not stop since somebody has attached one: it is
/// told.
pub(super) async fn refuse_first(client: &Client, source: &Source, server: &Server) -> Result<()> {
    if installation::read(client, &source.slot).await?.is_some() {
        return Ok(());
    }
    let exposed = read(client, source, server).await?;
    let Some(first) = exposed.first() else { return Ok(()) };
    let what = format!("source.exclude does not leave out {}: {}", names(&exposed), first.found);
    Err(Error::refused(what).hint(first.remedy.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("public".to_owned(), name.to_owned())
    }

    fn tables(exclude: &[&str]) -> Tables {
        let exclude: Vec<String> = exclude.iter().map(|name| format!("public.{name}")).collect();
        Tables::parse(&["*.*".to_owned()], &exclude).unwrap()
    }

    /// `root` has `a` and `sub`, which has `b` and `c`.
    fn exposed(exclude: &[&str], via_root: bool) -> Vec<String> {
        let partition = |table: &str, partitioned, above: &[&str]| Partition {
            name: name(table),
            partitioned,
            above: above.iter().map(|above| name(above)).collect(),
        };
        let all = [
            partition("a", false, &["root"]),
            partition("b", false, &["sub", "root"]),
            partition("c", false, &["sub", "root"]),
            partition("sub", true, &["root"]),
        ];
        let showing = Showing { via_root, theirs: false, captured: None };
        find(&all, &tables(exclude), &showing).into_iter().map(|one| one.channel).collect()
    }

    #[test]
    fn told_through_the_root_none_is_left_out() {
        assert_eq!(exposed(&["a"], true), ["public.a"]);
        assert_eq!(exposed(&["sub"], true), ["public.sub"]);
        assert_eq!(exposed(&["a", "b"], true), ["public.a", "public.b"]);
        // Then nothing above it is told.
        assert_eq!(exposed(&["root", "a"], true), Vec::<String>::new());
        // `sub` is what is told of it then.
        assert_eq!(exposed(&["root", "b"], true), ["public.b"]);
        assert_eq!(exposed(&["*"], true), Vec::<String>::new());
        assert_eq!(exposed(&["other"], true), Vec::<String>::new());
    }

    #[test]
    fn told_by_their_names_all_are_left_out_but_what_has_partitions() {
        assert_eq!(exposed(&["a", "b"], false), Vec::<String>::new());
        assert_eq!(exposed(&["sub", "b"], false), ["public.sub"]);
        assert_eq!(exposed(&["sub", "b", "c"], false), Vec::<String>::new());
    }

    #[test]
    fn of_a_publication_of_somebody_elses_what_it_shows_counts() {
        let all = [Partition { name: name("a"), partitioned: false, above: vec![name("root")] }];
        let showing = |captured: &[&str]| {
            let captured = captured.iter().map(|table| name(table)).collect();
            Showing { via_root: true, theirs: true, captured: Some(captured) }
        };
        assert_eq!(find(&all, &tables(&["a"]), &showing(&["other"])), []);
        let found = find(&all, &tables(&["a"]), &showing(&["root"]));
        assert!(
            found[0].remedy.contains("publish_via_partition_root = false of the publication"),
            "{found:?}"
        );
    }
}

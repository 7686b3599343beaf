//! Tables that are wanted and that our role may not publish: another role owns them, or their schema may not be used.

use std::collections::BTreeMap;

use rowcast_engine::{Error, Result};

use super::candidates::Table;
use super::publications::listed;
use super::server::{INHERITED_BY_GRANT, Server};
use super::unusable;
use crate::tables::{identifier, shown};

/// Why one is not ours to publish, behind its name.
pub(crate) fn why(table: &Table, server: &Server) -> String {
    let (owner, role) = (shown(&table.owner), shown(&server.role));
    if table.owned {
        let schema = identifier(&table.schema);
        return format!("{role} may not use its schema {schema}, and so not publish it");
    }
    let inherited = if table.uninherited {
        format!(", whose rights {role} does not have by itself, though it is a member (NOINHERIT)")
    } else {
        String::new()
    };
    format!("it belongs to {owner}{inherited}, and only a table's owner may publish it")
}

/// What to do so that rowcast adds it by itself, or does without it.
pub(crate) fn remedy(table: &Table, server: &Server) -> String {
    let (owner, role) = (shown(&table.owner), shown(&server.role));
    if !table.owned && table.superusers {
        let channel = table.channel();
        return format!(
            "Leave it out (source.exclude = ['{channel}']), or give it to another role than {owner}, a superuser, whose rights \
             are not for {role}."
        );
    }
    let membership = match (table.owned, table.uninherited) {
        (true, _) => None,
        (false, false) => Some(format!("GRANT {owner} TO {role};")),
        (false, true) if server.version >= INHERITED_BY_GRANT => {
            Some(format!("GRANT {owner} TO {role} WITH INHERIT TRUE;"))
        }
        (false, true) => Some(format!("ALTER ROLE {role} INHERIT;")),
    };
    let usage = table.unusable.then(|| unusable::remedy(&table.schema, server));
    membership.into_iter().chain(usage).collect::<Vec<_>>().join(" ")
}

/// Those that are in no publication: why, with the remedy, by channel.
pub(super) fn uncaptured(foreign: &[Table], server: &Server) -> BTreeMap<String, String> {
    let absent = foreign.iter().filter(|table| !table.in_all && !table.in_inserts);
    let told = absent.map(|table| {
        let told = format!(
            "{}. {} Or add it to the publication as superuser (`rowcast check` has the SQL){}",
            why(table, server),
            remedy(table, server),
            if table.superusers { "" } else { ", or leave it out (source.exclude)" }
        );
        (table.channel(), told)
    });
    told.collect()
}

/// Refuses them, before a first start has made anything.
pub(super) fn refuse(foreign: &[Table], server: &Server) -> Result<()> {
    let Some(first) = foreign.first() else { return Ok(()) };
    let is_alike = |table: &&Table| (table.owned, table.superusers) == (first.owned, first.superusers);
    let alike: Vec<Table> = foreign.iter().filter(is_alike).cloned().collect();
    let (role, tables) = (identifier(&server.role), listed(&alike));
    let what = if first.owned {
        format!("User {role} may not use the schema of {tables}: what he cannot name he cannot publish")
    } else {
        format!("User {role} does not own {tables}: only a table's owner may publish it")
    };
    Err(Error::refused(what).hint(format!(
        "{} Or capture fewer tables (source.tables); or have an administrator run the SQL that `rowcast check` prints, and \
         set source.manage = false",
        remedy(first, server)
    )))
}

/// Says which those are.
pub(crate) fn warn(foreign: &[Table], publication: &str) {
    let (unusable, others): (Vec<Table>, Vec<Table>) = foreign.iter().cloned().partition(|table| table.owned);
    let (superusers, others): (Vec<Table>, Vec<Table>) =
        others.into_iter().partition(|table| table.superusers);
    if !superusers.is_empty() {
        tracing::warn!(
            tables = listed(&superusers),
            publication,
            "Tables that belong to a superuser are not captured: leave them out (source.exclude), or add them to the publication \
             as superuser (`rowcast check` has the SQL)"
        );
    }
    if !others.is_empty() {
        tracing::warn!(
            tables = listed(&others),
            publication,
            "Tables that belong to another role are not captured: GRANT their owner's role to rowcast's, or add them to the \
             publication as superuser (`rowcast check` has the SQL)"
        );
    }
    if !unusable.is_empty() {
        tracing::warn!(
            tables = listed(&unusable),
            publication,
            "Tables in schemas that rowcast's role may not use are not captured: GRANT USAGE ON SCHEMA (`rowcast check` has \
             the SQL)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table { schema: "S".to_owned(), name: "t".to_owned(), owner: "app".to_owned(), ..Table::default() }
    }

    fn server(version: u32) -> Server {
        Server { role: "cdc".to_owned(), version, ..Server::default() }
    }

    #[test]
    fn each_has_the_sql_that_helps() {
        let uninherited = Table { uninherited: true, ..table() };
        let unusable = Table { owned: true, unusable: true, ..table() };
        for (table, version, expected) in [
            (table(), 150_000, "GRANT app TO cdc;"),
            (uninherited.clone(), 150_000, "ALTER ROLE cdc INHERIT;"),
            (uninherited, 160_000, "GRANT app TO cdc WITH INHERIT TRUE;"),
            (unusable, 160_000, "GRANT USAGE ON SCHEMA \"S\" TO cdc;"),
            (
                Table { superusers: true, ..table() },
                160_000,
                "Leave it out (source.exclude = ['\"S\".t']), or give it to another role than app, a superuser, whose rights are \
                 not for cdc.",
            ),
            (
                Table { unusable: true, ..table() },
                160_000,
                "GRANT app TO cdc; GRANT USAGE ON SCHEMA \"S\" TO cdc;",
            ),
        ] {
            assert_eq!(remedy(&table, &server(version)), expected);
        }
    }
}

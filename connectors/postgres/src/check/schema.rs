//! The schema `rowcast`, and the publications that are kept: whose they are, where they come from, who else may use them.

use rowcast_engine::Result;
use tokio_postgres::{Client, Row};

use super::{Requirement, requirement};
use crate::config::Source;
use crate::setup::migrations;
use crate::setup::owners::{Owners, THINGS};
use crate::setup::publications;
use crate::setup::server::Server;
use crate::tables::{identifier, shown};
use crate::wire::sql_error;

/// It locks every table of the database, those of the schema among them.
const DUMP: &str = "pg_dump by a role that may not read it, such as the application's own, stops there: have it leave that out \
                    (--exclude-schema=rowcast)";

pub(super) async fn of_schema(client: &Client, source: &Source, server: &Server) -> Result<Vec<Requirement>> {
    if !source.manage || server.standby {
        return Ok(Vec::new());
    }
    let failed = |error| sql_error("Cannot look at the schema rowcast", error);
    let there =
        client.query_one("select to_regnamespace('rowcast') is not null", &[]).await.map_err(failed)?;
    let mut all = if there.get(0) {
        let mut all = vec![of_owner(client, server).await?];
        all.extend(of_rights(client).await.map_err(failed)?);
        all
    } else {
        vec![requirement("schema rowcast", true, "not there yet: `rowcast run` makes it", DUMP.to_owned())]
    };
    all.extend(of_publications(client, source, server).await?);
    Ok(all)
}

/// Who runs rowcast alters what is in it, with every new version; and it has to be one role's.
async fn of_owner(client: &Client, server: &Server) -> Result<Requirement> {
    let owners = Owners::read(client, server).await?;
    let Some(first) = owners.misplaced.iter().min_by_key(|thing| thing.ours) else {
        return Ok(if migrations::is_copy(client).await? {
            let found = "its tables and functions are there, the history that says how they came is empty";
            requirement("schema rowcast", false, found, migrations::COPIED.to_owned())
        } else {
            requirement("schema rowcast", true, "there", DUMP.to_owned())
        });
    };
    let (name, owner) = (&first.name, shown(&first.owner));
    let found = if first.ours {
        format!(
            "{name} belongs to {owner}, other parts to {}: the event trigger runs as one of them, and may not call what is \
             the other's",
            shown(&owners.keeper)
        )
    } else {
        format!(
            "{name} belongs to {owner}, not to {}, who cannot keep the schema up to date",
            shown(&server.role)
        )
    };
    Ok(requirement("schema rowcast", false, found, format!("As superuser: {}", owners.remedy())))
}

/// What others than the owner may do there; it may be meant.
async fn of_rights(client: &Client) -> Result<Option<Requirement>, tokio_postgres::Error> {
    let sql = format!(
        "select case grantee when 0 then 'PUBLIC' else grantee::regrole::text end, kind, name, string_agg(right_, ', ' order by right_)
         from (select distinct a.grantee, case kind when 'VIEW' then 'TABLE' else kind end as kind, name, a.privilege_type as right_
               from ({THINGS}) t cross join lateral aclexplode(t.acl) a
               where a.grantee <> t.owner and a.privilege_type <> all(t.everybodys)) granted
         group by 1, 2, 3 order by 1, 2, 3"
    );
    let rows = client.query(&sql, &[]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let told = |row: &Row| -> (String, String) {
        let (who, kind, name, rights): (&str, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        (format!("{who} may {rights} {name}"), format!("REVOKE {rights} ON {kind} {name} FROM {who};"))
    };
    let (found, sql): (Vec<_>, Vec<_>) = rows.iter().map(told).unzip();
    let remedy = format!(
        "Who reads rowcast.secret or calls rowcast.snapshot may have rowcast read any captured table; who writes the rest \
         decides what is captured. If that is not meant (ALTER DEFAULT PRIVILEGES may have done it): {}",
        sql.join(" ")
    );
    Ok(Some(requirement("rights in schema rowcast", true, found.join("; "), remedy)))
}

/// Only its owner changes which tables a publication has.
async fn of_publications(client: &Client, source: &Source, server: &Server) -> Result<Vec<Requirement>> {
    let mut all = Vec::new();
    for name in source.publications() {
        let ours = publications::read(client, server.version, name).await?.is_some_and(|there| there.ours);
        let sql = "select pg_get_userbyid(pubowner)::text from pg_publication
                   where pubname = $1 and not pg_has_role(pubowner, 'USAGE')";
        let row = client.query_opt(sql, &[&name]).await;
        let row =
            row.map_err(|error| sql_error(format!("Cannot see whose the publication {name} is"), error))?;
        let Some(row) = row.filter(|_| ours) else { continue };
        let (owner, role) = (shown(row.get(0)), shown(&server.role));
        let found =
            format!("it belongs to {owner}, not to {role}, who cannot add tables to it or take them out");
        let remedy = format!("As superuser: ALTER PUBLICATION {} OWNER TO {role};", identifier(name));
        all.push(requirement(&format!("publication {name}"), false, found, remedy));
    }
    Ok(all)
}

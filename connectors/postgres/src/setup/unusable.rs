//! Schemas that our role may not use, with tables in publications of ours: a superuser has added them. Nobody can name such
//! a table to take it out again, so one that loses its key stays where its UPDATE and DELETE fail.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::publications::MARK;
use super::server::Server;
use crate::config::Source;
use crate::tables::{identifier, shown};
use crate::wire::sql_error;

/// All that may not be used and have tables in the publications of ours.
const PUBLISHED: &str = "
select distinct n.nspname::text
from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
     join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
where p.pubname in ($1, $2) and starts_with(obj_description(p.oid, 'pg_publication'), $3)
  and not has_schema_privilege(n.oid, 'USAGE')
order by 1";

pub(crate) async fn published(client: &Client, source: &Source) -> Result<Vec<String>> {
    let rows = client.query(PUBLISHED, &[&source.publication, &source.inserts, &MARK]).await;
    let rows = rows.map_err(|error| sql_error("Cannot see which published schemas may be used", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The SQL that lets it be used.
pub(crate) fn remedy(schema: &str, server: &Server) -> String {
    format!("GRANT USAGE ON SCHEMA {} TO {};", identifier(schema), shown(&server.role))
}

pub(super) async fn warn(client: &Client, source: &Source, server: &Server) -> Result<()> {
    let schemas = published(client, source).await?;
    if !schemas.is_empty() {
        let sql: Vec<String> = schemas.iter().map(|schema| remedy(schema, server)).collect();
        tracing::warn!(
            hint = sql.join(" "),
            schemas = schemas.join(", "),
            "{} may not use the schemas of some published tables, and so not take these out of their publication: one that \
             loses its key refuses its UPDATE and DELETE",
            server.role
        );
    }
    Ok(())
}

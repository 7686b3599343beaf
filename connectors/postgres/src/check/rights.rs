//! Rights beside those that capture always needs: to make what is missing, to take tables out of publications, and to have
//! the publications for itself.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::config::Source;
use crate::setup::server::Server;
use crate::setup::{self, publications, unusable};
use crate::tables::{identifier, shown};
use crate::wire::sql_error;

/// Only who makes the schema or a publication needs it; later it may be taken back.
pub(super) async fn of_create(
    client: &Client,
    source: &Source,
    server: &Server,
) -> Result<Option<Requirement>> {
    if !source.manage {
        return Ok(None);
    }
    let missing = missing(client, source, server).await?;
    let (role, database) = (identifier(&server.role), identifier(&server.database));
    let found = match (server.may_create, missing.is_empty()) {
        (true, _) => format!("user {role} may create in database {database}"),
        (false, true) => {
            format!("user {role} may not create in database {database}; all that is needed is there")
        }
        (false, false) => {
            format!("user {role} may not create in database {database}: {} is missing", missing.join(", "))
        }
    };
    let ok = server.may_create || missing.is_empty();
    Ok(Some(requirement("create right", ok, found, (!ok).then(|| server.create_remedy()))))
}

/// What a start would make. Beside a publication of somebody else's it makes none.
async fn missing(client: &Client, source: &Source, server: &Server) -> Result<Vec<String>> {
    let there = client.query_one("select to_regnamespace('rowcast') is not null", &[]).await;
    let there = there.map_err(|error| sql_error("Cannot look for schema rowcast", error))?;
    let mut missing = Vec::new();
    if !there.get::<_, bool>(0) {
        missing.push("the schema rowcast".to_owned());
    }
    for name in source.publications() {
        match publications::read(client, server.version, name).await? {
            Some(publication) if !publication.ours => break,
            Some(_) => {}
            None => missing.push(format!("the publication {name}")),
        }
    }
    Ok(missing)
}

/// Another rowcast that captures with our publications: a start is refused.
pub(super) async fn of_shared(client: &Client, source: &Source) -> Result<Option<Requirement>> {
    if !source.manage {
        return Ok(None);
    }
    let refusal = setup::shared_with(client, source).await?;
    Ok(refusal.map(|error| {
        let remedy = error.remedy().map(str::to_owned);
        requirement("other rowcast", false, error.to_string(), remedy)
    }))
}

/// Schemas of which a superuser has added tables to publications that we keep.
pub(super) async fn of_schemas(
    client: &Client,
    source: &Source,
    server: &Server,
) -> Result<Vec<Requirement>> {
    if !source.manage {
        return Ok(Vec::new());
    }
    let schemas = unusable::published(client, source).await?;
    let told = |schema: &String| {
        let found = format!(
            "{} may not use it, and so not take its tables out of their publication: one that loses its key refuses its UPDATE \
             and DELETE",
            shown(&server.role)
        );
        requirement(&format!("schema {schema}"), false, found, unusable::remedy(schema, server))
    };
    Ok(schemas.iter().map(told).collect())
}

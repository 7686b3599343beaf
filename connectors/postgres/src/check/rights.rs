//! Rights beside those that capture always needs: to make what is missing, to take tables out of publications, and to have
//! the publications for itself.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::config::Source;
use crate::setup::server::Server;
use crate::setup::{self, unusable};
use crate::tables::shown;

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

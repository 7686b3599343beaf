//! Publications of others that publish rowcast's own tables.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::config::Source;
use crate::setup::everything::Everything;
use crate::setup::server::Server;

pub(super) async fn of_all(client: &Client, source: &Source, server: &Server) -> Result<Option<Requirement>> {
    if !source.manage || server.standby {
        return Ok(None);
    }
    let all = Everything::read(client, source, server).await?;
    Ok(all.map(|all| requirement("publications of all tables", !all.hinders(), all.found(), all.remedy())))
}

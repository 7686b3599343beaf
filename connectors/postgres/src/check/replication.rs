//! The connection that the stream comes over: what stands between may let SQL through, and nothing else.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement};
use crate::capture::{replicates, same_server};
use crate::conninfo::Conninfo;
use crate::setup::server::Server;
use crate::wire::{Connection, Purpose};

/// What refuses it gives the reason in its own words.
const REMEDY: &str = "Name the server itself in the source URL, where a pooler stands between: not each passes \
                      replication connections on";

/// One for a moment, and whether it leads to the server of the other one. `None` where it is known that there can be none.
pub(super) async fn of_replication(client: &Client, here: &Conninfo, server: &Server) -> Option<Requirement> {
    if !server.replication || server.senders.used >= server.senders.limit {
        return None;
    }
    let found = match logs_in(client, here).await {
        Ok(()) => requirement("replication connection", true, "it leads to the same server", None),
        Err(error) => {
            let remedy = error.remedy().unwrap_or(REMEDY).to_owned();
            requirement("replication connection", false, error.to_string(), remedy)
        }
    };
    Some(found)
}

async fn logs_in(client: &Client, here: &Conninfo) -> Result<()> {
    let mut connection = Connection::connect(here, Purpose::Replication).await?;
    same_server(client, &mut connection).await?;
    replicates(&mut connection).await
}

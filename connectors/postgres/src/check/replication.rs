//! The connection that the stream comes over: what stands between may let SQL through, and nothing else.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, free, requirement};
use crate::capture::{replicates, same_server};
use crate::config::Source;
use crate::conninfo::Conninfo;
use crate::setup::server::{Server, Usage};
use crate::wire::{Connection, Purpose, sql_error};

/// What refuses it gives the reason in its own words.
const REMEDY: &str = "Name the server itself in the source URL, where a pooler stands between: not each passes \
                      replication connections on";

/// The sender of the stream that runs, which makes way for the next one.
const OWN: &str = "
select count(*) from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
where s.slot_name = $1 and s.plugin = 'pgoutput' and s.database = current_database()";

/// Whether the stream has a sender, or can have one.
pub(super) async fn of_senders(client: &Client, source: &Source, server: &Server) -> Result<Requirement> {
    let row = client.query_one(OWN, &[&source.slot]).await;
    let own: i64 = row.map_err(|error| sql_error("Cannot see who reads the slot", error))?.get(0);
    let Usage { used, limit } = server.senders;
    let others = Usage { used: used - own, limit };
    Ok(free("replication senders", others, "Raise max_wal_senders (restart needed)".to_owned()))
}

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

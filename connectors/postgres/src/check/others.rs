//! The other servers that the source names, to which a fail-over would lead.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, requirement, slots, standbys};
use crate::capture::which_server;
use crate::config::Source;
use crate::conninfo::{Conninfo, Host, TargetServer};
use crate::setup::server::{FAILOVER_SLOTS, Server};
use crate::setup::slot;
use crate::wire::sql_session;

/// What there is at each; `here` has been looked at. One that is away is no obstacle to capture.
pub(super) async fn of_others(
    client: &Client,
    here: &Conninfo,
    source: &Source,
    server: &Server,
) -> Vec<Requirement> {
    let mut all = Vec::new();
    // Where that cannot be seen, each counts as another one.
    let here_is = which_server(client).await.ok();
    for host in source.info.hosts.iter().filter(|host| !here.hosts.iter().any(|here| is_same(here, host))) {
        let info = Conninfo { hosts: vec![host.clone()], target: TargetServer::Any, ..source.info.clone() };
        let found = match of_other(&info, source, (server, here_is.as_deref())).await {
            Ok(found) => found,
            Err(error) => {
                let remedy = error.remedy().unwrap_or("Until then nothing fails over to it").to_owned();
                vec![requirement("connection", true, error.to_string(), remedy)]
            }
        };
        let told = |one: Requirement| Requirement { name: format!("{} at {host}", one.name), ..one };
        all.extend(found.into_iter().map(told));
    }
    all
}

/// Whether a connection to `here`, whose name was looked up, is one to `host`.
fn is_same(here: &Host, host: &Host) -> bool {
    match (here, host) {
        (Host::Tcp { name, port, .. }, Host::Tcp { name: other, port: others, .. }) => {
            name == other && port == others
        }
        _ => here == host,
    }
}

async fn of_other(
    info: &Conninfo,
    source: &Source,
    (here, here_is): (&Server, Option<&str>),
) -> Result<Vec<Requirement>> {
    let (client, _) = sql_session(info).await?;
    let server = Server::read(&client).await?;
    if here_is == Some(which_server(&client).await?.as_str()) {
        return Ok(vec![requirement("server", true, "the same one by another name", None)]);
    }
    if !server.standby {
        let remedy = "Only one can be the source: take the other one out of the source's address, or make it a standby";
        let two = (!here.standby).then(|| remedy.to_owned());
        return Ok(vec![requirement("server", two.is_none(), "it is a primary", two)]);
    }
    let mut found = vec![requirement("server", true, "it is a standby", None)];
    if source.manage {
        found.extend(of_slot(&client, source, &server).await?);
    }
    found.extend(standbys::of_standbys(&client, source, &server).await?);
    Ok(found)
}

/// A copy is what is wanted there.
async fn of_slot(client: &Client, source: &Source, server: &Server) -> Result<Option<Requirement>> {
    let observed = slot::observe(client, source).await?;
    if let Some(left) = slots::of_left_behind(source, server, &observed) {
        return Ok(Some(left));
    }
    if server.version < FAILOVER_SLOTS || !source.failover {
        return Ok(None);
    }
    Ok(Some(match observed.slot {
        Some(slot) if slot.is_ready() => requirement("slot", true, "a copy of the primary's", None),
        Some(slot) if slot.synced => {
            let why = slot.lost().map(|lost| format!(": {}", lost.why)).unwrap_or_default();
            let found = format!("a copy of the primary's that is not ready{why}");
            requirement("slot", true, found, slot::NOT_READY.to_owned())
        }
        _ => {
            let remedy = "A fail-over to it before there is one will be a gap in the history: see sync_replication_slots \
                          there, and its log";
            requirement("slot", true, "no copy of the primary's", remedy.to_owned())
        }
    }))
}

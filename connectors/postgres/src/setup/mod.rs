//! Makes ready what capture needs in the source: schema `rowcast`, publications, slot. With `manage = false` it only
//! looks, and says what is missing and by which SQL it can be had.

pub(crate) mod candidates;
pub(crate) mod creation;
pub(crate) mod installation;
mod migrations;
pub(crate) mod publications;
pub(crate) mod server;
pub(crate) mod slot;

use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use crate::config::Source;
use publications::Reconciled;
use server::Server;

/// Brings schema `rowcast` up to date and makes the publications. The slot comes later, since a publication must be
/// older than the slot's position.
///
/// # Errors
///
/// `Kind::Refused` with the remedy for whatever is not as it must be.
pub(crate) async fn prepare(client: &mut Client, source: &Source, server: &Server) -> Result<()> {
    let slot = if slot::read(client, &source.slot).await?.is_some() {
        publications::Slot::Present
    } else {
        publications::Slot::Absent
    };
    if !source.manage {
        return there(client, source, server, slot).await;
    }
    migrations::apply(client, server).await?;
    let reconciled = publications::reconcile(client, source, server, slot).await?;
    warn_of(source, &reconciled);
    Ok(())
}

/// Nothing may be changed: everything must be there.
async fn there(client: &Client, source: &Source, server: &Server, slot: publications::Slot) -> Result<()> {
    let existing = publications::existing(client, source).await?;
    if !existing.contains(&source.publication) {
        let what =
            format!("The publication {} does not exist, and source.manage is false", source.publication);
        let sql = publications::create_remedy(client, source, server).await?;
        let primary = if server.standby { "On the primary: " } else { "" };
        return Err(Error::refused(what).hint(format!("{primary}{sql}")));
    }
    if slot == publications::Slot::Absent {
        let what = format!("The replication slot {} does not exist, and source.manage is false", source.slot);
        return Err(Error::refused(what).hint(slot::create_remedy(&source.slot, server)));
    }
    Ok(())
}

/// Says what is wanted and not captured.
pub(crate) fn warn_of(source: &Source, reconciled: &Reconciled) {
    if !reconciled.foreign.is_empty() {
        tracing::warn!(
            tables = publications::listed(&reconciled.foreign),
            publication = source.publication,
            "Tables that belong to another role are not captured: add them to the publication as their owner"
        );
    }
}

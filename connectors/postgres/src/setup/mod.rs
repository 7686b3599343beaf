//! Makes ready what capture needs in the source: schema `rowcast`, publications, slot. With `manage = false` it only
//! looks, and says what is missing and by which SQL it can be had.

mod adding;
mod busy;
pub(crate) mod candidates;
pub(crate) mod captured;
pub(crate) mod chosen;
pub(crate) mod contents;
pub(crate) mod creation;
pub(crate) mod everything;
pub(crate) mod exposed;
pub(crate) mod fingerprint;
pub(crate) mod foreign;
pub(crate) mod former;
pub(crate) mod holders;
pub(crate) mod installation;
pub(crate) mod loans;
pub(crate) mod members;
pub(crate) mod migrations;
pub(crate) mod owners;
pub(crate) mod partitions;
pub(crate) mod publications;
pub(crate) mod published;
pub(crate) mod secret;
pub(crate) mod server;
pub(crate) mod shared;
pub(crate) mod slot;
pub(crate) mod synchronous;
pub(crate) mod trigger;
pub(crate) mod unusable;

use std::collections::BTreeSet;

use rowcast_engine::{Error, Kind, Result};
use tokio_postgres::Client;

use crate::config::Source;
use crate::tables::identifier;
use publications::{Known, Reconciled};
use server::Server;
use trigger::Attempt;

/// Brings schema `rowcast` up to date and makes the publications. The slot comes later, since a publication must be
/// older than the slot's position. `left`: tables that were captured and are not.
///
/// # Errors
///
/// `Kind::Refused` with the remedy for whatever is not as it must be.
pub(crate) async fn prepare(
    client: &mut Client,
    source: &Source,
    server: &Server,
    left: BTreeSet<u32>,
) -> Result<Reconciled> {
    if let Some(warning) = server.no_failover(source) {
        tracing::warn!("{warning}");
    }
    let slot = if slot::read(client, &source.slot).await?.is_some() {
        publications::Slot::Present
    } else {
        publications::Slot::Absent
    };
    if !source.manage {
        there(client, source, server, slot).await?;
        if source.ddl && !trigger::tells_ddl(client, source).await? {
            tracing::warn!(
                hint = trigger::REGISTER_DDL,
                "Changes of tables' definitions are not captured (source.ddl): source.manage is false, and no event trigger \
                 tells of them"
            );
        }
        if let Some(sql) = partitions::unseen(client, source, server).await? {
            warn_blind(&sql, "source.manage is false, so that no event trigger makes up for it");
        }
        warn_of_partitions(client, source, server).await?;
        refuse_differing(client, source, server).await?;
        return Ok(Reconciled::default());
    }
    if slot == publications::Slot::Absent {
        refuse_first(client, source, server).await?;
    }
    everything::refuse_first(client, source, server).await?;
    shared::refuse(client, source).await?;
    migrations::apply(client, server).await?;
    let mut known = Known { left, ..Known::default() };
    let reconciled = publications::reconcile(client, source, server, slot, Attempt::Full, &mut known).await?;
    foreign::warn(&reconciled.foreign, &source.publication);
    tell_of(source, &reconciled);
    unusable::warn(client, source, server).await?;
    warn_of_partitions(client, source, server).await?;
    refuse_differing(client, source, server).await?;
    Ok(reconciled)
}

fn warn_blind(sql: &str, why: &str) {
    tracing::warn!(
        hint = sql,
        "PostgreSQL 14 does not see that a partition is attached or detached: run the hint's SQL behind it, in the same \
         transaction ({why})"
    );
}

async fn warn_of_partitions(client: &Client, source: &Source, server: &Server) -> Result<()> {
    if let Some(partitions) = partitions::endangered(client, source, server).await? {
        tracing::warn!(
            partitions,
            hint = partitions::ENDANGERED,
            "PostgreSQL 14 may garble rows of partitions whose columns stand in another order than their root's, and its \
             walsender may crash over them, when they are written in the transaction that attaches the partition, or \
             while it changes"
        );
    }
    Ok(())
}

/// What would be refused further on, told before anything is made: whoever is turned away finds the database as it was.
async fn refuse_first(client: &Client, source: &Source, server: &Server) -> Result<()> {
    if server.slots.used >= server.slots.limit {
        return Err(creation::none_free(&source.slot));
    }
    migrations::refuse_first(client, server).await?;
    publications::refuse_first(client, source, server).await?;
    exposed::refuse_first(client, source, server).await
}

/// The server would break off the stream at the first change of such a table, and for good.
async fn refuse_differing(client: &Client, source: &Source, server: &Server) -> Result<()> {
    let differing = publications::differing(client, source, server).await?;
    let Some((table, name)) = differing.first() else { return Ok(()) };
    let (all, inserts) = (&source.publication, &source.inserts);
    Err(Error::refused(format!("{table} has other columns in the publication {inserts} than in {all}"))
        .hint(format!("ALTER PUBLICATION {} DROP TABLE {name};", identifier(inserts))))
}

/// What a start would refuse, since another rowcast captures with our publications.
pub(crate) async fn shared_with(client: &Client, source: &Source) -> Result<Option<Error>> {
    match shared::refuse(client, source).await {
        Err(error) if error.kind() == Kind::Refused => Ok(Some(error)),
        other => other.map(|()| None),
    }
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
        return Err(Error::refused(what).hint(slot::create_remedy(source, server)));
    }
    Ok(())
}

/// Whether a table of schema `rowcast` is there, and our role may read it.
pub(crate) async fn may_read(
    client: &Client,
    table: &str,
) -> std::result::Result<bool, tokio_postgres::Error> {
    let sql = "select coalesce(has_table_privilege(to_regclass('rowcast.' || $1::text), 'SELECT'), false)";
    client.query_one(sql, &[&table]).await.map(|row| row.get(0))
}

/// Says what is done in another way than it could be.
pub(crate) fn tell_of(source: &Source, reconciled: &Reconciled) {
    if let Some(publication) = &reconciled.theirs {
        tracing::info!(
            publication,
            "The publication was made by somebody else and is left as it is: what it publishes is captured"
        );
    }
    if let Some(sql) = &reconciled.blind {
        let why = match (&reconciled.theirs, &reconciled.no_trigger) {
            (None, Some(reason)) => format!("or have an administrator create the event trigger: {reason}"),
            _ => "the event trigger leaves a publication of somebody else's as it is".to_owned(),
        };
        warn_blind(sql, &why);
    }
    let Some(reason) = &reconciled.no_trigger else { return };
    if source.ddl {
        tracing::warn!("Changes of tables' definitions are not captured (source.ddl): {reason}");
    }
    if reconciled.theirs.is_none() {
        tracing::info!(
            "New tables are found by looking every few seconds, not when they are created: {reason}"
        );
    }
}

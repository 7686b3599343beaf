//! The slot.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{Requirement, free, requirement};
use crate::config::Source;
use crate::setup::creation::slots_remedy;
use crate::setup::installation::{self, ADOPT};
use crate::setup::server::{FAILOVER_SLOTS, Server};
use crate::setup::slot::{self, Observed, Slot};

pub(super) async fn of_slot(client: &Client, source: &Source, server: &Server) -> Result<Vec<Requirement>> {
    let name = &source.slot;
    let observed = slot::observe(client, source).await?;
    let Some(slot) = &observed.slot else {
        let free = free("replication slots", server.slots, slots_remedy());
        let remedy = slot::create_remedy(source, server);
        let remedy =
            if source.manage { format!("`rowcast run` makes it; by hand: {remedy}") } else { remedy };
        // On a standby that is about the primary's slot of that name.
        if let Some(owner) = installation::read(client, name).await?.filter(|_| !server.standby) {
            let found = format!(
                "{name} is gone: installation {} has read it since {}, and what has changed since it went is lost to that one",
                owner.installation, owner.since
            );
            let remedy = format!("With the data directory of that one: {ADOPT}. With a new one: {remedy}");
            return Ok(vec![free, requirement("slot", false, found, remedy)]);
        }
        let missing = format!("{name} does not exist");
        return Ok(vec![free, requirement("slot", source.manage, missing, remedy)]);
    };
    if let Some(left) = of_left_behind(source, server, &observed) {
        return Ok(vec![left]);
    }
    if let Err(error) = slot.fit(source, server) {
        return Ok(vec![requirement("slot", false, error.to_string(), error.remedy().map(str::to_owned))]);
    }
    if let Some(lost) = slot.lost() {
        let found = format!("{name} is lost: {}", lost.why);
        return Ok(vec![requirement("slot", false, found, format!("{}. {ADOPT}", lost.remedy))]);
    }
    let mut text = describe(name, slot, &observed);
    if slot.active {
        let holder = slot::holder(client, name).await?.unwrap_or_else(|| "a session".to_owned());
        text.push_str(&format!(", being read by {holder}"));
    }
    if let Some(owner) = installation::read(client, name).await? {
        text.push_str(&format!(", owned by installation {} since {}", owner.installation, owner.since));
    }
    Ok(vec![requirement("slot", true, text, None)])
}

/// A primary that was replaced and comes back as a standby brings its own slot along, which nobody reads there and which
/// is in the way of the copy.
pub(super) fn of_left_behind(source: &Source, server: &Server, observed: &Observed) -> Option<Requirement> {
    let slot = observed.slot.as_ref()?;
    // Whoever reads from a standby has made its slot there.
    let meant = !source.manage || slot.synced || slot.active || slot.slot_type != "logical";
    if !server.standby || meant {
        return None;
    }
    let blocks =
        if server.version >= FAILOVER_SLOTS { ", and no slot is copied here from the primary" } else { "" };
    let found = format!(
        "{} is this standby's own, from when it was the primary: nobody reads it, {} bytes of log are kept for it{blocks}",
        source.slot,
        observed.retained().unwrap_or(0)
    );
    let remedy = format!("On this standby: {}", slot::drop_sql(&source.slot));
    Some(requirement("slot", false, found, remedy))
}

fn describe(name: &str, slot: &Slot, observed: &Observed) -> String {
    let mut text = name.to_owned();
    if let Some(confirmed) = slot.confirmed_flush_lsn {
        text.push_str(&format!(", confirmed up to {confirmed}"));
    }
    if let Some(kept) = observed.retained() {
        text.push_str(&format!(", the server keeps {kept} bytes of its log for it"));
    }
    if let Some(seconds) = observed.inactive {
        text.push_str(&format!(", not read for {seconds} s"));
    }
    if let Some(left) = slot.safe_wal_size {
        text.push_str(&format!(", lost after {left} more bytes of log"));
    }
    text
}

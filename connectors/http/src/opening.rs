//! Where a reader starts, and what it is told first.

use rowcast_engine::feed::{Filter, Framing, Pattern, ViewKey};
use serde::Serialize;

use crate::app::App;
use crate::query::Query;
use crate::reader::Reader;
use crate::refusal::Refusal;

/// How the server names itself.
pub(crate) const SERVER: &str = concat!("rowcast/", env!("CARGO_PKG_VERSION"));

/// Numbers that a reader asked for and does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    /// The first that is missing.
    pub(crate) from: u64,
    /// The last that is missing.
    pub(crate) to: u64,
    /// `retention`: not held any more. `ahead`: above the newest, so of another history. `source_lost`: this history never
    /// gave the number that was asked for.
    pub(crate) reason: &'static str,
}

/// What a reader is told first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Opening {
    /// The position that was asked for, in numbers: what comes after it is wanted.
    pub(crate) from: u64,
    /// Number of the oldest event that is held.
    pub(crate) oldest: u64,
    /// Number of the newest event.
    pub(crate) newest: u64,
    /// Program and version.
    pub(crate) server: &'static str,
    /// Channels that were asked for by name and have not been seen; they may come.
    pub(crate) unknown: Vec<String>,
    /// Channels that were asked for and cannot tell updates and deletes, for want of a replica identity.
    pub(crate) inserts_only: Vec<String>,
}

/// A reader at its start.
pub(crate) struct Opened {
    /// What it is told first.
    pub(crate) opening: Opening,
    /// What of its wish is not held, told before any event.
    pub(crate) gap: Option<Gap>,
    /// Where it starts: after this.
    pub(crate) position: u64,
    /// It.
    pub(crate) reader: Reader,
}

/// Opens a reader. Every event that commits after this is given out.
pub(crate) async fn open(app: &App, query: &Query, framing: Framing) -> Result<Opened, Refusal> {
    let filter = Filter::new(query.channels.clone(), &query.ops);
    let start = app.feed.start(query.from, &filter).await?;
    let gap = start.gap.map(|(gone, reason)| Gap { from: gone.from, to: gone.to, reason });
    // A client that is cut off between `open` and `gap` has to be told of the gap again.
    let from = match gap {
        None => start.position,
        Some(Gap { to, reason: "ahead", .. }) => to,
        // Still inside what was never given.
        Some(Gap { to, reason: "source_lost", .. }) => to.saturating_sub(1),
        Some(gap) => gap.from.saturating_sub(1),
    };
    let newest = app.journal().newest();
    let opening = Opening {
        from,
        oldest: app.journal().oldest(),
        newest,
        server: SERVER,
        unknown: unknown(app, &query.channels),
        inserts_only: inserts_only(app, &query.channels),
    };
    let key = ViewKey { filter, framing, options: query.options };
    let reader = Reader::new(app.feed.subscribe(key, start.position), newest);
    Ok(Opened { opening, gap, position: start.position, reader })
}

fn unknown(app: &App, patterns: &[Pattern]) -> Vec<String> {
    let exact = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Exact(channel) => Some(channel),
        Pattern::All | Pattern::Prefix(_) => None,
    });
    exact
        .filter(|channel| !app.status.is_table(channel) && !app.channels.contains(channel))
        .cloned()
        .collect()
}

fn inserts_only(app: &App, patterns: &[Pattern]) -> Vec<String> {
    let asked = |channel: &String| patterns.iter().any(|pattern| pattern.matches(channel));
    let tables = app.status.tables().into_iter().filter(|(_, table)| table.inserts_only);
    tables.map(|(channel, _)| channel).filter(asked).collect()
}

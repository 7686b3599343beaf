//! The doors that push: we remember how far the target is.

use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::journal::Gone;
use crate::record::Batch;

/// What a failed delivery means.
#[derive(Debug)]
pub enum SinkError {
    /// May pass: everything since the last commit is sent again, after a pause.
    Retry(Error),
    /// Will not pass without a person: the sink stops, its position stays.
    Stop(Error),
    /// The event `id` is a break in the history, and the sink does not go on behind it by itself. The target has all
    /// before it, and has been told of it.
    Gap {
        /// Its number.
        id: u64,
        /// What is lost, and what to do.
        error: Error,
    },
}

/// Where a sink begins that has no position of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the rows of all captured tables, and the changes from then on: where the source's initial snapshot is still
    /// to come, with that; else with rows that are read for it alone.
    #[default]
    Snapshot,
    /// At the oldest event that the journal holds.
    Earliest,
    /// At what comes next.
    Latest,
}

impl Start {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Earliest => "earliest",
            Self::Latest => "latest",
        }
    }
}

/// What a sink does where the history is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// It stops until a person has looked and resumes it; `rowcast sink resume`.
    #[default]
    Stop,
    /// It tells the target, and goes on behind the gap.
    Continue,
}

/// Events that a target does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Their numbers.
    pub gone: Gone,
    /// Why it does not get them.
    pub reason: Reason,
}

/// Why a target does not get some events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retention has removed them before they were delivered.
    Retention,
    /// A person has moved the sink forward.
    Skipped,
}

impl Reason {
    /// In one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Skipped => "skipped",
        }
    }

    /// In a sentence, for people.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Retention => "Retention has removed events before they were delivered",
            Self::Skipped => "The sink was moved forward by hand, over events that were not delivered",
        }
    }
}

/// A target that events are pushed to.
pub trait Sink: Send {
    /// The name in status, metrics and cursor.
    fn name(&self) -> &str;

    /// Connects, and says where the target stands if the target knows. Called before the first batch and after
    /// each failure.
    fn resume(&mut self) -> impl Future<Output = Result<Option<u64>, SinkError>> + Send;

    /// Takes the events of a batch that are for this sink ([`Batch::events_for`] its name) and come after `after`, in
    /// order. They may still be on their way when this returns.
    fn send(&mut self, batch: &Arc<Batch>, after: u64) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Tells the target of events that it does not get. What comes next lies behind them.
    fn gap(&mut self, missing: Missing) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Returns once the target has everything sent before.
    fn commit(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// The sink is paused or stopped: what is still on its way is dropped, so that nothing arrives before the next
    /// `resume`. Any of the calls above may have been broken off before.
    fn rest(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

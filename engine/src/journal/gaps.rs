//! Breaks in the history that are known of outside the stream.

use crate::error::Result;
use crate::journal::{Append, Journal};
use crate::lsn::Lsn;
use crate::record::Builder;

/// A break in the history of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelGap {
    /// Whose.
    pub channel: String,
    /// In one word, for programs.
    pub reason: &'static str,
    /// For people.
    pub detail: &'static str,
}

impl Journal {
    /// Appends a break in the history of `channel` (empty: of all) and waits until it is durable.
    pub async fn record_gap(&self, channel: &str, reason: &str, detail: &str, at: i64) -> Result<u64> {
        self.record_gap_for(&[], channel, (reason, detail), &[], at).await
    }

    /// Likewise, for these sinks alone, together with notes, so that no crash leaves the one without the other. With no
    /// sinks, for everybody.
    pub async fn record_gap_for(
        &self,
        sinks: &[String],
        channel: &str,
        (reason, detail): (&str, &str),
        notes: &[(String, Vec<u8>)],
        at: i64,
    ) -> Result<u64> {
        let mut builder = Builder::new();
        builder.begin_local_for(sinks, at);
        builder.gap(channel, reason, detail);
        builder.commit_with(Lsn::ZERO, notes);
        self.append(Append { parts: builder.take(), ..Append::default() }).await
    }

    /// Appends breaks in the history of some channels, together with these notes, so that no crash leaves the one without
    /// the other, and waits until they are durable.
    ///
    /// # Errors
    ///
    /// `Kind::Transient`, with nothing stored, when there is no room: whoever came again would tell them twice otherwise.
    pub async fn record_gaps(
        &self,
        gaps: &[ChannelGap],
        notes: &[(String, Vec<u8>)],
        at: i64,
    ) -> Result<u64> {
        self.shared.refuse_unless_open()?;
        let mut builder = Builder::new();
        builder.begin_local(at);
        for ChannelGap { channel, reason, detail } in gaps {
            builder.gap(channel, reason, detail);
        }
        builder.commit_with(Lsn::ZERO, notes);
        self.append_if_room(builder).await
    }
}

//! What a reader asked for.

use crate::event::{Event, Op};
use crate::record::{Batch, Share};

/// A channel or a family of channels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// `*`: all channels.
    All,
    /// `public.*`: all channels whose name begins with `public.`; the dot is kept.
    Prefix(String),
    /// One channel.
    Exact(String),
}

impl Pattern {
    /// Reads a pattern as a client writes it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let quoted = text.contains('"');
        match text {
            "" => Err("A channel must not be empty".to_owned()),
            "*" | "*.*" => Ok(Self::All),
            _ => match text.strip_suffix(".*") {
                Some("") => Err(format!("{text} names no schema")),
                Some(prefix) if quoted || !prefix.contains('*') => Ok(Self::Prefix(format!("{prefix}."))),
                None if quoted || !text.contains('*') => Ok(Self::Exact(text.to_owned())),
                _ => Err(format!("{text} is not a channel, schema.* or *")),
            },
        }
    }

    /// Whether a channel belongs to it.
    pub fn matches(&self, channel: &str) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => channel.starts_with(prefix.as_str()),
            Self::Exact(exact) => exact == channel,
        }
    }
}

/// Channels and operations. Gaps always pass, for the channels they are about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    channels: Vec<Pattern>,
    ops: u8,
}

impl Filter {
    /// `ops` empty means all. The order and doubles of either do not matter: equal filters share a view.
    pub fn new(mut channels: Vec<Pattern>, ops: &[Op]) -> Self {
        channels.sort();
        channels.dedup();
        if channels.contains(&Pattern::All) {
            channels = vec![Pattern::All];
        }
        let asked = ops.iter().fold(0, |mask, op| mask | op.bit());
        Self { channels, ops: if asked == 0 { Op::ANY } else { asked | Op::Gap.bit() } }
    }

    /// The patterns.
    pub fn channels(&self) -> &[Pattern] {
        &self.channels
    }

    /// Whether an event is asked for.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.wants(event.channel(), event.op)
    }

    /// Whether events of a channel with this op are asked for.
    pub fn wants(&self, channel: &str, op: Op) -> bool {
        self.ops & op.bit() != 0 && self.takes(channel, op == Op::Gap)
    }

    /// Whether a batch can hold anything that is asked for.
    pub fn matches_batch(&self, batch: &Batch) -> bool {
        batch.shares().iter().any(|share| self.matches_share(share))
    }

    fn matches_share(&self, share: &Share) -> bool {
        share.ops & self.ops != 0 && self.takes(share.channel(), share.ops & Op::Gap.bit() != 0)
    }

    fn takes(&self, channel: &str, gap: bool) -> bool {
        // A gap without a channel is about all of them.
        (gap && channel.is_empty()) || self.channels.iter().any(|pattern| pattern.matches(channel))
    }
}

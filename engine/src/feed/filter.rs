//! What a reader asked for.

use crate::error::{Error, Result};
use crate::event::{Event, Op};
use crate::quotes::in_quotes;
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
    ///
    /// # Errors
    ///
    /// A usage error that says what can be written.
    pub fn parse(text: &str) -> Result<Self> {
        let quoted = text.contains('"');
        let wrong = |what: String| {
            Err(Error::usage(what).hint(
                "Write a channel's whole name (public.orders), public.* for all whose names begin with public., or *",
            ))
        };
        match text {
            "" => wrong("A channel must not be empty".to_owned()),
            "*" | "*.*" => Ok(Self::All),
            _ => match text.strip_suffix(".*") {
                Some("") => wrong(format!("{} names no schema", in_quotes(text))),
                Some(prefix) if quoted || !prefix.contains('*') => Ok(Self::Prefix(format!("{prefix}."))),
                None if quoted || !text.contains('*') => Ok(Self::Exact(text.to_owned())),
                _ => wrong(format!("{} is not a channel, nor a pattern of channels", in_quotes(text))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        let prefix = |text: &str| Pattern::Prefix(text.to_owned());
        let exact = |text: &str| Pattern::Exact(text.to_owned());
        for (text, pattern) in [
            ("*", Pattern::All),
            ("*.*", Pattern::All),
            ("public.*", prefix("public.")),
            ("a.b.*", prefix("a.b.")),
            ("public.orders", exact("public.orders")),
            ("public.\"a*\"", exact("public.\"a*\"")),
        ] {
            assert_eq!(Pattern::parse(text).unwrap(), pattern, "{text}");
        }
        for wrong in ["", ".*", "*.x", "public.o*", "*.x.*"] {
            let error = Pattern::parse(wrong).unwrap_err();
            assert!(error.remedy().unwrap().contains("public.*"), "{wrong}: {error}");
        }
    }
}

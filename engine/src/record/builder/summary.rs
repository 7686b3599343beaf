//! What stands at a batch's end: whose events it holds, and of which ops.

use crate::record::Builder;
use crate::schema::SchemaId;

impl Builder {
    pub(super) fn write_summary(&mut self) {
        let count = u16::try_from(self.summary.schemas.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&count.to_le_bytes());
        for (id, ops) in &self.summary.schemas {
            self.bytes.extend_from_slice(&id.to_le_bytes());
            self.bytes.push(*ops);
        }
        let count = u16::try_from(self.summary.channels.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&count.to_le_bytes());
        for (name, ops) in &self.summary.channels {
            self.bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.push(*ops);
        }
    }

    /// `bit` is that of the op, or the one in its place.
    pub(super) fn schema_index(&mut self, schema: SchemaId, bit: u8) -> u16 {
        // Newest first: rows of one table come in runs.
        if let Some(index) = self.summary.schemas.iter().rposition(|(id, _)| *id == schema) {
            if let Some((_, ops)) = self.summary.schemas.get_mut(index) {
                *ops |= bit;
            }
            return u16::try_from(index).unwrap_or(u16::MAX);
        }
        self.summary.schemas.push((schema, bit));
        u16::try_from(self.summary.schemas.len() - 1).unwrap_or(u16::MAX)
    }

    pub(super) fn note_channel(&mut self, channel: &str, bit: u8) {
        match self.summary.channels.iter_mut().find(|(name, _)| name == channel) {
            Some((_, ops)) => *ops |= bit,
            None => self.summary.channels.push((channel.to_owned(), bit)),
        }
    }
}

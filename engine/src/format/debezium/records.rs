//! The records of one event, in a buffer that is used again for the next.

use std::ops::Range;

/// The Kafka records that one event became, at most three. Keep one and pass it to every call.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    topic: String,
    spans: Vec<Spans>,
    unrendered: usize,
}

/// Where the parts of a record stand in the buffer.
#[derive(Clone, Debug)]
struct Spans {
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    header: Option<(Header, Range<usize>)>,
    unchanged: Option<Range<usize>>,
}

/// Where a value stands in the buffer.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) value: Range<usize>,
    /// See [`Record::unchanged`].
    pub(super) unchanged: Option<Range<usize>>,
}

/// One Kafka record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which record of its event it is, from 0: with the event's number, the identity of the record.
    pub part: u8,
    /// `schema.table`, made fit for Kafka; [`super::topic_name`] puts the prefix before it.
    pub topic_suffix: &'a str,
    /// JSON object; `None` where the table has no key.
    pub key: Option<&'a [u8]>,
    /// JSON object; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The header that ties the records of a key change together, and its JSON object.
    pub header: Option<(Header, &'a [u8])>,
    /// JSON array of the columns that are null in `after` though they are not: Postgres did not send them, since they did
    /// not change, and Debezium has no placeholder for their type. `None` where there is none.
    pub unchanged: Option<&'a [u8]>,
}

/// Names of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// On the delete and the tombstone of a key change: the key that the row has now.
    NewKey,
    /// On the create of a key change: the key that the row had.
    OldKey,
}

impl Header {
    /// As it stands in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::NewKey => "__debezium.newkey",
            Self::OldKey => "__debezium.oldkey",
        }
    }
}

impl Records {
    /// The records, in the order in which they are to be sent.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..).zip(&self.spans).map(|(part, spans)| Record {
            part,
            topic_suffix: &self.topic,
            key: self.part(spans.key.as_ref()),
            value: self.part(spans.value.as_ref()),
            header: spans.header.as_ref().and_then(|(name, at)| Some((*name, self.part(Some(at))?))),
            unchanged: self.part(spans.unchanged.as_ref()),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the event has no records: a custom event, a gap, a truncate that is skipped.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many values became null because their text did not fit their type.
    pub fn unrendered(&self) -> usize {
        self.unrendered
    }

    fn part(&self, at: Option<&Range<usize>>) -> Option<&[u8]> {
        self.bytes.get(at?.clone())
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.topic.clear();
        self.spans.clear();
        self.unrendered = 0;
    }

    pub(super) fn topic(&mut self) -> &mut String {
        &mut self.topic
    }

    /// Lets `write` append a part of a record and gives its place.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>) -> usize) -> Range<usize> {
        let start = self.bytes.len();
        self.unrendered += write(&mut self.bytes);
        start..self.bytes.len()
    }

    pub(super) fn bytes(&self, at: &Range<usize>) -> &[u8] {
        self.bytes.get(at.clone()).unwrap_or_default()
    }

    pub(super) fn push(
        &mut self,
        key: Option<&Range<usize>>,
        written: Option<Written>,
        header: Option<(Header, &Range<usize>)>,
    ) {
        let header = header.map(|(name, at)| (name, at.clone()));
        let (value, unchanged) =
            written.map_or((None, None), |written| (Some(written.value), written.unchanged));
        self.spans.push(Spans { key: key.cloned(), value, header, unchanged });
    }
}

//! Whom the events of a batch are for.

use crate::event::{Event, are_for};
use crate::record::batch::{Events, Record, is_aside};
use crate::record::layout::{KIND_TX, OPS_FOR};
use crate::record::{Batch, Share};

impl Share {
    /// Whether there are events of it that are for some sinks alone.
    pub fn is_addressed(&self) -> bool {
        self.ops & OPS_FOR != 0
    }
}

impl Batch {
    /// Whether it holds events that are for some sinks alone.
    pub fn is_addressed(&self) -> bool {
        self.shares().iter().any(Share::is_addressed)
    }

    /// The events that are for everybody, in order.
    pub fn events(&self) -> EventsFor<'_> {
        EventsFor::new(self.all_events(), None)
    }

    /// The events that a sink is to have, in order: those for everybody, and those for it alone.
    pub fn events_for<'a>(&'a self, sink: &'a str) -> EventsFor<'a> {
        EventsFor::new(self.all_events(), Some(sink))
    }
}

/// Iterates over the events of a batch that a sink, or everybody, is to have.
#[derive(Clone, Debug)]
pub struct EventsFor<'a> {
    events: Events<'a>,
    sink: Option<&'a str>,
    /// Those of this transaction are among them.
    wanted: bool,
}

impl<'a> EventsFor<'a> {
    fn new(events: Events<'a>, sink: Option<&'a str>) -> Self {
        Self { events, sink, wanted: true }
    }

    /// Whom they are for is said once for all that follow.
    fn enter(&mut self, record: &Record<'a>) -> Option<()> {
        self.events.enter(record)?;
        let sinks = self.events.sinks;
        self.wanted = self.sink.map_or(sinks.is_empty(), |sink| are_for(sinks, sink));
        Some(())
    }
}

impl<'a> Iterator for EventsFor<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            let record = self.events.records.next()?;
            match record.kind {
                KIND_TX => self.enter(&record)?,
                kind if is_aside(kind) => {}
                _ if self.wanted => return self.events.event(&record),
                _ => self.events.pass_over(),
            }
        }
    }
}

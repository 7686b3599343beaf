//! Whom the events of a batch are for.

use crate::event::Event;
use crate::record::batch::Events;
use crate::record::layout::OPS_FOR;
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
        EventsFor { events: self.all_events(), sink: None }
    }

    /// The events that a sink is to have, in order: those for everybody, and those for it alone.
    pub fn events_for<'a>(&'a self, sink: &'a str) -> EventsFor<'a> {
        EventsFor { events: self.all_events(), sink: Some(sink) }
    }
}

/// Iterates over the events of a batch that a sink, or everybody, is to have.
#[derive(Clone, Debug)]
pub struct EventsFor<'a> {
    events: Events<'a>,
    sink: Option<&'a str>,
}

impl<'a> Iterator for EventsFor<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            let event = self.events.next()?;
            if event.sinks.is_empty() || self.sink.is_some_and(|sink| event.is_for(sink)) {
                return Some(event);
            }
        }
    }
}

//! Bytes to events and back. Nothing here touches a file.

mod addressed;
mod batch;
mod builder;
mod checksum;
mod fitted;
pub(crate) mod layout;
mod recast;
mod select;
mod tuple;

pub use addressed::EventsFor;
pub(crate) use batch::{Aside, SEALED, asides, intact, last_end, mark_early, seal, seal_with};
pub use batch::{Batch, Events, Header, Share, SpilledTx};
pub(crate) use builder::Note;
pub use builder::{Builder, PART_BYTES, Part, TxStart};
pub(crate) use builder::{end, know};
pub(crate) use checksum::Tail;
pub(crate) use fitted::fitted;
pub use recast::{Live, Recast};
pub use select::EventsWhere;
pub use tuple::{Tuple, Value, Values};

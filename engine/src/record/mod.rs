//! Bytes to events and back. Nothing here touches a file.

mod batch;
mod builder;
pub(crate) mod layout;
mod tuple;

pub use batch::{Batch, Events, Header, Share, SpilledTx};
pub(crate) use batch::{asides, intact, mark_early, seal};
pub use builder::{Builder, PART_BYTES, Part, TxStart};
pub use tuple::{Tuple, Value, Values};

//! Postgres: the door in. Turns committed changes of a database into events in the journal.

pub mod capture;
mod catalog;
mod check;
mod config;
pub mod conninfo;
pub mod pgoutput;
mod setup;
mod tables;
pub mod wire;

pub use capture::Postgres;
pub use check::{Requirement, check};
pub use config::Config;

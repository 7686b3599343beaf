//! The engine against a real disk.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so at once")]

mod addressed;
mod backup;
mod campaign;
mod compressed_damage;
mod compression;
mod confirm;
mod cuts;
mod damage;
mod delivery;
mod disk;
mod failures;
mod feed;
mod forgotten;
mod fuzz;
mod golden;
mod history;
mod interval;
mod journal;
mod mistaken;
mod model;
mod notes;
mod positions;
mod power;
mod quick;
mod random;
mod readonly;
mod removal;
mod repair;
mod room;
mod rounds;
mod seam;
mod support;
mod yielding;
mod zeros;

//! Anything may stand in the files: no panic, no endless loop, nothing read that is larger than its file, and nothing
//! served that was never written.
//!
//! Changes know the formats: bytes, lengths and flags of valid files are changed, and often the checksums made right
//! again, so that what lies behind them is reached.

mod change;
mod files;
mod rows;

use crate::campaign;

#[test]
fn changed_files_are_refused_or_read_as_they_were_and_can_be_repaired() {
    campaign::run(60, files::DIRECTORIES, files::run);
}

#[test]
fn rows_of_any_bytes_are_rendered() {
    campaign::run(60, 1, rows::run);
}

#[test]
fn cursors_of_any_bytes_are_read_or_refused() {
    campaign::run(20, files::DIRECTORIES, files::cursors);
}

//! The log of all captures of the process, each line with the directory of its journal.

use std::path::Path;

use tracing::Span;

use crate::log;

/// What a capture says within this is found by its directory.
pub(super) fn span_of(dir: &Path) -> Span {
    log::record();
    tracing::info_span!("capture", dir = %dir.display())
}

/// Lines of the capture there that have these words.
pub(super) fn logged(dir: &Path, words: &str) -> Vec<String> {
    log::logged(&format!("dir={}}}", dir.display()), words)
}

//! The log of all captures of the process, each line with the directory of its journal.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::Span;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let written = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).init();
        log
    })
}

/// What a capture says within this is found by its directory.
pub(super) fn span_of(dir: &Path) -> Span {
    log();
    tracing::info_span!("capture", dir = %dir.display())
}

/// Lines of the capture there that have these words.
pub(super) fn logged(dir: &Path, words: &str) -> Vec<String> {
    let log = String::from_utf8(log().0.lock().unwrap().clone()).unwrap();
    let whose = format!("dir={}}}", dir.display());
    log.lines().filter(|line| line.contains(&whose) && line.contains(words)).map(str::to_owned).collect()
}

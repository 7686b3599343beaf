//! The log of the whole process: tests find what is theirs by names that nobody else has.

use std::io::{Result, Write};
use std::sync::{Mutex, Once};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// To be called before what is to be recorded.
pub(crate) fn record() {
    static RECORDED: Once = Once::new();
    RECORDED.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Writer).init());
}

/// The lines that have these words and that name.
pub(crate) fn logged(whose: &str, words: &str) -> Vec<String> {
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    log.lines().filter(|line| line.contains(whose) && line.contains(words)).map(str::to_owned).collect()
}

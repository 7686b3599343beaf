//! Standard output: data only, and a reader that goes away ends us quietly.

use std::io::{self, IsTerminal, Write};

use rowcast_engine::{Error, Result};

/// Standard output.
pub(crate) struct Output {
    out: io::StdoutLock<'static>,
    /// A person is reading.
    pub(crate) terminal: bool,
    /// Use colours.
    pub(crate) colours: bool,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is out.
    Yes,
    /// Nobody reads any more (`| head`).
    NobodyReads,
}

impl Output {
    /// Takes standard output.
    pub(crate) fn new() -> Self {
        let out = io::stdout().lock();
        let (terminal, colours) = (out.is_terminal(), crate::logging::colours(&out));
        Self { out, terminal, colours }
    }

    /// Writes a line and shows it at once.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> Result<Written> {
        let mut write = || {
            self.out.write_all(line.as_ref())?;
            self.out.write_all(b"\n")?;
            self.out.flush()
        };
        written(write())
    }

    /// Writes text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<Written> {
        written(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()))
    }

    /// Width of the terminal in columns; `None` when nobody watches.
    pub(crate) fn width(&self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(&self.out).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    }
}

fn written(result: io::Result<()>) -> Result<Written> {
    match result {
        Ok(()) => Ok(Written::Yes),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::NobodyReads),
        Err(error) => Err(Error::failed("Cannot write to standard output").because(error)),
    }
}

/// Writes text to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    Output::new().text(text).map(drop)
}

/// Writes a value as JSON for people: indented.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::failed("Cannot write it as JSON").because(error))?;
    text.push('\n');
    print(&text)
}

/// Replaces what a terminal would act upon: a table's name or a value can hold anything.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The terminal's styles, or nothing.
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// Colours or none.
    pub(crate) fn new(on: bool) -> Self {
        Self { on }
    }

    /// `text` in the style of an ANSI code: 1 bold, 2 faint, 31 red, 32 green, 33 yellow, 36 cyan.
    pub(crate) fn paint(&self, code: u8, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

//! The fields of a line for people: texts in quotes and as they are, so that the SQL of a hint can be copied.

use std::fmt::{self, Write as _};

use rowcast_engine::in_quotes;
use tracing_subscriber::field::{RecordFields, Visit};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// What `tracing` calls the words of an event.
const MESSAGE: &str = "message";

/// Before the names of fields that say where a line of the crate `log` comes from, which is told in another place.
const BRIDGED: &str = "log.";

/// Writes `words name="text" name=value`.
pub(super) struct Plain;

impl<'a> FormatFields<'a> for Plain {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut line = Line { writer, begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'a> {
    writer: Writer<'a>,
    begun: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn put(&mut self, name: &str, value: &dyn fmt::Display) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        if name != MESSAGE {
            // Italic and faint, as the other parts of the line are coloured.
            let (start, end) =
                if self.writer.has_ansi_escapes() { ("\u{1b}[3m", "\u{1b}[0m") } else { ("", "") };
            write!(self.writer, "{start}{name}{end}=")?;
        }
        write!(Harmless(&mut self.writer), "{value}")
    }

    fn add(&mut self, name: &str, value: &dyn fmt::Display) {
        if self.result.is_ok() && !name.starts_with(BRIDGED) {
            self.result = self.put(name, value);
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == MESSAGE {
            self.add(MESSAGE, &value);
        } else {
            self.add(field.name(), &in_quotes(value));
        }
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &fmt::from_fn(|f| value.fmt(f)));
    }
}

/// A line stays a line, and does nothing to the terminal, whatever a name or an error of somebody else's holds.
struct Harmless<'a, 'b>(&'a mut Writer<'b>);

impl fmt::Write for Harmless<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            let mut chars = part.chars();
            match chars.next_back().filter(|last| last.is_control()) {
                Some(last) => write!(self.0, "{}{}", chars.as_str(), last.escape_default())?,
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(ansi: bool, say: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_ansi(ansi)
            .fmt_fields(Plain)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn sql_can_be_copied_from_a_line() {
        let hint = Some(r#"ALTER TABLE "a\b" ADD PRIMARY KEY (id)"#);
        let line = logged(
            false,
            || tracing::warn!(hint, rows = 7, at = %"0/1A", "log.line" = 3, "Table {} has none", "a"),
        );
        assert_eq!(
            line,
            " WARN Table a has none hint=\"ALTER TABLE \"a\\b\" ADD PRIMARY KEY (id)\" rows=7 at=0/1A\n"
        );
    }

    #[test]
    fn a_line_stays_a_line() {
        let (name, error) = ("a\u{1b}[2J\nb", "c\u{9b}31m\n");
        let line = logged(false, || tracing::info!(name, %error, "Looks at {name}"));
        let (name, error) = (r"a\u{1b}[2J\nb", r"c\u{9b}31m\n");
        assert_eq!(line, format!(" INFO Looks at {name} name=\"{name}\" error={error}\n"));
        let coloured = logged(true, || tracing::info!(rows = 1, "Read"));
        assert!(coloured.ends_with(" Read \u{1b}[3mrows\u{1b}[0m=1\n"), "{coloured:?}");
    }
}

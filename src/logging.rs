//! The log, on standard error.

mod fields;

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use rowcast_engine::{Error, Result, in_quotes};
use tracing_subscriber::EnvFilter;

use self::fields::Plain;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Starts logging. `level` is one of error, warn, info, debug, trace, or a filter like `info,rowcast_postgres=debug`.
pub(crate) fn start(format: Format, level: &str) -> Result<()> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        Error::usage(format!("--log-level {} is not a level", in_quotes(level)))
            // Its own words have its cause in them already.
            .because(error.to_string())
            .hint("Write error, warn, info, debug or trace; for one part: info,rowcast_postgres=debug")
    })?;
    // A line that cannot be written (a full disk, a reader that is gone) is lost. To say so there would be a panic of
    // whatever thread has said it, the journal's among them.
    let log =
        tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        Format::Text => log.with_target(false).with_ansi(colours(&io::stderr())).fmt_fields(Plain).try_init(),
        Format::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    };
    started.map_err(|error| Error::failed("Cannot start the log").because(error))
}

/// Whether to use colours there: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_level_is_told_once() {
        for level in ["foo=bar=baz", "info,rowcast=loud"] {
            let error = start(Format::Text, level).unwrap_err().to_string();
            let mut parts: Vec<&str> = error.split(": ").collect();
            let all = parts.len();
            parts.sort_unstable();
            parts.dedup();
            assert_eq!(parts.len(), all, "{error}");
        }
    }
}

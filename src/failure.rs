//! How the program ends: exit codes, and the last words.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use rowcast_engine::{Error, Kind};

use crate::logging::Format;

/// Exit codes that scripts may rely on.
pub(crate) mod code {
    /// It failed, or what was asked about is not well.
    pub(crate) const FAILED: u8 = 1;
    /// Wrong usage or configuration.
    pub(crate) const USAGE: u8 = 2;
    /// The source refuses before the first success of the journal.
    pub(crate) const SOURCE: u8 = 3;
    /// The journal refuses.
    pub(crate) const JOURNAL: u8 = 4;
}

/// An error with the code that it ends the program with.
pub(crate) struct Failure {
    error: Error,
    code: u8,
}

impl Failure {
    /// An error of the source before its first success.
    pub(crate) fn source(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Usage => code::USAGE,
            Kind::Journal => code::JOURNAL,
            Kind::Refused | Kind::Transient | Kind::Failed => code::SOURCE,
        };
        Self { error, code }
    }

    /// Says it on standard error, with what to do next.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        let (error, code) = (&self.error, self.code);
        match format {
            Format::Json => tracing::error!(hint = error.remedy(), exit_code = code, "{error}"),
            Format::Text => {
                let hint =
                    error.remedy().map(|hint| format!("\n  hint: {}", hint.replace('\n', "\n        ")));
                say(&format!("rowcast: {error}{}", hint.unwrap_or_default()));
            }
        }
        ExitCode::from(code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Usage => code::USAGE,
            Kind::Refused => code::SOURCE,
            Kind::Journal => code::JOURNAL,
            Kind::Transient | Kind::Failed => code::FAILED,
        };
        Self { error, code }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.error, self.code)
    }
}

/// A line for the person at the terminal; nobody there is no reason to fail.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_promised() {
        let all = [Error::failed, Error::usage, Error::refused, Error::journal, Error::transient];
        assert_eq!(all.map(|make| Failure::from(make("X")).code), [1, 2, 3, 4, 1]);
        assert_eq!(all.map(|make| Failure::source(make("X")).code), [3, 2, 3, 4, 3]);
    }
}

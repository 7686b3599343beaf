//! Whether an error passes by itself: by the server's code for it, and by how often it has come.
//!
//! [`DbError::kind`](crate::wire::DbError::kind) says what is worth trying again at all. Some of that is only so for a
//! few times: then it is an error for good, and said, where trying for ever would be a quiet standstill.

use rowcast_engine::{Error, Kind};

use crate::setup::slot;

/// The server's disk, or what it keeps there for decoding: a hiccup passes within a minute or two of waiting longer
/// and longer, a file that is gone does not.
const HICCUPS: u32 = 10;

/// The slot cannot be read: the next look at it says why. When that finds it sound, it will be no better for the
/// third one.
const LOOKS: u32 = 1;

/// How often in a row a code is worth trying again; `None`: as often as it comes.
fn tries(code: &str) -> Option<u32> {
    match code {
        "55000" | "42704" => Some(LOOKS),
        _ => matches!(code.get(..2), Some("58" | "XX")).then_some(HICCUPS),
    }
}

/// What has come in a row.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    code: String,
    count: u32,
}

impl Repeats {
    /// Something became durable: it works.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The error as it is; or for good, when it has come too often.
    pub(super) fn weigh(&mut self, error: Error) -> Error {
        let code = slot::sqlstate(&error).filter(|_| error.kind() == Kind::Transient);
        let Some((code, tries)) = code.and_then(|code| Some((code.to_owned(), tries(code)?))) else {
            return error;
        };
        if self.code != code {
            *self = Self { code, count: 0 };
        }
        self.count += 1;
        if self.count <= tries {
            return error;
        }
        let hint = error.remedy().unwrap_or("See the server's log for what it lacks, and mend it").to_owned();
        Error::refused(format!("It has come {} times in a row", self.count)).because(error).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{DbError, server_error};

    fn error(code: &str) -> Error {
        let said = DbError { code: code.to_owned(), message: "no".to_owned(), ..DbError::default() };
        server_error("It failed", said)
    }

    #[test]
    fn each_code_has_its_course() {
        // Refused at once: rights, logins, what does not exist, what cannot be.
        for code in [
            "42501", "28000", "28P01", "42704", "55000", "3D000", "57P04", "53400", "0A000", "XX001", "22023",
        ] {
            assert_eq!(error(code).kind(), Kind::Refused, "{code}");
        }
        // They pass: limits, restarts, lost connections, locks, a standby that is to be promoted, idle sessions.
        for code in [
            "53300", "57P01", "57P03", "57P05", "08006", "08P01", "55006", "55P03", "25006", "40001", "57014",
        ] {
            assert_eq!((error(code).kind(), tries(code)), (Kind::Transient, None), "{code}");
        }
        for code in ["58P01", "58030", "XX000"] {
            assert_eq!((error(code).kind(), tries(code)), (Kind::Transient, Some(HICCUPS)), "{code}");
        }
    }

    #[test]
    fn what_comes_again_and_again_is_for_good() {
        let mut repeats = Repeats::default();
        for _ in 0..HICCUPS {
            assert_eq!(repeats.weigh(error("58P01")).kind(), Kind::Transient);
        }
        let last = repeats.weigh(error("58P01"));
        assert_eq!(last.kind(), Kind::Refused);
        assert!(last.to_string().contains("11 times in a row: It failed: no (SQLSTATE 58P01)"), "{last}");
        assert!(last.remedy().is_some());
        repeats.forget();
        assert_eq!(repeats.weigh(error("58P01")).kind(), Kind::Transient);
        // Another one counts for itself; a lost connection counts for nothing.
        let unreadable = || Error::transient("The replication slot cannot be read").because(error("55000"));
        assert_eq!(repeats.weigh(unreadable()).kind(), Kind::Transient);
        assert_eq!(repeats.weigh(Error::transient("gone")).kind(), Kind::Transient);
        assert_eq!(repeats.weigh(unreadable()).kind(), Kind::Refused);
    }
}

//! Marks why a login came to nothing although a server is there, where the server says nothing of it itself.

use std::error::Error as StdError;
use std::fmt;

use rowcast_engine::Error;

/// The cause of such an error: passwords, keys and certificates are read anew at each login, on both ends, and may be in
/// the midst of being changed.
#[derive(Debug)]
pub(crate) struct NotLetIn(Box<dyn StdError + Send + Sync>);

impl NotLetIn {
    pub(super) fn because(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(cause.into())
    }

    /// Whether that is what an error comes from.
    pub(crate) fn is_behind(error: &Error) -> bool {
        let mut cause = StdError::source(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }

    pub(super) fn cause(&self) -> &(dyn StdError + 'static) {
        &*self.0
    }
}

impl fmt::Display for NotLetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for NotLetIn {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // Its own words are the cause's.
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_however_far_down_and_says_what_its_cause_says() {
        let refused = Error::refused("No login").because(NotLetIn::because("no password"));
        assert_eq!(refused.to_string(), "No login: no password");
        let all = Error::refused("None of 2 servers will do").because(refused);
        assert!(NotLetIn::is_behind(&all));
        assert!(!NotLetIn::is_behind(&Error::refused("No login").because("no password")));
    }
}

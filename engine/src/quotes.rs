//! How names and words that somebody gave stand in what people read.

use std::fmt::{self, Write as _};

/// In double quotes and as it is; only what a terminal or a line of a log would act upon is written as an escape.
pub fn in_quotes(text: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        f.write_char('"')?;
        for c in text.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        f.write_char('"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_characters_are_escaped() {
        for (text, shown) in [
            ("", r#""""#),
            ("Müller's \"a\\b\"", r#""Müller's "a\b"""#),
            ("a\nb\t\u{1b}[31m\u{9b}", r#""a\nb\t\u{1b}[31m\u{9b}""#),
        ] {
            assert_eq!(in_quotes(text).to_string(), shown);
        }
    }
}

//! The keyword=value form: `host=localhost password='it''s'` with backslash escapes, as libpq reads it.

use std::iter::Peekable;
use std::str::Chars;

use rowcast_engine::{Error, Result};

use super::{Parameters, keywords};

/// Reads all pairs.
pub(super) fn parse(text: &str) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    let mut chars = text.chars().peekable();
    loop {
        skip_space(&mut chars);
        if chars.peek().is_none() {
            return Ok(parameters);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            name.push(c);
        }
        skip_space(&mut chars);
        if chars.next_if_eq(&'=').is_none() {
            return Err(missing_equals(parameters.len()));
        }
        skip_space(&mut chars);
        let value = value(&mut chars)?;
        keywords::set(&mut parameters, &name, value)?;
    }
}

fn value(chars: &mut Peekable<Chars<'_>>) -> Result<String> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match chars.next_if(|c| quoted || !c.is_ascii_whitespace()) {
            Some('\'') if quoted => return Ok(value),
            // libpq drops a backslash at the very end.
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
            None if quoted => {
                return Err(Error::usage("A quoted value in the source's keyword=value pairs has no end")
                    .hint("Write a quote inside a quoted value as \\'"));
            }
            None => return Ok(value),
        }
    }
}

fn skip_space(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(char::is_ascii_whitespace).is_some() {}
}

fn missing_equals(pairs_before: usize) -> Error {
    Error::usage(format!("The source has a word without = after {pairs_before} keyword=value pairs"))
        .hint("Put values with spaces in single quotes, as in options='-c work_mem=64MB'")
}

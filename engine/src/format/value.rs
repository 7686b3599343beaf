//! One value, from Postgres' text form to native JSON.

use std::fmt;

use crate::format::array::{write_array, write_vector};
use crate::format::composite::Attributes;
use crate::format::hstore::write_hstore;
use crate::format::json::{self, write_text};
use crate::format::json_text::write_json;
use crate::format::number::{write_money, write_number, write_quoted};
use crate::format::oid;
use crate::format::time::write_timestamp;
use crate::schema::{Field, Type, TypeKind};

/// How `bigint` and `numeric` are written, at every depth; other numbers are always numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// `bigint` as a number, `numeric` as a string.
    #[default]
    Mixed,
    /// Both as strings, for readers whose numbers are doubles.
    String,
    /// Both as numbers; a numeric NaN or infinity stays a string.
    Number,
}

/// Why a value could not be written. Never holds anything of the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ValueError(&'static str);

impl ValueError {
    pub(super) const ARRAY: Self = Self("array");
    pub(super) const BITS: Self = Self("bits");
    pub(super) const BOOLEAN: Self = Self("boolean");
    pub(super) const BYTES: Self = Self("bytes");
    pub(super) const COMPOSITE: Self = Self("composite");
    pub(super) const DATE: Self = Self("date");
    pub(super) const ENCODING: Self = Self("encoding");
    pub(super) const GEOMETRY: Self = Self("geometry");
    pub(super) const HSTORE: Self = Self("hstore");
    pub(super) const INTERVAL: Self = Self("interval");
    pub(super) const JSON: Self = Self("json");
    pub(super) const MONEY: Self = Self("money");
    pub(super) const NUMBER: Self = Self("number");
    pub(super) const TIME: Self = Self("time");
    pub(super) const TIMESTAMP: Self = Self("timestamp");

    /// One word: `encoding` for what is not UTF-8, else the kind of value that the text turned out not to be.
    pub fn reason(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ENCODING => f.write_str("the text is not valid UTF-8"),
            Self(kind) => write!(f, "the text does not fit the type ({kind})"),
        }
    }
}

impl fmt::Debug for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueError").field(&self.0).finish()
    }
}

impl std::error::Error for ValueError {}

/// Appends one value that is not null as JSON, on one line.
///
/// `text` is Postgres' text form under the session settings named in [`crate::format`].
///
/// # Errors
/// The text is not UTF-8, or is no text of that type. Then `out` is as it was.
pub fn write_value(out: &mut Vec<u8>, ty: &Type, text: &[u8], numbers: Numbers) -> Result<(), ValueError> {
    let start = out.len();
    write(out, ty, text, numbers).inspect_err(|_| out.truncate(start))
}

/// As [`write_value`], but leaves what it wrote before an error.
fn write(out: &mut Vec<u8>, ty: &Type, text: &[u8], numbers: Numbers) -> Result<(), ValueError> {
    match &ty.kind {
        TypeKind::Base => write_base(out, ty, text, numbers),
        TypeKind::Enum(_) | TypeKind::Range | TypeKind::Opaque => write_text(out, text),
        TypeKind::Domain { base, .. } => write(out, base, text, numbers),
        TypeKind::Array { element, delimiter } => {
            write_array(out, text, *delimiter, &mut |out, text| write(out, element, text, numbers))
        }
        TypeKind::Vector(element) => {
            write_vector(out, text, &mut |out, text| write(out, element, text, numbers))
        }
        TypeKind::Composite(fields) => write_composite(out, fields, text, numbers),
    }
}

fn write_base(out: &mut Vec<u8>, ty: &Type, text: &[u8], numbers: Numbers) -> Result<(), ValueError> {
    match ty.oid {
        oid::INT2 | oid::INT4 | oid::FLOAT4 | oid::FLOAT8 => write_number(out, text),
        oid::INT8 if numbers == Numbers::String => write_quoted(out, text),
        oid::INT8 => write_number(out, text),
        oid::NUMERIC if numbers == Numbers::Number => write_number(out, text),
        oid::NUMERIC => write_quoted(out, text),
        oid::BOOL => write_boolean(out, text),
        oid::TIMESTAMP => write_timestamp(out, text, false),
        oid::TIMESTAMPTZ => write_timestamp(out, text, true),
        oid::JSON | oid::JSONB => write_json(out, text),
        oid::MONEY => write_money(out, text),
        _ if ty.name == "hstore" => write_hstore(out, text),
        _ => write_text(out, text),
    }
}

/// Appends `t` or `f` as JSON's words.
pub(super) fn write_boolean(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    match text {
        b"t" => json::write_bool(out, true),
        b"f" => json::write_bool(out, false),
        _ => return Err(ValueError::BOOLEAN),
    }
    Ok(())
}

fn write_composite(
    out: &mut Vec<u8>,
    fields: &[Field],
    text: &[u8],
    numbers: Numbers,
) -> Result<(), ValueError> {
    let mut attributes = Attributes::of(text)?;
    out.push(b'{');
    for field in fields {
        json::write_name(out, &field.name);
        match attributes.next()? {
            Some(text) => write(out, &field.ty, &text, numbers)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
    attributes.end()
}

#[cfg(test)]
mod tests;

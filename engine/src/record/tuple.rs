//! A row as Postgres sent it: pgoutput's TupleData, looked at in place.
//!
//! ```text
//! TupleData   Int16 number of columns, then per column
//!             'n'                       null
//!             'u'                       unchanged TOASTed value, not sent
//!             't' Int32 length, bytes   text form
//! ```
//! Source: PostgreSQL documentation, "Logical Replication Message Formats". Integers are big-endian there.

/// One column of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL, or a column that is not part of a key tuple.
    Null,
    /// A TOASTed value that did not change and was not sent.
    Unchanged,
    /// The value in Postgres' text form under the pinned session settings; UTF-8 but for SQL_ASCII databases.
    Text(&'a [u8]),
}

/// A tuple whose shape has been checked by [`Tuple::split`].
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Takes one tuple off the front of `bytes`, giving it and the rest; `None` when the bytes are no tuple.
    pub fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (count, body) = bytes.split_first_chunk::<2>()?;
        let columns = u16::from_be_bytes(*count);
        let mut rest = body;
        for _ in 0..columns {
            let (kind, after) = rest.split_first()?;
            rest = match kind {
                b'n' | b'u' => after,
                b't' => {
                    let (length, after) = after.split_first_chunk::<4>()?;
                    after.get(usize::try_from(u32::from_be_bytes(*length)).ok()?..)?
                }
                _ => return None,
            };
        }
        let used = body.len() - rest.len();
        Some((Self { columns, bytes: body.get(..used)? }, rest))
    }

    /// How many columns the tuple has.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether the tuple has no columns at all (`create table t ()`).
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The columns, in order.
    pub fn values(&self) -> Values<'a> {
        Values { rest: self.bytes, left: self.columns }
    }

    /// Bytes that the values take; a bound for what rendering them needs.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Iterates over the columns of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (kind, after) = self.rest.split_first()?;
        let (value, rest) = match kind {
            b'n' => (Value::Null, after),
            b'u' => (Value::Unchanged, after),
            _ => {
                let (length, after) = after.split_first_chunk::<4>()?;
                let (text, rest) =
                    after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
                (Value::Text(text), rest)
            }
        };
        self.rest = rest;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}

//! Rows of `COPY … TO STDOUT` in text form, as tuples of the stream.

use rowcast_engine::record::{Tuple, Value};

/// Rows of one chunk, each as pgoutput's TupleData.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        (0..self.ends.len()).map(|at| {
            let from = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
            let to = self.ends.get(at).copied().unwrap_or(from);
            self.bytes.get(from..to).unwrap_or_default()
        })
    }

    /// Adds one that is a tuple already.
    pub(crate) fn add(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }

    /// Takes back the last one.
    pub(crate) fn pop(&mut self) {
        self.ends.pop();
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Takes all rows out but the last one.
    pub(crate) fn take_all_but_last(&mut self) -> Self {
        let Some(last) = self.ends.pop() else { return Self::default() };
        let start = self.ends.last().copied().unwrap_or(0);
        let rest = self.bytes.split_off(start);
        std::mem::replace(self, Self { bytes: rest, ends: vec![last - start] })
    }

    /// Adds a line of COPY's text format with so many columns; `None` when it has another number of them.
    ///
    /// Source: PostgreSQL documentation, COPY, "Text Format".
    pub(crate) fn push(&mut self, line: &[u8], columns: u16) -> Option<()> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        // A row without columns is an empty line.
        let mut rest = (columns > 0 || !line.is_empty()).then_some(line);
        for _ in 0..columns {
            let text = rest?;
            let end = memchr::memchr(b'\t', text);
            let (value, after) = match end {
                Some(end) => (text.get(..end)?, text.get(end + 1..)),
                None => (text, None),
            };
            rest = after;
            self.value(value);
        }
        if rest.is_some() {
            return None;
        }
        self.ends.push(self.bytes.len());
        Some(())
    }

    fn value(&mut self, text: &[u8]) {
        if text == br"\N" {
            self.bytes.push(b'n');
            return;
        }
        self.bytes.push(b't');
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut rest = text;
        while let Some(escape) = memchr::memchr(b'\\', rest) {
            let (plain, escaped) = rest.split_at(escape);
            self.bytes.extend_from_slice(plain);
            self.bytes.extend(escaped.get(1).map(|letter| unescaped(*letter)));
            rest = escaped.get(2..).unwrap_or_default();
        }
        self.bytes.extend_from_slice(rest);
        let length = u32::try_from(self.bytes.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// The letters that COPY writes behind a backslash.
fn unescaped(letter: u8) -> u8 {
    match letter {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        other => other,
    }
}

/// The values of the key's columns of a tuple, in the key's order, each with its length before it; `None` when one is
/// not there. `key` are places of columns.
pub(crate) fn key_bytes(tuple: Tuple<'_>, key: &[u16]) -> Option<Box<[u8]>> {
    let mut bytes = Vec::with_capacity(16 * key.len());
    for value in key_values(tuple, key) {
        put(&mut bytes, value?)?;
    }
    Some(bytes.into())
}

/// The same, one by one.
pub(crate) fn key_values<'a>(tuple: Tuple<'a>, key: &[u16]) -> impl Iterator<Item = Option<&'a [u8]>> {
    key.iter().map(move |at| match tuple.values().nth(usize::from(*at)) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    })
}

/// The key that an update has left a row with. A part of it that is TOASTed and did not change stands in the old tuple alone.
pub(crate) fn key_behind(new: Tuple<'_>, old: Option<Tuple<'_>>, key: &[u16]) -> Option<Box<[u8]>> {
    let mut bytes = Vec::with_capacity(16 * key.len());
    for at in key {
        let value = |tuple| key_values(tuple, std::slice::from_ref(at)).next().flatten();
        put(&mut bytes, value(new).or_else(|| old.and_then(value))?)?;
    }
    Some(bytes.into())
}

fn put(bytes: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    bytes.extend_from_slice(&u32::try_from(value.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(value);
    Some(())
}

/// The texts that [`key_bytes`] has put together; `None` where they are no UTF-8.
pub(crate) fn key_texts(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        texts.push(String::from_utf8(text.to_vec()).ok()?);
        bytes = rest;
    }
    Some(texts)
}

/// What [`key_texts`] has taken apart.
pub(crate) fn key_of_texts(texts: &[String]) -> Box<[u8]> {
    let parts = texts.iter().flat_map(|text| {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        length.into_iter().chain(text.bytes())
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(row: &[u8]) -> Vec<Option<Vec<u8>>> {
        let (tuple, rest) = Tuple::split(row).unwrap();
        assert!(rest.is_empty());
        let text = |value| match value {
            Value::Text(text) => Some(text.to_vec()),
            _ => None,
        };
        tuple.values().map(text).collect()
    }

    #[test]
    fn lines_become_tuples() {
        let mut rows = Rows::default();
        rows.push(b"1\t\\N\ta\\tb\\\\N\\n\n", 3).unwrap();
        rows.push(b"2\t\t\\\\N\n", 3).unwrap();
        let all: Vec<_> = rows.iter().map(values).collect();
        let some = |text: &[u8]| Some(text.to_vec());
        assert_eq!(all[0], [some(b"1"), None, some(b"a\tb\\N\n")]);
        assert_eq!(all[1], [some(b"2"), some(b""), some(b"\\N")]);
        rows.pop();
        assert_eq!((rows.len(), rows.iter().map(values).next_back().unwrap()[0].clone()), (1, some(b"1")));
        let mut many = Rows::default();
        (0..3).for_each(|at| many.push(format!("{at}\n").as_bytes(), 1).unwrap());
        let before = many.take_all_but_last();
        let texts = |rows: &Rows| rows.iter().map(|row| values(row)[0].clone().unwrap()).collect::<Vec<_>>();
        assert_eq!((texts(&before), texts(&many)), (vec![b"0".to_vec(), b"1".to_vec()], vec![b"2".to_vec()]));
        assert_eq!((many.take_all_but_last().len(), many.take_all_but_last().len(), many.len()), (0, 0, 1));
        Rows::default().push(b"\n", 0).unwrap();
        assert_eq!(Rows::default().push(b"1\n", 0), None);
        assert_eq!(rows.push(b"1\t2\n", 3), None);
        assert_eq!(Rows::default().push(b"1\t2\t3\t4\n", 3), None);
    }

    /// Of a key of two parts one has changed, and the other is stored apart and did not.
    #[test]
    fn each_part_of_a_key_comes_from_where_it_is() {
        let tuple = |values: [Option<&str>; 3]| {
            let mut bytes = 3_u16.to_be_bytes().to_vec();
            for value in values {
                let Some(text) = value else {
                    bytes.push(b'u');
                    continue;
                };
                bytes.push(b't');
                put(&mut bytes, text.as_bytes()).unwrap();
            }
            bytes
        };
        let (old, new) = (tuple([Some("1"), Some("long"), Some("")]), tuple([Some("2"), None, None]));
        let of = |bytes| Tuple::split(bytes).unwrap().0;
        let key = key_behind(of(&new), Some(of(&old)), &[0, 1]).unwrap();
        assert_eq!(key_texts(&key).unwrap(), ["2", "long"]);
        assert_eq!(key_behind(of(&new), None, &[0, 1]), None);
    }

    #[test]
    fn keys_there_and_back() {
        let mut rows = Rows::default();
        rows.push(b"a\tb\tc\n", 3).unwrap();
        let (tuple, _) = Tuple::split(rows.iter().next().unwrap()).unwrap();
        let bytes = key_bytes(tuple, &[2, 0]).unwrap();
        assert_eq!(key_texts(&bytes).unwrap(), ["c", "a"]);
        assert_eq!(key_of_texts(&["c".to_owned(), "a".to_owned()]), bytes);
        assert_ne!(key_of_texts(&["ca".to_owned()]), bytes);
    }
}

//! Messages as a server of protocol 1 or 2 would send them, any of them.

use crate::random::Random;

const NAMES: [&str; 7] = ["", "public", "orders", "Größe \"1\"", "a\nb", "\u{1F418}", "x"];

/// Numbers at the edge of something.
const EDGES: [u64; 8] = [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 40, u64::MAX >> 1, u64::MAX];

/// As many columns as a table can have.
const MAX_COLUMNS: u64 = 1600;

struct Encoder<'a> {
    random: &'a mut Random,
    bytes: Vec<u8>,
}

/// One message of any kind.
pub(super) fn message(random: &mut Random) -> Vec<u8> {
    let tag = random.one_of(b"BCORYIIIUUUDDTMSEcA");
    let mut encoder = Encoder { random, bytes: vec![tag] };
    encoder.body(tag);
    encoder.bytes
}

/// One of any kind that stands in a piece of a transaction that has not committed.
pub(super) fn within(random: &mut Random) -> Vec<u8> {
    let tag = random.one_of(b"ORYIIIUUUDDTME");
    let mut encoder = Encoder { random, bytes: vec![tag] };
    if !matches!(tag, b'O' | b'E') {
        encoder.number(4);
    }
    encoder.body(tag);
    encoder.bytes
}

impl Encoder<'_> {
    fn body(&mut self, tag: u8) {
        match tag {
            b'B' => [8, 8, 4].into_iter().for_each(|width| self.number(width)),
            b'C' => {
                self.bytes.push(0);
                [8, 8, 8].into_iter().for_each(|width| self.number(width));
            }
            b'S' => {
                self.number(4);
                let first = self.random.chance(128);
                self.bytes.push(u8::from(first));
            }
            b'E' => {}
            b'c' => {
                self.number(4);
                self.bytes.push(0);
                [8, 8, 8].into_iter().for_each(|width| self.number(width));
            }
            b'A' => [4, 4].into_iter().for_each(|width| self.number(width)),
            b'O' => {
                self.number(8);
                self.name();
            }
            b'R' => self.relation(),
            b'Y' => {
                self.number(4);
                self.name();
                self.name();
            }
            b'T' => self.truncate(),
            b'M' => self.logical(),
            change => self.change(change),
        }
    }

    fn number(&mut self, width: usize) {
        let value = if self.random.chance(128) { self.random.next() } else { self.random.one_of(&EDGES) };
        self.bytes.extend_from_slice(&value.to_be_bytes()[8 - width..]);
    }

    fn name(&mut self) {
        if self.random.chance(20) {
            let length = self.random.index(64);
            self.bytes.extend(std::iter::repeat_n(b'n', length));
        } else {
            let name = self.random.one_of(&NAMES);
            self.bytes.extend_from_slice(name.as_bytes());
        }
        self.bytes.push(0);
    }

    /// Mostly few.
    fn columns(&mut self) -> u16 {
        let limit = if self.random.chance(4) { MAX_COLUMNS + 1 } else { 9 };
        u16::try_from(self.random.below(limit)).unwrap()
    }

    fn relation(&mut self) {
        self.number(4);
        self.name();
        self.name();
        let identity = self.random.one_of(b"dnfi");
        self.bytes.push(identity);
        let columns = self.columns();
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        for _ in 0..columns {
            let flag = self.random.one_of(&[0, 1]);
            self.bytes.push(flag);
            self.name();
            self.number(4);
            self.number(4);
        }
    }

    fn truncate(&mut self) {
        let tables = self.random.below(5);
        self.bytes.extend_from_slice(&u32::try_from(tables).unwrap().to_be_bytes());
        let options = self.random.one_of(&[0, 1, 2, 3]);
        self.bytes.push(options);
        (0..tables).for_each(|_| self.number(4));
    }

    fn logical(&mut self) {
        let flags = self.random.one_of(&[0, 1]);
        self.bytes.push(flags);
        self.number(8);
        self.name();
        self.text();
    }

    fn change(&mut self, tag: u8) {
        self.number(4);
        let columns = self.columns();
        if tag == b'D' || (tag == b'U' && self.random.chance(128)) {
            let old = self.random.one_of(b"KO");
            self.bytes.push(old);
            self.tuple(columns);
        }
        if tag != b'D' {
            self.bytes.push(b'N');
            self.tuple(columns);
        }
    }

    fn tuple(&mut self, columns: u16) {
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        for _ in 0..columns {
            let kind = self.random.one_of(b"nutttttt");
            self.bytes.push(kind);
            if kind == b't' {
                self.text();
            }
        }
    }

    /// Any bytes, since a database without encoding may hold any.
    fn text(&mut self) {
        let limit = if self.random.chance(4) { 5000 } else { 20 };
        let length = self.random.index(limit);
        self.bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        for _ in 0..length {
            let byte = self.random.next().to_le_bytes()[0];
            self.bytes.push(byte);
        }
    }
}

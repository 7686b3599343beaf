//! Rows whose values are nothing that Postgres would print.

use rowcast_engine::Lsn;
use rowcast_engine::event::{Body, Event, Marks, Old, Op, Snapshot};
use rowcast_engine::format::debezium::{Debezium, DebeziumOptions, Records};
use rowcast_engine::format::native::{self, NativeOptions};
use rowcast_engine::record::Tuple;
use rowcast_engine::schema::{Column, Field, Schema, Type, TypeKind};

use super::change::change;
use crate::campaign::{Outcome, guard};
use crate::random::Random;
use crate::support::table;

const ROWS: u64 = 300;

/// Built-in types and those of extensions, with something valid of each to start from.
const SAMPLES: [(u32, &str, &str); 32] = [
    (16, "bool", "t"),
    (17, "bytea", "\\x00ff10"),
    (20, "int8", "-9223372036854775808"),
    (21, "int2", "32767"),
    (23, "int4", "-1"),
    (25, "text", "a \"b\" \\ \u{1} ü"),
    (114, "json", "{\"a\": [1, null, \"x\\u00e9\"],\n \"b\": {}}"),
    (3802, "jsonb", "{\"a\": 1.50}"),
    (600, "point", "(1.5,-2e10)"),
    (700, "float4", "NaN"),
    (701, "float8", "-Infinity"),
    (790, "money", "-$1,234.56"),
    (1082, "date", "0044-03-15 BC"),
    (1083, "time", "24:00:00"),
    (1114, "timestamp", "294276-12-31 23:59:59.999999"),
    (1184, "timestamptz", "2026-11-21 04:05:06.123456+00"),
    (1186, "interval", "1 year 2 mons -3 days +04:05:06.7"),
    (1266, "timetz", "04:05:06.1+15:59:59"),
    (1560, "bit", "0101"),
    (1562, "varbit", ""),
    (1700, "numeric", "-12345678901234567890.0987654321"),
    (2950, "uuid", "6b9c2f5e-8c3c-4f6e-9d53-0c7a1a5b2f10"),
    (3220, "pg_lsn", "16/B374D848"),
    (3614, "tsvector", "'a':1A 'b''c':2"),
    (869, "inet", "::1/64"),
    (90_000, "hstore", "\"a\"=>\"1\", \"b\"=>NULL"),
    (90_001, "geometry", "0101000020E6100000000000000000F03F0000000000000040"),
    (90_002, "vector", "[1,2.5,-3]"),
    (90_003, "sparsevec", "{1:0.5,3:2}/5"),
    (90_004, "ltree", "a.b.c"),
    (90_005, "citext", "Text"),
    (26, "oid", "4294967295"),
];

/// A type over one of the samples, with a text of it.
fn typed(random: &mut Random, depth: u32) -> (Type, Vec<u8>) {
    let (oid, name, text) = random.one_of(&SAMPLES);
    let (ty, text) = (Type::base(oid, name), text.as_bytes().to_vec());
    if depth == 0 || random.chance(128) {
        return (ty, text);
    }
    let (element, inner) = typed(random, depth - 1);
    let quoted: Vec<u8> = inner
        .iter()
        .flat_map(|byte| match byte {
            b'"' | b'\\' => vec![b'\\', *byte],
            byte => vec![*byte],
        })
        .collect();
    let of = |kind| Type { oid: 91_000, name: "made".to_owned(), kind };
    let wrapped = |open: &[u8], close: &[u8]| [open, &quoted, close].concat();
    match random.below(6) {
        0 => {
            (of(TypeKind::Array { element: Box::new(element), delimiter: ',' }), wrapped(b"{\"", b"\",NULL}"))
        }
        1 => (of(TypeKind::Vector(Box::new(element))), inner),
        2 => {
            let field = |name: &str, ty| Field { name: name.to_owned(), ty };
            (of(TypeKind::Composite(vec![field("a", element), field("b", ty)])), wrapped(b"(\"", b"\",)"))
        }
        3 => (of(TypeKind::Enum(vec!["one".into(), "two".into()])), b"one".to_vec()),
        4 => (of(TypeKind::Domain { base: Box::new(element), typmod: random.next() as i32 }), inner),
        _ => (of(TypeKind::Range), b"[1,5)".to_vec()),
    }
}

fn schema(random: &mut Random) -> (Schema, Vec<Vec<u8>>) {
    let mut schema = table("any");
    let (types, texts): (Vec<_>, Vec<_>) = (0..1 + random.below(6)).map(|_| typed(random, 3)).unzip();
    let typmods = [-1, 0, 4, 5, 8, 0x0008_0006, i32::MAX, i32::MIN];
    let column = |(at, ty): (usize, Type)| Column {
        name: format!("c{at}\""),
        ty,
        typmod: random.one_of(&typmods),
        identity: at == 0,
        not_null: random.chance(128),
    };
    schema.columns = types.into_iter().enumerate().map(column).collect();
    (schema, texts)
}

/// TupleData: now and then with more or fewer columns than the table has.
fn tuple(texts: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let count = if random.chance(10) { random.below(9) as usize } else { texts.len() };
    let mut bytes = (count as u16).to_be_bytes().to_vec();
    for at in 0..count {
        let mut text = texts[at % texts.len()].clone();
        if random.chance(200) {
            change(&mut text, random);
        }
        match random.below(12) {
            0 => bytes.push(b'n'),
            1 => bytes.push(b'u'),
            _ => {
                bytes.push(b't');
                bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                bytes.extend_from_slice(&text);
            }
        }
    }
    if random.chance(40) {
        change(&mut bytes, random);
    }
    bytes
}

fn render(
    schema: &Schema,
    old: Option<Old<'_>>,
    new: Option<Tuple<'_>>,
    debezium: &Debezium,
    records: &mut Records,
) {
    let body = Body::Row { schema, old, new };
    let op = match (old, new) {
        (_, None) => Op::Delete,
        (None, _) => Op::Read,
        _ => Op::Update,
    };
    let snapshot = (op == Op::Read).then_some(Snapshot { marks: Marks::FIRST | Marks::AD_HOC, xid: 5 });
    let event =
        Event { id: 7, op, at: 5, lsn: Lsn(9), tx: None, seq: 0, last: true, snapshot, sinks: "", body };
    let mut line = Vec::new();
    native::write_event(&mut line, &event, &NativeOptions::default());
    assert!(!line.contains(&b'\n'), "an event is one line");
    let parsed = serde_json::from_slice::<&serde_json::value::RawValue>(&line);
    assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(&line));
    debezium.records(&event, 1, records);
    for record in records.iter() {
        for json in record.key.iter().chain(record.value.iter()) {
            let parsed = serde_json::from_slice::<&serde_json::value::RawValue>(json);
            assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(json));
        }
    }
}

pub(super) fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let last = std::cell::RefCell::new(String::new());
    let work = || {
        let (debezium, mut records) = (Debezium::new(DebeziumOptions::new("p")), Records::default());
        for _ in 0..ROWS {
            let (schema, texts) = schema(&mut random);
            let (old, new) = (tuple(&texts, &mut random), tuple(&texts, &mut random));
            *last.borrow_mut() = format!("{:?}\n{}", schema.columns, String::from_utf8_lossy(&new));
            let split = |bytes| Tuple::split(bytes).map(|(tuple, _)| tuple);
            let (old, new) = (split(&old), split(&new));
            render(&schema, old.map(Old::Full), new, &debezium, &mut records);
            render(&schema, old.map(Old::Key), None, &debezium, &mut records);
            render(&schema, None, new, &debezium, &mut records);
        }
        ROWS
    };
    guard(seed, work, || last.borrow().clone())
}

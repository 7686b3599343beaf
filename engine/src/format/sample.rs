//! Types, rows and events for tests.

use crate::event::{Body, Event, Old, Op, Tx};
use crate::lsn::Lsn;
use crate::record::Tuple;
use crate::schema::{Column, Field, Identity, Schema, Type, TypeKind};

/// A built-in type, or one of an extension, by name.
pub(crate) fn base(name: &str) -> Type {
    let oid = match name {
        "bool" => 16,
        "bytea" => 17,
        "char" => 18,
        "name" => 19,
        "int8" => 20,
        "int2" => 21,
        "int4" => 23,
        "text" => 25,
        "oid" => 26,
        "json" => 114,
        "xml" => 142,
        "point" => 600,
        "box" => 603,
        "polygon" => 604,
        "cidr" => 650,
        "float4" => 700,
        "float8" => 701,
        "macaddr8" => 774,
        "money" => 790,
        "macaddr" => 829,
        "inet" => 869,
        "bpchar" => 1042,
        "varchar" => 1043,
        "date" => 1082,
        "time" => 1083,
        "timestamp" => 1114,
        "timestamptz" => 1184,
        "interval" => 1186,
        "timetz" => 1266,
        "bit" => 1560,
        "varbit" => 1562,
        "numeric" => 1700,
        "uuid" => 2950,
        "pg_lsn" => 3220,
        "tsvector" => 3614,
        "tsquery" => 3615,
        "jsonb" => 3802,
        _ => 90_000,
    };
    Type::base(oid, name)
}

pub(super) fn array(element: Type) -> Type {
    let name = format!("_{}", element.name);
    Type { oid: 91_000, name, kind: TypeKind::Array { element: Box::new(element), delimiter: ',' } }
}

pub(super) fn vector(element: Type) -> Type {
    Type { oid: 92_000, name: "vector_of_it".into(), kind: TypeKind::Vector(Box::new(element)) }
}

pub(super) fn domain(base: Type, typmod: i32) -> Type {
    Type { oid: 93_000, name: "domain".into(), kind: TypeKind::Domain { base: Box::new(base), typmod } }
}

pub(super) fn enumeration(labels: &[&str]) -> Type {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Type { oid: 94_000, name: "mood".into(), kind: TypeKind::Enum(labels) }
}

pub(super) fn composite(fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| Field { name: (*name).to_owned(), ty: ty.clone() }).collect();
    Type { oid: 95_000, name: "row".into(), kind: TypeKind::Composite(fields) }
}

/// Table `public.orders`; the columns named in `key` are its primary key and identity.
pub(crate) fn schema(columns: &[(&str, Type, i32)], key: &[&str]) -> Schema {
    let column = |(name, ty, typmod): &(&str, Type, i32)| Column {
        name: (*name).to_owned(),
        ty: ty.clone(),
        typmod: *typmod,
        identity: key.contains(name),
        not_null: key.contains(name),
    };
    let columns: Vec<Column> = columns.iter().map(column).collect();
    let index = |name: &&str| {
        columns.iter().position(|c| c.name == *name).and_then(|i| u16::try_from(i).ok()).unwrap()
    };
    let key: Vec<u16> = key.iter().map(index).collect();
    Schema {
        id: 1,
        relation: 16_400,
        database: "shop".into(),
        schema: "public".into(),
        table: "orders".into(),
        channel: "public.orders".into(),
        identity: Identity::Default,
        inserts_only: false,
        columns,
        primary_key: key.clone(),
        key,
        unique_key: Vec::new(),
    }
}

/// The schema under REPLICA IDENTITY FULL.
pub(super) fn full(mut schema: Schema) -> Schema {
    schema.identity = Identity::Full;
    schema.columns.iter_mut().for_each(|column| column.identity = true);
    schema
}

/// A value of a test row.
#[derive(Clone, Copy)]
pub(crate) enum Cell<'a> {
    Null,
    Unchanged,
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// TupleData as pgoutput sends it.
pub(crate) fn tuple_data(cells: &[Cell<'_>]) -> Vec<u8> {
    let mut bytes = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        let text = match cell {
            Cell::Null => {
                bytes.push(b'n');
                continue;
            }
            Cell::Unchanged => {
                bytes.push(b'u');
                continue;
            }
            Cell::Text(text) => text.as_bytes(),
            Cell::Bytes(bytes) => bytes,
        };
        bytes.push(b't');
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text);
    }
    bytes
}

pub(super) fn tuple(bytes: &[u8]) -> Tuple<'_> {
    let (tuple, rest) = Tuple::split(bytes).unwrap();
    assert!(rest.is_empty());
    tuple
}

/// An event in transaction 741, committed at 2026-11-21T04:05:06.123456Z.
pub(super) fn event<'a>(
    op: Op,
    schema: &'a Schema,
    old: Option<Old<'a>>,
    new: Option<Tuple<'a>>,
) -> Event<'a> {
    other(op, Body::Row { schema, old, new })
}

/// An event without a row in the same transaction.
pub(super) fn other(op: Op, body: Body<'_>) -> Event<'_> {
    let tx = Tx {
        xid: 741,
        final_lsn: Lsn(0x16B_3700),
        end_lsn: Lsn(0x16B_3748),
        previous_end_lsn: Lsn(0x16B_3000),
        committed: 1_795_233_906_123_456,
        origin: "",
    };
    Event {
        id: 1_795_233_906_000_000,
        op,
        at: tx.committed,
        lsn: Lsn(0x16B_3600),
        tx: Some(tx),
        seq: 0,
        last: true,
        snapshot: None,
        sinks: "",
        body,
    }
}

//! Schema versions: all that any view needs to know about a table, as it was when its rows were captured.
//!
//! A schema version never changes. Another column, key, replica identity or type makes another version. The
//! journal stores each version as JSON beside the rows that use it, so that any segment can be read alone.

use serde::{Deserialize, Serialize};

/// What a type is called of which nothing is known; Postgres' own of this name is no column's.
const UNKNOWN: &str = "unknown";

/// Names a schema version; given by the journal in order of first sight, never reused.
pub type SchemaId = u32;

/// One version of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The version. 0 until the journal has given it a number.
    pub id: SchemaId,
    /// The table's OID (the root's, where a partition tree is published through its root).
    pub relation: u32,
    /// The database the table lives in.
    pub database: String,
    /// The schema, byte for byte as Postgres has it.
    pub schema: String,
    /// The table, byte for byte as Postgres has it.
    pub table: String,
    /// `schema.table`, parts with a dot, a capital or anything but `[a-z0-9_]` SQL-quoted.
    pub channel: String,
    /// What an UPDATE or DELETE tells about the old row.
    pub identity: Identity,
    /// Only inserts and truncates are captured, because the table has no usable replica identity.
    pub inserts_only: bool,
    /// In the order of the Relation message, which is the order of the values in a tuple.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the primary key, in key order; empty when there is none.
    pub primary_key: Vec<u16>,
    /// Indexes into `columns` that make the event's `key`, in key order; empty when there is none: the
    /// identity's columns, or the primary key where the identity is FULL.
    pub key: Vec<u16>,
    /// Columns of the first unique index on plain columns, for Debezium's key of a table without primary key.
    pub unique_key: Vec<u16>,
}

/// `REPLICA IDENTITY` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The primary key (`d`).
    Default,
    /// Nothing (`n`).
    Nothing,
    /// All columns (`f`).
    Full,
    /// The columns of an index (`i`).
    Index,
}

/// A column as the Relation message and the catalog tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Byte for byte as Postgres has it.
    pub name: String,
    /// Its type, resolved down to built-in types.
    #[serde(rename = "type")]
    pub ty: Type,
    /// `atttypmod`: precision, length; -1 when there is none.
    pub typmod: i32,
    /// Part of the replica identity (all columns under FULL).
    pub identity: bool,
    /// Has a NOT NULL constraint; what Debezium calls optional is the opposite.
    pub not_null: bool,
}

/// A type with everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Type {
    /// `pg_type.oid`. Extension types have another one in every database: go by `name` for those.
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: String,
    /// What it is made of.
    pub kind: TypeKind,
}

/// What a type is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeKind {
    /// A type of its own, rendered by its OID or name, else as its text.
    Base,
    /// Likewise, but of another making than its name says: always its text. See [`Type::extension_of`].
    Opaque,
    /// An array; `delimiter` is `,` but for `box`, which has `;`.
    Array {
        /// The elements' type.
        element: Box<Type>,
        /// Between elements in the text form.
        delimiter: char,
    },
    /// `int2vector` or `oidvector`: values with blanks between.
    Vector(Box<Type>),
    /// A row type: attributes in order, dropped ones left out.
    Composite(Vec<Field>),
    /// An enumeration with its labels in sort order.
    Enum(Vec<String>),
    /// A domain: behaves as what it is over. The typmod is the one that the domain puts on its base type.
    Domain {
        /// What it is over; may be a domain again.
        base: Box<Type>,
        /// `typtypmod` of the domain, -1 when there is none.
        typmod: i32,
    },
    /// A range or multirange, rendered as its text.
    Range,
}

/// An attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Byte for byte as Postgres has it.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: Type,
}

impl Type {
    /// A base type without parts.
    pub fn base(oid: u32, name: &str) -> Self {
        Self { oid, name: name.to_owned(), kind: TypeKind::Base }
    }

    /// A type that the catalog does not have any more, and that nobody remembers: its values are shown as their text.
    pub fn unknown(oid: u32) -> Self {
        Self::base(oid, UNKNOWN)
    }

    /// Whether nothing is known of it.
    pub fn is_unknown(&self) -> bool {
        self.kind == TypeKind::Base && self.name == UNKNOWN
    }

    /// The extension whose types of this name are known by it. Another one's, or somebody's own, of the same name is
    /// [`TypeKind::Opaque`].
    pub fn extension_of(name: &str) -> Option<&'static str> {
        Some(match name {
            "hstore" => "hstore",
            "citext" => "citext",
            "ltree" => "ltree",
            "isbn" => "isn",
            "geometry" | "geography" => "postgis",
            "vector" | "halfvec" | "sparsevec" => "vector",
            _ => return None,
        })
    }

    /// The type under all domains.
    pub fn undomained(&self) -> &Self {
        let mut ty = self;
        while let TypeKind::Domain { base, .. } = &ty.kind {
            ty = base;
        }
        ty
    }

    /// The attributes of a row type, or of the row type that an array has; under all domains.
    pub fn row(&self) -> Option<&[Field]> {
        let mut ty = self.undomained();
        if let TypeKind::Array { element, .. } = &ty.kind {
            ty = element.undomained();
        }
        match &ty.kind {
            TypeKind::Composite(fields) => Some(fields),
            _ => None,
        }
    }
}

impl Schema {
    /// `schema.table` with each part quoted as SQL would need it.
    pub fn channel_of(schema: &str, table: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(table))
    }
}

/// Quotes an identifier unless it is plain lower case.
pub fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

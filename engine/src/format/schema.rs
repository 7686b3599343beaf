//! A schema version as readers see it: in the answer of `/v1/schemas/{table}`, and as a record in a stream.
//!
//! ```json
//! {"schema":7,"channel":"public.orders","table":{"schema":"public","name":"orders","oid":16400},
//!  "identity":"default","inserts_only":false,"primary_key":["id"],"key":["id"],
//!  "columns":[{"name":"id","type":"int8","oid":20,"nullable":false,"identity":true},
//!             {"name":"mood","type":"mood","oid":16411,"enum":["sad","ok"],"nullable":true,"identity":false}]}
//! ```
//! A type is named as `pg_type` names it, arrays by their elements, with what was said in parentheses (`numeric(10,2)`).
//! What it is made of stands beside it: `enum`, `fields`, `base` of a domain, `element` of an array of such types.

use serde::Serialize;

use crate::format::oid;
use crate::schema::{Column, Identity, Schema, SchemaId, Type, TypeKind};

/// One version of one table, for readers.
#[derive(Debug, Serialize)]
pub struct Described<'a> {
    schema: SchemaId,
    channel: &'a str,
    table: Table<'a>,
    identity: Identity,
    inserts_only: bool,
    primary_key: Vec<&'a str>,
    key: Vec<&'a str>,
    columns: Vec<DescribedColumn<'a>>,
}

#[derive(Debug, Serialize)]
struct Table<'a> {
    schema: &'a str,
    name: &'a str,
    oid: u32,
}

#[derive(Debug, Serialize)]
struct DescribedColumn<'a> {
    name: &'a str,
    #[serde(flatten)]
    ty: DescribedType<'a>,
    nullable: bool,
    /// Part of the replica identity.
    identity: bool,
}

#[derive(Debug, Serialize)]
struct DescribedType<'a> {
    #[serde(rename = "type")]
    name: String,
    oid: u32,
    /// As `pg_attribute` has it, where its meaning is an extension's.
    #[serde(skip_serializing_if = "Option::is_none")]
    typmod: Option<i32>,
    #[serde(rename = "enum", skip_serializing_if = "Option::is_none")]
    labels: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<DescribedField<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<Box<Self>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<Box<Self>>,
}

#[derive(Debug, Serialize)]
struct DescribedField<'a> {
    name: &'a str,
    #[serde(flatten)]
    ty: DescribedType<'a>,
}

impl<'a> Described<'a> {
    /// What readers are told of a version.
    pub fn of(schema: &'a Schema) -> Self {
        let names = |indexes: &[u16]| {
            let column = |index: &u16| schema.columns.get(usize::from(*index));
            indexes.iter().filter_map(column).map(|column| column.name.as_str()).collect()
        };
        Self {
            schema: schema.id,
            channel: &schema.channel,
            table: Table { schema: &schema.schema, name: &schema.table, oid: schema.relation },
            identity: schema.identity,
            inserts_only: schema.inserts_only,
            primary_key: names(&schema.primary_key),
            key: names(&schema.key),
            columns: schema.columns.iter().map(DescribedColumn::of).collect(),
        }
    }
}

impl<'a> DescribedColumn<'a> {
    fn of(column: &'a Column) -> Self {
        let ty = DescribedType::of(&column.ty, column.typmod);
        Self { name: &column.name, ty, nullable: !column.not_null, identity: column.identity }
    }
}

impl<'a> DescribedType<'a> {
    fn of(ty: &'a Type, typmod: i32) -> Self {
        let known = modifier(ty, typmod);
        let mut described = Self {
            name: name(ty, typmod),
            oid: ty.oid,
            typmod: (typmod >= 0 && known.is_none() && ty.kind == TypeKind::Base).then_some(typmod),
            labels: None,
            fields: None,
            base: None,
            element: None,
        };
        match &ty.kind {
            TypeKind::Base | TypeKind::Opaque | TypeKind::Range | TypeKind::Vector(_) => {}
            TypeKind::Enum(labels) => described.labels = Some(labels),
            TypeKind::Domain { base, typmod } => described.base = Some(Box::new(Self::of(base, *typmod))),
            TypeKind::Array { element, .. } if matches!(element.kind, TypeKind::Base | TypeKind::Opaque) => {}
            TypeKind::Array { element, .. } => described.element = Some(Box::new(Self::of(element, typmod))),
            TypeKind::Composite(fields) => {
                let field = |field: &'a crate::schema::Field| DescribedField {
                    name: &field.name,
                    ty: Self::of(&field.ty, -1),
                };
                described.fields = Some(fields.iter().map(field).collect());
            }
        }
        described
    }
}

fn name(ty: &Type, typmod: i32) -> String {
    if let TypeKind::Array { element, .. } = &ty.kind {
        return format!("{}[]", name(element, typmod));
    }
    format!("{}{}", ty.name, modifier(ty, typmod).unwrap_or_default())
}

/// What was said in parentheses, for the built-in types that know it.
fn modifier(ty: &Type, typmod: i32) -> Option<String> {
    /// `VARHDRSZ`, which Postgres adds to lengths.
    const HEADER: i32 = 4;
    if typmod < 0 || ty.kind != TypeKind::Base {
        return None;
    }
    match ty.oid {
        oid::BPCHAR | oid::VARCHAR => Some(format!("({})", typmod - HEADER)),
        oid::NUMERIC => {
            let (precision, scale) = ((typmod - HEADER) >> 16, (typmod - HEADER) & 0x7FF);
            // Eleven bits with a sign, since Postgres 15.
            Some(format!("({precision},{})", (scale ^ 0x400) - 0x400))
        }
        oid::BIT | oid::VARBIT | oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            Some(format!("({typmod})"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::format::sample::{array, base, composite, domain, enumeration, schema};

    fn column(ty: Type, typmod: i32) -> Value {
        let schema = schema(&[("c", ty, typmod)], &[]);
        let mut described = serde_json::to_value(Described::of(&schema)).unwrap();
        described["columns"][0].take()
    }

    fn named(ty: Type, typmod: i32) -> String {
        column(ty, typmod)["type"].as_str().unwrap().to_owned()
    }

    #[test]
    fn types_have_their_names() {
        assert_eq!(named(base("numeric"), ((10 << 16) | 2) + 4), "numeric(10,2)");
        assert_eq!(named(base("numeric"), ((5 << 16) | (-2 & 0x7FF)) + 4), "numeric(5,-2)");
        assert_eq!(named(base("varchar"), 14), "varchar(10)");
        assert_eq!(named(base("timestamptz"), 3), "timestamptz(3)");
        assert_eq!(named(base("bit"), 12), "bit(12)");
        assert_eq!(named(base("text"), -1), "text");
        assert_eq!(named(array(base("numeric")), ((10 << 16) | 2) + 4), "numeric(10,2)[]");
        assert_eq!(
            column(Type::base(90_000, "vector"), 3),
            json!({"name": "c", "type": "vector", "oid": 90_000, "typmod": 3, "nullable": true, "identity": false})
        );
    }

    #[test]
    fn what_types_are_made_of_stands_beside_them() {
        let mood = column(array(enumeration(&["sad", "ok"])), -1);
        assert_eq!((&mood["type"], &mood["element"]["enum"]), (&json!("mood[]"), &json!(["sad", "ok"])));
        let cents = column(domain(base("numeric"), ((12 << 16) | 2) + 4), -1);
        assert_eq!((&cents["type"], &cents["base"]["type"]), (&json!("domain"), &json!("numeric(12,2)")));
        let row = column(composite(&[("n", base("int4")), ("tags", array(base("text")))]), -1);
        assert_eq!(row["fields"][1], json!({"name": "tags", "type": "text[]", "oid": 91_000}));
    }

    #[test]
    fn a_version_names_its_keys() {
        let schema = schema(&[("a", base("int4"), -1), ("b", base("text"), -1)], &["b", "a"]);
        let described = serde_json::to_value(Described::of(&schema)).unwrap();
        assert_eq!(described["key"], json!(["b", "a"]));
        assert_eq!(described["primary_key"], json!(["b", "a"]));
        assert_eq!((&described["schema"], &described["identity"]), (&json!(1), &json!("default")));
        assert_eq!(described["table"], json!({"schema": "public", "name": "orders", "oid": 16_400}));
        assert_eq!(described["columns"][0]["nullable"], json!(false));
    }
}

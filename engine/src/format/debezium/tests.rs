//! Whole records, with values as recorded from Debezium 3.6.1.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::event::{Body, Event, Marks, Old, Op, Snapshot};
use crate::format::debezium::shape::Shape;
use crate::format::debezium::value::write_shaped;
use crate::format::sample::Cell::{Bytes, Null, Text, Unchanged};
use crate::format::sample::{
    Cell, array, base, composite, domain, enumeration, event, full, other, schema, tuple, tuple_data, vector,
};
use crate::schema::{Identity, Schema, Type, TypeKind};

/// 2026-11-21T04:05:06.5 in nanoseconds.
const NOW: i64 = 1_795_233_906_500_000_001;
const TAIL: &str = r#","source":{"version":"3.6.1.Final","connector":"postgresql","name":"ref","ts_ms":1795233906123,"snapshot":"false","db":"shop","sequence":"[\"23801856\",\"23803392\"]","ts_us":1795233906123456,"ts_ns":1795233906123456000,"schema":"public","table":"orders","txId":741,"lsn":23803392,"xmin":null,"origin":null,"origin_lsn":null},"transaction":null,"op":"OP","ts_ms":1795233906500,"ts_us":1795233906500000,"ts_ns":1795233906500000001}"#;

/// A record as one line: key, value and header; the constant part of the value left out but for the op.
fn line(record: Record<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(record.topic_suffix, "public.orders");
    let key = record.key.map_or("null".into(), text);
    let header =
        record.header.map_or(String::new(), |(name, json)| format!(" {}={}", name.name(), text(json)));
    let unchanged = record.unchanged.map_or(String::new(), |names| format!(" unchanged={}", text(names)));
    let Some(value) = record.value.map(text) else {
        assert!(record.unchanged.is_none());
        return format!("{} {key}: tombstone{header}", record.part);
    };
    serde_json::from_str::<Box<RawValue>>(&value).unwrap();
    let op = ["c", "u", "d"].into_iter().find(|op| value.ends_with(&TAIL.replace("OP", op))).unwrap();
    let rows = value.strip_suffix(&TAIL.replace("OP", op)).unwrap();
    format!("{} {key}: {op} {rows}{header}{unchanged}", record.part)
}

fn records_of(debezium: &Debezium, event: &Event<'_>) -> Vec<String> {
    let mut records = Records::default();
    debezium.records(event, NOW, &mut records);
    assert_eq!(records.unrendered(), 0);
    records.iter().map(line).collect()
}

fn records(schema: &Schema, op: Op, old: Option<&[Cell<'_>]>, new: Option<&[Cell<'_>]>) -> Vec<String> {
    let (old, new) = (old.map(tuple_data), new.map(tuple_data));
    let full = schema.columns.iter().all(|c| c.identity);
    let old = old.as_deref().map(tuple).map(|t| if full { Old::Full(t) } else { Old::Key(t) });
    let debezium = Debezium::new(DebeziumOptions::new("ref"));
    records_of(&debezium, &event(op, schema, old, new.as_deref().map(tuple)))
}

fn customers() -> Schema {
    schema(&[("id", base("int4"), -1), ("name", base("text"), -1), ("score", base("int4"), -1)], &["id"])
}

#[test]
fn an_insert_and_an_update() {
    assert_eq!(
        records(&customers(), Op::Insert, None, Some(&[Text("1"), Text("one"), Null])),
        [r#"0 {"id":1}: c {"before":null,"after":{"id":1,"name":"one","score":null}"#]
    );
    assert_eq!(
        records(&customers(), Op::Update, None, Some(&[Text("1"), Unchanged, Text("2")])),
        [r#"0 {"id":1}: u {"before":null,"after":{"id":1,"name":"__debezium_unavailable_value","score":2}"#]
    );
}

/// Debezium has placeholders for some types alone: what is null for want of one must not be taken for NULL.
#[test]
fn what_is_null_and_did_not_change_is_named() {
    let columns = [
        ("id", base("int4"), -1),
        ("note", base("text"), -1),
        ("n", base("numeric"), -1),
        ("em\"bedding", base("vector"), -1),
        ("ns", array(base("numeric")), -1),
        ("left_out", composite(&[("a", base("text"))]), -1),
        ("gone", base("numeric"), -1),
    ];
    let schema = schema(&columns, &["id"]);
    let new = |id| [Text(id), Unchanged, Unchanged, Unchanged, Unchanged, Unchanged, Null];
    let after =
        r#"{"id":2,"note":"__debezium_unavailable_value","n":null,"em\"bedding":null,"ns":null,"gone":null}"#;
    let named = r#" unchanged=["n","em\"bedding","ns"]"#;
    assert_eq!(
        records(&schema, Op::Update, None, Some(&new("2"))),
        [format!(r#"0 {{"id":2}}: u {{"before":null,"after":{after}{named}"#)]
    );
    // Where the key changes, of what is created alone.
    let old = [Text("1"), Null, Null, Null, Null, Null, Null];
    let found = records(&schema, Op::Update, Some(&old), Some(&new("2")));
    assert_eq!(
        found[2],
        format!(r#"2 {{"id":2}}: c {{"before":null,"after":{after} __debezium.oldkey={{"id":1}}{named}"#)
    );
    assert!(found[..2].iter().all(|record| !record.contains("unchanged=")), "{found:?}");
    // Nothing where there is a placeholder, or the value.
    let few = [Text("2"), Unchanged, Text("1"), Null, Null, Null, Null];
    let found = records(&schema, Op::Update, None, Some(&few));
    assert!(!found[0].contains("unchanged="), "{found:?}");
    let before = [Text("2"), Text("a"), Text("1"), Text("[1]"), Text("{1}"), Null, Null];
    let found = records(&full(schema), Op::Update, Some(&before), Some(&new("2")));
    assert!(!found[0].contains("unchanged="), "{found:?}");
}

/// A column is there whatever has become of its type.
#[test]
fn a_type_of_which_nothing_is_known_is_text() {
    let schema = schema(&[("id", Type::unknown(99_999), -1), ("v", Type::unknown(99_998), -1)], &["id"]);
    assert_eq!(
        records(&schema, Op::Insert, None, Some(&[Text("4"), Text("{new,paid}")])),
        [r#"0 {"id":"4"}: c {"before":null,"after":{"id":"4","v":"{new,paid}"}"#]
    );
}

#[test]
fn a_delete_has_a_tombstone() {
    let old = [Text("1"), Null, Null];
    let expected = [
        r#"0 {"id":1}: d {"before":{"id":1,"name":null,"score":null},"after":null"#,
        r#"1 {"id":1}: tombstone"#,
    ];
    assert_eq!(records(&customers(), Op::Delete, Some(&old), None), expected);

    let debezium =
        Debezium::new(DebeziumOptions { tombstones_on_delete: false, ..DebeziumOptions::new("ref") });
    let (schema, data) = (customers(), tuple_data(&old));
    let delete = event(Op::Delete, &schema, Some(Old::Key(tuple(&data))), None);
    assert_eq!(records_of(&debezium, &delete), expected[..1]);
}

#[test]
fn a_key_change_is_a_delete_a_tombstone_and_a_create() {
    assert_eq!(
        records(
            &customers(),
            Op::Update,
            Some(&[Text("2"), Null, Null]),
            Some(&[Text("20"), Text("two"), Null])
        ),
        [
            r#"0 {"id":2}: d {"before":{"id":2,"name":null,"score":null},"after":null __debezium.newkey={"id":20}"#,
            r#"1 {"id":2}: tombstone __debezium.newkey={"id":20}"#,
            r#"2 {"id":20}: c {"before":null,"after":{"id":20,"name":"two","score":null} __debezium.oldkey={"id":2}"#,
        ]
    );
}

#[test]
fn a_full_old_row_fills_before_and_what_was_not_sent() {
    let old = [Text("1"), Text("toasted"), Text("1")];
    assert_eq!(
        records(&full(customers()), Op::Update, Some(&old), Some(&[Text("1"), Unchanged, Text("2")])),
        [
            r#"0 {"id":1}: u {"before":{"id":1,"name":"toasted","score":1},"after":{"id":1,"name":"toasted","score":2}"#
        ]
    );
}

#[test]
fn an_old_row_without_what_identifies_it_has_no_key() {
    let mut schema = customers();
    schema.key.clear();
    schema.columns.iter_mut().for_each(|column| column.identity = false);
    let old = [Text("1"), Null, Null];
    let gone = records(&schema, Op::Delete, Some(&old), None);
    assert!(gone[0].starts_with("0 null: d") && gone[1].starts_with("1 null: tombstone"), "{gone:?}");
    let new = [Text("1"), Text("a"), Null];
    let changed = records(&schema, Op::Update, Some(&old), Some(&new));
    assert!(changed.len() == 1 && changed[0].starts_with(r#"0 {"id":1}: u"#), "{changed:?}");
}

#[test]
fn a_key_that_the_old_row_does_not_hold_is_the_identitys() {
    let mut schema = customers();
    schema.key = vec![1];
    for (index, column) in schema.columns.iter_mut().enumerate() {
        column.identity = index == 1;
    }
    let (old, new) = ([Null, Text("c1"), Null], [Text("1"), Text("c2"), Null]);
    assert_eq!(
        records(&schema, Op::Update, Some(&old), Some(&new)),
        [
            r#"0 {"name":"c1"}: d {"before":{"id":null,"name":"c1","score":null},"after":null __debezium.newkey={"id":1}"#,
            r#"1 {"name":"c1"}: tombstone __debezium.newkey={"id":1}"#,
            r#"2 {"id":1}: c {"before":null,"after":{"id":1,"name":"c2","score":null} __debezium.oldkey={"name":"c1"}"#,
        ]
    );
    // The old identity was sent although it is the same: no change of the key.
    let same = records(&schema, Op::Update, Some(&old), Some(&[Text("1"), Unchanged, Null]));
    assert_eq!(
        same,
        [
            r#"0 {"id":1}: u {"before":{"id":null,"name":"c1","score":null},"after":{"id":1,"name":"c1","score":null}"#
        ]
    );
    assert!(records(&schema, Op::Delete, Some(&old), None)[1].starts_with(r#"1 {"name":"c1"}: tombstone"#));
}

#[test]
fn rows_whose_long_key_was_not_sent_have_the_identitys() {
    let mut schema = customers();
    (schema.primary_key, schema.key, schema.identity) = (vec![1], vec![0], Identity::Index);
    let key = |new: &[Cell<'_>], old: Option<&[Cell<'_>]>| {
        let records = records(&schema, Op::Update, old, Some(new));
        records.iter().map(|line| line.split_once(": ").unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(key(&[Text("1"), Unchanged, Null], None), [r#"0 {"id":1}"#]);
    assert_eq!(key(&[Text("2"), Unchanged, Null], None), [r#"0 {"id":2}"#]);
    assert_eq!(key(&[Text("2"), Text("two"), Null], None), [r#"0 {"name":"two"}"#]);
    // Another identity is another key then.
    let moved = key(&[Text("3"), Unchanged, Null], Some(&[Text("2"), Null, Null]));
    assert_eq!(moved, [r#"0 {"id":2}"#, r#"1 {"id":2}"#, r#"2 {"id":3}"#]);
    let gone = records(&schema, Op::Delete, Some(&[Text("3"), Null, Null]), None);
    assert!(gone[1].starts_with(r#"1 {"id":3}: tombstone"#), "{gone:?}");
}

#[test]
fn no_two_values_of_a_key_are_written_alike() {
    let key = |ty: &Type, typmod: i32, cell: Cell<'_>| {
        let (schema, data) = (schema(&[("id", ty.clone(), typmod)], &["id"]), tuple_data(&[cell]));
        let mut records = Records::default();
        let debezium = Debezium::new(DebeziumOptions::new("ref"));
        debezium.records(&event(Op::Insert, &schema, None, Some(tuple(&data))), NOW, &mut records);
        let key = records.iter().next().unwrap().key.unwrap().to_vec();
        (String::from_utf8(key).unwrap(), records.unrendered())
    };
    for (ty, typmod) in [(base("varbit"), -1), (base("varbit"), 1), (domain(base("varbit"), -1), -1)] {
        for text in ["", "0", "1", "00", "0101"] {
            assert_eq!(key(&ty, typmod, Text(text)).0, format!(r#"{{"id":"{text}"}}"#), "{ty:?} {typmod}");
        }
    }
    assert_eq!(key(&base("bit"), 5, Text("00101")).0, r#"{"id":"BQ=="}"#);
    for text in ["{001,010}", "{010,001}"] {
        assert_eq!(key(&array(base("bit")), 3, Text(text)).0, format!(r#"{{"id":"{text}"}}"#));
    }
    // What its rows lose: a month's length, a zone, midnight's other name, fractions, where an array begins.
    let alike = [
        (base("interval"), ["P1M", "P30DT10H30M"]),
        (domain(base("interval"), -1), ["P1M", "P30DT10H30M"]),
        (base("timetz"), ["08:00:00+02", "06:00:00+00"]),
        (base("timetz"), ["24:00:00+00", "00:00:00+00"]),
        (array(base("time")), ["{01:02:03.000001}", "{01:02:03.000002}"]),
        (array(base("timetz")), ["{01:02:03.1+00}", "{01:02:03.2+00}"]),
        (domain(array(base("time")), -1), ["{01:02:03.000001}", "{01:02:03.000002}"]),
        (array(base("int4")), ["[0:1]={5,6}", "[2:3]={5,6}"]),
    ];
    for (ty, texts) in alike {
        for text in texts {
            assert_eq!(key(&ty, -1, Text(text)).0, format!(r#"{{"id":"{text}"}}"#), "{ty:?}");
        }
    }
    assert_eq!(key(&array(base("int4")), -1, Text("{5,6}")).0, r#"{"id":[5,6]}"#);
    // In the key and in the row.
    assert_eq!(key(&base("text"), -1, Bytes(b"\xff\x0a")), (r#"{"id":"\\xff0a"}"#.to_owned(), 2));
    assert_eq!(key(&base("text"), -1, Bytes(b"\xfe\x0a")), (r#"{"id":"\\xfe0a"}"#.to_owned(), 2));
}

#[test]
fn keys_without_a_primary_key() {
    let mut schema = full(schema(&[("a", base("int4"), -1), ("b", base("text"), -1)], &[]));
    assert_eq!(
        records(&schema, Op::Delete, Some(&[Text("1"), Text("x")]), None),
        [r#"0 null: d {"before":{"a":1,"b":"x"},"after":null"#, "1 null: tombstone"]
    );
    schema.unique_key = vec![1, 0];
    assert!(
        records(&schema, Op::Insert, None, Some(&[Text("1"), Null]))[0]
            .starts_with(r#"0 {"b":null,"a":1}: c "#)
    );
}

#[test]
fn a_column_of_an_unknown_type_is_left_out_but_for_the_key() {
    let schema =
        schema(&[("id", base("pg_lsn"), -1), ("lsn", base("pg_lsn"), -1), ("v", base("int4"), -1)], &["id"]);
    assert_eq!(
        records(&schema, Op::Insert, None, Some(&[Text("0/1"), Text("0/2"), Text("3")])),
        [r#"0 {"id":"0/1"}: c {"before":null,"after":{"v":3}"#]
    );
}

#[test]
fn a_value_that_does_not_fit_is_null_and_counted() {
    let (schema, data) = (customers(), tuple_data(&[Text("1"), Bytes(b"\xff"), Text("x")]));
    let mut records = Records::default();
    let debezium = Debezium::new(DebeziumOptions::new("ref"));
    debezium.records(&event(Op::Insert, &schema, None, Some(tuple(&data))), NOW, &mut records);
    assert_eq!(records.unrendered(), 2);
    assert!(line(records.iter().next().unwrap()).contains(r#""after":{"id":1,"name":null,"score":null}"#));
}

#[test]
fn source_of_snapshot_rows_origins_and_first_transactions() {
    let (schema, data) = (customers(), tuple_data(&[Text("1"), Null, Null]));
    let debezium = Debezium::new(DebeziumOptions::new("ref"));
    let mut records = Records::default();
    let mut read = event(Op::Read, &schema, None, Some(tuple(&data)));
    read.tx = None;
    debezium.records(&read, NOW, &mut records);
    let value: serde_json::Value =
        serde_json::from_slice(records.iter().next().unwrap().value.unwrap()).unwrap();
    assert_eq!((&value["op"], &value["source"]["snapshot"]), (&"r".into(), &"true".into()));
    assert_eq!(value["source"]["sequence"], "[null,\"23803392\"]");
    assert_eq!(value["source"]["txId"], serde_json::Value::Null);

    let mut insert = event(Op::Insert, &schema, None, Some(tuple(&data)));
    insert.tx = insert.tx.map(|tx| crate::event::Tx { origin: "east", ..tx });
    debezium.records(&insert, NOW, &mut records);
    let value: serde_json::Value =
        serde_json::from_slice(records.iter().next().unwrap().value.unwrap()).unwrap();
    assert_eq!(value["source"]["origin"], "east");
    assert_eq!(records.len(), 1);
}

#[test]
fn a_row_that_a_snapshot_read_has_its_place_its_xmin_and_no_tombstone() {
    let (schema, data) = (customers(), tuple_data(&[Text("1"), Null, Null]));
    let debezium = Debezium::new(DebeziumOptions::new("ref"));
    let edge = Marks::FIRST | Marks::FIRST_IN_TABLE;
    let words = [
        (Marks::NONE, "true"),
        (Marks::FIRST_IN_TABLE, "first_in_data_collection"),
        (Marks::LAST_IN_TABLE, "last_in_data_collection"),
        (Marks::FIRST_IN_TABLE | Marks::LAST_IN_TABLE, "last_in_data_collection"),
        (edge | Marks::LAST_IN_TABLE, "first"),
        (edge | Marks::LAST_IN_TABLE | Marks::LAST, "last"),
        (edge | Marks::AD_HOC, "incremental"),
    ];
    for (marks, word) in words {
        let mut records = Records::default();
        let mut read = event(Op::Read, &schema, None, Some(tuple(&data)));
        (read.tx, read.snapshot) = (None, Some(Snapshot { marks, xid: 740 }));
        debezium.records(&read, NOW, &mut records);
        let told: Vec<_> = records.iter().collect();
        assert_eq!((told.len(), told[0].key, told[0].header), (1, Some(br#"{"id":1}"#.as_slice()), None));
        let value: serde_json::Value = serde_json::from_slice(told[0].value.unwrap()).unwrap();
        assert_eq!((&value["op"], &value["before"]), (&"r".into(), &serde_json::Value::Null));
        assert_eq!(value["after"], serde_json::json!({"id": 1, "name": null, "score": null}));
        assert_eq!((&value["source"]["snapshot"], &value["source"]["txId"]), (&word.into(), &740.into()));
        assert_eq!(value["source"]["sequence"], "[null,\"23803392\"]");
    }
}

#[test]
fn truncates_messages_and_gaps_have_no_records() {
    let schema = customers();
    let truncate = Body::Truncate { schema: &schema, cascade: false, restart_identity: false };
    let message = Body::Message { channel: "c", payload: "{}" };
    let gap = Body::Gap { channel: "", from: 1, reason: "source_lost", detail: "" };
    let debezium = Debezium::new(DebeziumOptions::new("ref"));
    for (op, body) in [(Op::Truncate, truncate), (Op::Message, message), (Op::Gap, gap)] {
        assert!(records_of(&debezium, &other(op, body)).is_empty());
    }
    let options = DebeziumOptions { skip_truncates: false, ..DebeziumOptions::new("ref") };
    let mut records = Records::default();
    Debezium::new(options).records(&other(Op::Truncate, truncate), NOW, &mut records);
    let told: Vec<_> = records.iter().collect();
    assert_eq!((told.len(), told[0].key, told[0].topic_suffix), (1, None, "public.orders"));
    let value: serde_json::Value = serde_json::from_slice(told[0].value.unwrap()).unwrap();
    assert_eq!(value["op"], "t");
    assert!(value["before"].is_null() && value["after"].is_null());
}

/// A value in the form of its column; `None` where the column is left out.
fn shaped(ty: &Type, typmod: i32, text: &str) -> Option<String> {
    let mut out = Vec::new();
    write_shaped(&mut out, &Shape::of(ty, typmod)?, text.as_bytes()).unwrap();
    Some(String::from_utf8(out).unwrap())
}

fn typmod_of(precision: i32, scale: i32) -> i32 {
    ((precision << 16) | (scale & 0x7FF)) + 4
}

#[test]
fn values_as_recorded() {
    let numeric2 = typmod_of(10, 2);
    let hstore = Type::base(16_800, "hstore");
    let cases: &[(Type, i32, &str, &str)] = &[
        (base("bool"), -1, "t", "true"),
        (base("int8"), -1, "9007199254740993", "9007199254740993"),
        (base("oid"), -1, "4294967295", "4294967295"),
        (base("float8"), -1, "1e+15", "1e+15"),
        (base("float8"), -1, "100", "100.0"),
        (base("float4"), -1, "NaN", "\"NaN\""),
        (base("numeric"), numeric2, "10.10", "\"A/I=\""),
        (base("numeric"), typmod_of(5, -2), "1200", "\"DA==\""),
        (base("numeric"), -1, "1.10", "{\"scale\":1,\"value\":\"Cw==\"}"),
        (domain(base("numeric"), typmod_of(8, 2)), -1, "6.70", "\"Ap4=\""),
        (domain(domain(base("numeric"), typmod_of(8, 2)), -1), -1, "6.70", "\"Ap4=\""),
        (domain(enumeration(&["ok"]), -1), -1, "ok", "\"ok\""),
        (base("money"), -1, "$9.99", "\"A+c=\""),
        (base("bpchar"), 9, "ab   ", "\"ab   \""),
        (base("name"), -1, "nm", "\"nm\""),
        (base("json"), -1, "{\"a\":\n 1}", "\"{\\\"a\\\":\\n 1}\""),
        (base("bytea"), -1, "\\x00ff10", "\"AP8Q\""),
        (base("bit"), 1, "1", "true"),
        (base("bit"), 5, "10101", "\"FQ==\""),
        (base("varbit"), -1, "1100110011", "\"MwM=\""),
        (base("time"), 3, "03:04:05.678", "11045678"),
        (base("time"), -1, "03:04:05.678901", "11045678901"),
        (base("timestamp"), 0, "2026-01-02 03:04:05", "1767323045000"),
        (base("timestamptz"), 3, "2026-01-02 03:04:05.678+00", "\"2026-01-02T03:04:05.678Z\""),
        (base("interval"), -1, "P1Y2M3DT4H5M6.789S", "37091106789000"),
        (hstore.clone(), -1, "\"a\"=>\"1\", \"b\"=>NULL", "\"{\\\"a\\\":\\\"1\\\",\\\"b\\\":null}\""),
        (array(base("int4")), -1, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (array(base("numeric")), numeric2, "{1.10,2.00}", "[\"bg==\",\"AMg=\"]"),
        (array(base("time")), -1, "{03:04:05.678901}", "[11045678000]"),
        (array(base("timetz")), -1, "{03:04:05.678901+02}", "[\"01:04:05Z\"]"),
        (array(hstore), -1, "{\"\\\"a\\\"=>\\\"1\\\"\"}", "[\"{\\\"a\\\":\\\"1\\\"}\"]"),
        (array(base("bit")), 3, "{101}", "null"),
    ];
    for (ty, typmod, text, expected) in cases {
        assert_eq!(shaped(ty, *typmod, text).unwrap(), *expected, "{} {text}", ty.name);
    }
}

#[test]
fn columns_that_rows_leave_out() {
    let multirange = Type { oid: 4451, name: "int4multirange".into(), kind: TypeKind::Range };
    let range = Type { oid: 3904, name: "int4range".into(), kind: TypeKind::Range };
    assert!(Shape::of(&range, -1).is_some() && Shape::of(&array(range), -1).is_some());
    let left_out = [
        base("pg_lsn"),
        base("tsquery"),
        base("box"),
        composite(&[("a", base("int4"))]),
        vector(base("int2")),
        array(domain(base("int4"), -1)),
        array(base("money")),
        array(base("interval")),
        array(base("xml")),
        array(base("point")),
        array(multirange.clone()),
        multirange,
    ];
    for ty in left_out {
        assert_eq!(Shape::of(&ty, -1), None, "{}", ty.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_the_bytes_a_record_is_valid_json(
        name in proptest::sample::select(vec![
            "bool", "int8", "float8", "numeric", "money", "bytea", "bit", "varbit", "date", "time", "timetz", "timestamp",
            "timestamptz", "interval", "hstore", "point", "geometry", "vector", "sparsevec", "json", "text",
        ]),
        typmod in proptest::sample::select(vec![-1, 1, 3, 6, 655_366, 329_734]),
        in_array in any::<bool>(),
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            "[\\[\\](){}\",\\\\ =>:0-9a-fNULPTYMDHSx+.$/-]{0,20}".prop_map(String::into_bytes),
        ],
    ) {
        let ty = if in_array { array(base(name)) } else { base(name) };
        let schema = schema(&[("id", base("int4"), -1), ("v", ty, typmod)], &["id"]);
        let data = tuple_data(&[Text("1"), Bytes(&bytes)]);
        let mut records = Records::default();
        let debezium = Debezium::new(DebeziumOptions::new("ref"));
        debezium.records(&event(Op::Insert, &schema, None, Some(tuple(&data))), NOW, &mut records);
        let value = records.iter().next().unwrap().value.unwrap();
        prop_assert!(serde_json::from_slice::<Box<RawValue>>(value).is_ok());
    }
}

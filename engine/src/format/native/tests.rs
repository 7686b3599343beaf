use super::*;
use crate::event::Marks;
use crate::format::sample::Cell::{Bytes, Null, Text, Unchanged};
use crate::format::sample::{Cell, base, event, full, other, schema, tuple, tuple_data};

fn orders() -> Schema {
    schema(&[("id", base("int8"), -1), ("total", base("numeric"), -1), ("note", base("text"), -1)], &["id"])
}

fn line(event: &Event<'_>) -> String {
    let mut out = Vec::new();
    write_event(&mut out, event, &NativeOptions::default());
    let line = String::from_utf8(out).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    line
}

/// The members of a row event that differ between the tests.
fn row(schema: &Schema, op: Op, old: Option<&[Cell<'_>]>, new: Option<&[Cell<'_>]>) -> String {
    let (old, new) = (old.map(tuple_data), new.map(tuple_data));
    let full = schema.columns.iter().all(|c| c.identity);
    let old = old.as_deref().map(tuple).map(|t| if full { Old::Full(t) } else { Old::Key(t) });
    let line = line(&event(op, schema, old, new.as_deref().map(tuple)));
    let head = format!("{{\"id\":1795233906000000,\"channel\":\"public.orders\",\"op\":\"{}\",", op.name());
    let tail = ",\"schema\":1,\"ts\":\"2026-11-21T04:05:06.123456Z\",\"tx\":{\"id\":741,\"lsn\":\"0/16B3748\",\"seq\":0,\"last\":true}";
    line.strip_prefix(&head).unwrap().replace(tail, "").strip_suffix('}').unwrap().to_owned()
}

#[test]
fn an_insert() {
    assert_eq!(
        row(&orders(), Op::Insert, None, Some(&[Text("7"), Text("9.50"), Null])),
        r#""key":{"id":7},"before":null,"after":{"id":7,"total":"9.50","note":null},"changed":null,"unchanged":[]"#
    );
}

#[test]
fn an_update_that_sent_no_old_row() {
    assert_eq!(
        row(&orders(), Op::Update, None, Some(&[Text("7"), Null, Unchanged])),
        r#""key":{"id":7},"before":null,"after":{"id":7,"total":null},"changed":null,"unchanged":["note"]"#
    );
}

#[test]
fn an_update_of_the_key_has_the_new_key_and_the_old_one_before() {
    assert_eq!(
        row(&orders(), Op::Update, Some(&[Text("7"), Null, Null]), Some(&[Text("8"), Null, Unchanged])),
        r#""key":{"id":8},"before":{"id":7},"after":{"id":8,"total":null},"changed":null,"unchanged":["note"]"#
    );
}

#[test]
fn a_toasted_key_is_filled_from_the_old_key() {
    let schema = schema(&[("id", base("text"), -1), ("note", base("text"), -1)], &["id"]);
    assert_eq!(
        row(&schema, Op::Update, Some(&[Text("long"), Null]), Some(&[Unchanged, Unchanged])),
        r#""key":{"id":"long"},"before":{"id":"long"},"after":{"id":"long"},"changed":null,"unchanged":["note"]"#
    );
}

#[test]
fn a_full_old_row_fills_and_tells_what_changed() {
    let old = [Text("7"), Text("9.5"), Text("toasted")];
    assert_eq!(
        row(&full(orders()), Op::Update, Some(&old), Some(&[Text("7"), Text("9.50"), Unchanged])),
        r#""key":{"id":7},"before":{"id":7,"total":"9.5","note":"toasted"},"after":{"id":7,"total":"9.50","note":"toasted"},"changed":["total"],"unchanged":[]"#
    );
    let same = row(&full(orders()), Op::Update, Some(&old), Some(&old));
    assert!(same.contains(r#""changed":[],"unchanged":[]"#), "{same}");
}

#[test]
fn deletes() {
    assert_eq!(
        row(&orders(), Op::Delete, Some(&[Text("7"), Null, Null]), None),
        r#""key":{"id":7},"before":{"id":7},"after":null,"changed":null,"unchanged":[]"#
    );
    assert_eq!(
        row(&full(orders()), Op::Delete, Some(&[Text("7"), Null, Text("x")]), None),
        r#""key":{"id":7},"before":{"id":7,"total":null,"note":"x"},"after":null,"changed":null,"unchanged":[]"#
    );
}

#[test]
fn keys_follow_their_own_order_and_may_be_missing() {
    let mut schema = schema(&[("a", base("int4"), -1), ("b", base("text"), -1)], &["b", "a"]);
    assert!(
        row(&schema, Op::Read, None, Some(&[Text("1"), Text("x")])).starts_with(r#""key":{"b":"x","a":1},"#)
    );
    schema.key.clear();
    assert!(row(&schema, Op::Insert, None, Some(&[Text("1"), Text("x")])).starts_with(r#""key":null,"#));
    // A part of the identity is not published: what is left of it is not shown as if it told which row this is.
    schema.columns.iter_mut().for_each(|column| column.identity = false);
    let gone = row(&schema, Op::Delete, Some(&[Text("1"), Null]), None);
    assert_eq!(gone, r#""key":null,"before":null,"after":null,"changed":null,"unchanged":[]"#);
}

#[test]
fn a_table_without_columns() {
    assert_eq!(
        row(&schema(&[], &[]), Op::Insert, None, Some(&[])),
        r#""key":null,"before":null,"after":{},"changed":null,"unchanged":[]"#
    );
}

#[test]
fn what_cannot_be_written_is_named_once() {
    assert_eq!(
        row(
            &full(orders()),
            Op::Update,
            Some(&[Bytes(b"x"), Null, Bytes(b"\xff")]),
            Some(&[Bytes(b"x"), Text("1"), Text("ok")])
        ),
        r#""key":{},"before":{"total":null},"after":{"total":"1","note":"ok"},"changed":["total","note"],"unchanged":[],"errors":[{"column":"id","reason":"number"},{"column":"note","reason":"encoding"}]"#
    );
}

#[test]
fn numbers_are_the_readers_choice() {
    let (schema, data) = (orders(), tuple_data(&[Text("7"), Text("9.50"), Null]));
    let mut out = Vec::new();
    let options = NativeOptions { numbers: Numbers::String };
    write_event(&mut out, &event(Op::Insert, &schema, None, Some(tuple(&data))), &options);
    let line = String::from_utf8(out).unwrap();
    assert!(line.contains(r#""key":{"id":"7"}"#) && line.contains(r#""total":"9.50""#), "{line}");
}

#[test]
fn a_truncate() {
    let schema = orders();
    let body = Body::Truncate { schema: &schema, cascade: true, restart_identity: false };
    assert_eq!(
        line(&other(Op::Truncate, body)),
        r#"{"id":1795233906000000,"channel":"public.orders","op":"truncate","key":null,"before":null,"after":null,"changed":null,"unchanged":[],"truncate":{"cascade":true,"restart_identity":false},"schema":1,"ts":"2026-11-21T04:05:06.123456Z","tx":{"id":741,"lsn":"0/16B3748","seq":0,"last":true}}"#
    );
}

#[test]
fn a_custom_event() {
    let payload = "{\"b\" : 1,\n \"a\":[]}";
    let mut event = other(Op::Message, Body::Message { channel: "orders.shipped", payload });
    event.tx = None;
    assert_eq!(
        line(&event),
        r#"{"id":1795233906000000,"channel":"orders.shipped","op":"message","key":null,"before":null,"after":null,"changed":null,"unchanged":[],"payload":{"b" : 1, "a":[]},"schema":null,"ts":"2026-11-21T04:05:06.123456Z","tx":null}"#
    );
    let text = other(Op::Message, Body::Message { channel: "c", payload: "{not\njson" });
    assert!(line(&text).contains(r#""payload":"{not\njson","schema":null,"ts""#));
}

#[test]
fn a_row_that_a_snapshot_read() {
    let (schema, data) = (orders(), tuple_data(&[Text("7"), Text("9.50"), Null]));
    let mut read = event(Op::Read, &schema, None, Some(tuple(&data)));
    read.tx = None;
    let mut told = |marks| {
        read.snapshot = Some(Snapshot { marks, xid: 741 });
        line(&read)
    };
    assert_eq!(
        told(Marks::FIRST | Marks::FIRST_IN_TABLE | Marks::LAST_IN_TABLE),
        r#"{"id":1795233906000000,"channel":"public.orders","op":"read","key":{"id":7},"before":null,"after":{"id":7,"total":"9.50","note":null},"changed":null,"unchanged":[],"snapshot":{"kind":"initial","marks":["first","first_in_table","last_in_table"],"lsn":"0/16B3600"},"schema":1,"ts":"2026-11-21T04:05:06.123456Z","tx":null}"#
    );
    assert!(told(Marks::AD_HOC).contains(r#""snapshot":{"kind":"ad_hoc","marks":[],"lsn""#));
    assert!(told(Marks::LAST).contains(r#""marks":["last"]"#));
}

#[test]
fn a_gap() {
    let detail = "The slot \"rowcast\" is gone";
    let from = 1_795_233_906_000_000;
    let body = Body::Gap { channel: "", from, reason: "source_lost", detail };
    let mut event = other(Op::Gap, body);
    event.tx = None;
    assert_eq!(
        line(&event),
        r#"{"id":1795233906000000,"channel":null,"op":"gap","reason":"source_lost","detail":"The slot \"rowcast\" is gone","ts":"2026-11-21T04:05:06.123456Z","tx":null}"#
    );
    event.body = Body::Gap { channel: "", from: from - 9, reason: "journal_damaged", detail: "" };
    let numbers = r#""detail":"","from":1795233905999991,"to":1795233906000000,"ts""#;
    assert!(line(&event).contains(numbers), "{}", line(&event));
}

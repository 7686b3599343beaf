use proptest::prelude::*;

use super::*;
use crate::format::sample::{array, base, composite, domain, enumeration, vector};

fn json(ty: &Type, text: &str) -> String {
    with(ty, text, Numbers::Mixed)
}

fn with(ty: &Type, text: &str, numbers: Numbers) -> String {
    let mut out = b"kept".to_vec();
    write_value(&mut out, ty, text.as_bytes(), numbers).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("kept").unwrap().to_owned()
}

fn refused(ty: &Type, text: &[u8]) -> &'static str {
    let mut out = b"kept".to_vec();
    let reason = write_value(&mut out, ty, text, Numbers::Mixed).unwrap_err().reason();
    assert_eq!(out, b"kept");
    reason
}

#[test]
fn numbers_and_booleans() {
    assert_eq!(json(&base("bool"), "t"), "true");
    assert_eq!(json(&base("bool"), "f"), "false");
    assert_eq!(json(&base("int2"), "-32768"), "-32768");
    assert_eq!(json(&base("int8"), "9223372036854775807"), "9223372036854775807");
    assert_eq!(json(&base("float8"), "1.7976931348623157e+308"), "1.7976931348623157e+308");
    assert_eq!(json(&base("float4"), "NaN"), "\"NaN\"");
    assert_eq!(json(&base("float8"), "-Infinity"), "\"-Infinity\"");
    assert_eq!(json(&base("numeric"), "1.10"), "\"1.10\"");
    assert_eq!(json(&base("numeric"), "NaN"), "\"NaN\"");
    assert_eq!(json(&base("oid"), "4294967295"), "\"4294967295\"");
    assert_eq!(json(&base("money"), "-$1,234.50"), "\"-1234.50\"");
}

#[test]
fn bigint_and_numeric_move_together() {
    let cases = [
        (Numbers::Mixed, "[1,null]", "[\"1.50\",\"NaN\"]"),
        (Numbers::String, "[\"1\",null]", "[\"1.50\",\"NaN\"]"),
        (Numbers::Number, "[1,null]", "[1.50,\"NaN\"]"),
    ];
    for (numbers, integers, numerics) in cases {
        assert_eq!(with(&array(base("int8")), "{1,NULL}", numbers), integers);
        assert_eq!(with(&array(domain(base("numeric"), -1)), "{1.50,NaN}", numbers), numerics);
        assert_eq!(with(&base("int4"), "7", numbers), "7");
        assert_eq!(with(&base("money"), "$1.00", numbers), "\"1.00\"");
    }
}

#[test]
fn texts_and_everything_unknown() {
    assert_eq!(json(&base("text"), "line1\n\"q\" \\ é漢😀"), "\"line1\\n\\\"q\\\" \\\\ é漢😀\"");
    assert_eq!(json(&base("bytea"), "\\x00ff"), "\"\\\\x00ff\"");
    assert_eq!(json(&base("interval"), "P1Y2M3DT4H5M6.7S"), "\"P1Y2M3DT4H5M6.7S\"");
    assert_eq!(json(&base("timetz"), "03:04:05+02"), "\"03:04:05+02\"");
    assert_eq!(json(&base("date"), "0044-03-15 BC"), "\"0044-03-15 BC\"");
    assert_eq!(json(&base("timestamptz"), "2026-01-02 03:04:05.6+00"), "\"2026-01-02T03:04:05.6+00:00\"");
    assert_eq!(json(&base("polygon"), "((0,0),(1,1))"), "\"((0,0),(1,1))\"");
    assert_eq!(json(&Type::base(99_999, "geometry"), "0101"), "\"0101\"");
    assert_eq!(json(&enumeration(&["sad", "happy's"]), "happy's"), "\"happy's\"");
    let range = Type { oid: 3904, name: "int4range".into(), kind: TypeKind::Range };
    assert_eq!(json(&range, "[1,5)"), "\"[1,5)\"");
}

#[test]
fn json_keeps_its_own_text() {
    assert_eq!(json(&base("json"), "{\"b\" : 1,\n \"b\":2}"), "{\"b\" : 1, \"b\":2}");
    assert_eq!(json(&base("jsonb"), "{\"a\": 1.10}"), "{\"a\": 1.10}");
    assert_eq!(json(&array(base("json")), r#"{"{\"a\":1}",null}"#), "[{\"a\":1},null]");
}

#[test]
fn arrays_vectors_and_domains() {
    assert_eq!(json(&array(base("int4")), "[0:2]={1,NULL,3}"), "[1,null,3]");
    assert_eq!(json(&array(base("bool")), "{{t,f},{f,t}}"), "[[true,false],[false,true]]");
    assert_eq!(json(&array(base("timestamp")), "{\"2026-01-02 03:04:05\"}"), "[\"2026-01-02T03:04:05\"]");
    assert_eq!(json(&array(base("money")), "{$9.99,\"-$1,234.50\"}"), "[\"9.99\",\"-1234.50\"]");
    assert_eq!(json(&vector(base("int2")), "1 2"), "[1,2]");
    assert_eq!(json(&vector(base("oid")), "1 2"), "[\"1\",\"2\"]");
    assert_eq!(json(&domain(domain(array(base("int4")), -1), -1), "{1}"), "[1]");
    let boxes = Type {
        oid: 1020,
        name: "_box".into(),
        kind: TypeKind::Array { element: Box::new(base("box")), delimiter: ';' },
    };
    assert_eq!(json(&boxes, "{(3,4),(1,2);(7,8),(5,6)}"), "[\"(3,4),(1,2)\",\"(7,8),(5,6)\"]");
}

#[test]
fn composites_in_arrays_in_composites() {
    let inner = composite(&[("n", base("numeric")), ("label", base("text"))]);
    let outer =
        composite(&[("id", base("int8")), ("parts", array(inner.clone())), ("tags", array(base("text")))]);
    let text = r#"(7,"{""(1.50,\\""a \\""\\""b\\""\\""\\"")"",NULL}","{""x,y""}")"#;
    assert_eq!(
        json(&outer, text),
        r#"{"id":7,"parts":[{"n":"1.50","label":"a \"b\""},null],"tags":["x,y"]}"#
    );
    assert_eq!(json(&outer, "(,,)"), r#"{"id":null,"parts":null,"tags":null}"#);
    assert_eq!(json(&inner, "(,\"\")"), r#"{"n":null,"label":""}"#);
    assert_eq!(json(&composite(&[]), "()"), "{}");
}

#[test]
fn hstore_goes_by_name() {
    assert_eq!(json(&Type::base(16_800, "hstore"), r#""a"=>"1", "n"=>NULL"#), r#"{"a":"1","n":null}"#);
    let text = r#"{"\"a\"=>\"1\""}"#;
    assert_eq!(json(&array(Type::base(16_800, "hstore")), text), r#"[{"a":"1"}]"#);
    let own = Type { kind: TypeKind::Opaque, ..Type::base(16_900, "hstore") };
    assert_eq!(json(&own, r#""a"=>"1""#), r#""\"a\"=>\"1\"""#);
    assert_eq!(json(&array(own), text), r#"["\"a\"=>\"1\""]"#);
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_written() {
    assert_eq!(refused(&base("text"), b"\xff"), "encoding");
    assert_eq!(refused(&base("int4"), b"1\xff"), "number");
    assert_eq!(refused(&base("bool"), b"true"), "boolean");
    assert_eq!(refused(&base("json"), b"{"), "json");
    assert_eq!(refused(&base("jsonb"), b"[1,\n2"), "json");
    assert_eq!(refused(&base("timestamp"), b"now"), "timestamp");
    assert_eq!(refused(&base("money"), b"9,99 EUR"), "money");
    assert_eq!(refused(&array(base("int4")), b"{1,x}"), "number");
    assert_eq!(refused(&array(base("int4")), b"{1,2"), "array");
    assert_eq!(refused(&composite(&[("a", base("int4"))]), b"(1,2)"), "composite");
    assert_eq!(refused(&Type::base(16_800, "hstore"), b"\"a\"=>"), "hstore");
}

fn any_type() -> impl Strategy<Value = Type> {
    let names = [
        "bool",
        "int2",
        "int4",
        "int8",
        "float8",
        "numeric",
        "money",
        "json",
        "jsonb",
        "timestamp",
        "timestamptz",
        "text",
        "date",
        "hstore",
        "unknown_type",
    ];
    let leaf = proptest::sample::select(names.to_vec()).prop_map(base);
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(array),
            inner.clone().prop_map(vector),
            inner.clone().prop_map(|ty| domain(ty, -1)),
            proptest::collection::vec(inner, 0..3).prop_map(|types| {
                let fields = types.into_iter().map(|ty| Field { name: "a\"b".into(), ty }).collect();
                Type { oid: 90_000, name: "row".into(), kind: TypeKind::Composite(fields) }
            }),
        ]
    })
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let shaped = "[\\[\\](){}\",\\\\ =>:0-9a-fNULT+.$;\n-]{0,24}".prop_map(String::into_bytes);
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..24), shaped]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_the_bytes_the_line_stays_valid(ty in any_type(), text in any_text(), numbers in 0..3_usize) {
        let numbers = [Numbers::Mixed, Numbers::String, Numbers::Number][numbers];
        let mut out = b"[".to_vec();
        match write_value(&mut out, &ty, &text, numbers) {
            Ok(()) => {
                prop_assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
                let value = out.strip_prefix(b"[").unwrap();
                prop_assert!(serde_json::from_slice::<Box<serde_json::value::RawValue>>(value).is_ok());
            }
            Err(_) => prop_assert_eq!(out, b"["),
        }
    }
}

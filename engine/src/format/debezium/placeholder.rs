//! What stands for a TOASTed value that did not change and was not sent: by the form of its column.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use crate::format::debezium::shape::Shape;
use crate::format::json::{write_name, write_string};
use crate::format::oid;

/// Where there is none.
const NONE: &[u8] = b"null";

/// The placeholder in each form, as JSON.
#[derive(Debug)]
pub(super) struct Placeholders {
    text: Vec<u8>,
    texts: Vec<u8>,
    bytes: Vec<u8>,
    byte_strings: Vec<u8>,
    integers: Vec<u8>,
    uuids: Vec<u8>,
    hstore: Vec<u8>,
}

impl Placeholders {
    pub(super) fn new(placeholder: &str) -> Self {
        let string = |text: &str| {
            let mut out = Vec::new();
            write_string(&mut out, text);
            out
        };
        let list = |json: &[u8]| [b"[", json, b"]"].concat();
        let text = string(placeholder);
        let bytes = string(&STANDARD.encode(placeholder));
        // Java's bytes have a sign.
        let integers: Vec<_> = placeholder.bytes().map(|byte| byte.cast_signed().to_string()).collect();
        let uuid = uuid::Builder::from_md5_bytes(Md5::digest(placeholder).into()).into_uuid();
        let mut object = b"{".to_vec();
        write_name(&mut object, placeholder);
        write_string(&mut object, placeholder);
        object.push(b'}');
        Self {
            texts: list(&text),
            byte_strings: list(&bytes),
            integers: list(integers.join(",").as_bytes()),
            uuids: list(&string(&uuid.to_string())),
            hstore: string(&String::from_utf8_lossy(&object)),
            text,
            bytes,
        }
    }

    /// The placeholder of a column; null where Debezium has none.
    pub(super) fn of(&self, shape: &Shape<'_>) -> &[u8] {
        self.find(shape).unwrap_or(NONE)
    }

    /// The placeholder of a column, if Debezium has one.
    pub(super) fn find(&self, shape: &Shape<'_>) -> Option<&[u8]> {
        Some(match shape {
            Shape::Text => &self.text,
            Shape::Bytes => &self.bytes,
            Shape::Hstore => &self.hstore,
            Shape::Array { element, .. } => match element.oid {
                oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::JSON | oid::JSONB => &self.texts,
                oid::BYTEA => &self.byte_strings,
                oid::INT4 | oid::INT8 | oid::DATE => &self.integers,
                oid::UUID => &self.uuids,
                _ => return None,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::sample::{array, base};

    #[test]
    fn each_form_has_its_own() {
        let placeholders = Placeholders::new("__debezium_unavailable_value");
        let of = |ty| String::from_utf8(placeholders.of(&Shape::of(&ty, -1).unwrap()).to_vec()).unwrap();
        assert_eq!(of(base("jsonb")), r#""__debezium_unavailable_value""#);
        assert_eq!(of(base("bytea")), r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#);
        assert_eq!(
            of(base("hstore")),
            r#""{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}""#
        );
        assert_eq!(of(array(base("text"))), r#"["__debezium_unavailable_value"]"#);
        assert_eq!(of(array(base("bytea"))), r#"["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]"#);
        assert_eq!(of(array(base("uuid"))), r#"["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]"#);
        assert!(of(array(base("int4"))).starts_with("[95,95,100,101,98,"));
        assert_eq!(of(array(base("numeric"))), "null");
        assert_eq!(of(base("numeric")), "null");
    }
}

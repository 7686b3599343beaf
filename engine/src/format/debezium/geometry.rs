//! Points, PostGIS geometries and pgvector's vectors.

use crate::format::debezium::binary::{hex_byte, write_base64, write_hex_as_base64};
use crate::format::debezium::value::write_float;
use crate::format::json::{self, separate, write_int};
use crate::format::number::is_json_number;
use crate::format::value::ValueError;

/// The flag in an EWKB geometry's type that says that a SRID follows.
const HAS_SRID: u32 = 0x2000_0000;

/// Appends `(1.5,-2.25)` as coordinates and as well-known binary, little-endian.
pub(super) fn write_point(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let inside =
        text.strip_prefix(b"(").and_then(|text| text.strip_suffix(b")")).ok_or(ValueError::GEOMETRY)?;
    let comma = memchr::memchr(b',', inside).ok_or(ValueError::GEOMETRY)?;
    let (x, y) = (inside.get(..comma).unwrap_or_default(), inside.get(comma + 1..).unwrap_or_default());
    out.extend_from_slice(b"{\"x\":");
    write_float(out, x)?;
    out.extend_from_slice(b",\"y\":");
    write_float(out, y)?;
    let mut wkb = [0; 21];
    // Byte order, geometry type 1, then the coordinates.
    wkb[..5].copy_from_slice(&[1, 1, 0, 0, 0]);
    wkb[5..13].copy_from_slice(&double(x)?.to_le_bytes());
    wkb[13..].copy_from_slice(&double(y)?.to_le_bytes());
    out.extend_from_slice(b",\"wkb\":");
    write_base64(out, &wkb);
    out.extend_from_slice(b",\"srid\":null}");
    Ok(())
}

fn double(text: &[u8]) -> Result<f64, ValueError> {
    json::utf8(text)?.parse().map_err(|_| ValueError::GEOMETRY)
}

/// Appends hexadecimal EWKB, PostGIS' text form, as bytes and SRID.
pub(super) fn write_geometry(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    out.extend_from_slice(b"{\"wkb\":");
    write_hex_as_base64(out, text)?;
    out.extend_from_slice(b",\"srid\":");
    match srid(text) {
        Some(srid) => write_int(out, srid),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(())
}

/// The SRID in the header: byte order, type with flags, SRID.
fn srid(hex: &[u8]) -> Option<u32> {
    let mut header = [0; 9];
    let (pairs, _) = hex.as_chunks::<2>();
    for (byte, index) in header.iter_mut().zip(0..) {
        let [high, low] = *pairs.get::<usize>(index)?;
        *byte = hex_byte(high, low)?;
    }
    let [order, kind @ .., a, b, c, d] = header;
    let read = if order == 1 { u32::from_le_bytes } else { u32::from_be_bytes };
    (read(kind) & HAS_SRID != 0).then(|| read([a, b, c, d]))
}

/// Appends `[1,2.5]` as an array of floats.
pub(super) fn write_vector(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let inside = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]")).ok_or(ValueError::ARRAY)?;
    out.push(b'[');
    for element in inside.split(|b| *b == b',').filter(|_| !inside.is_empty()) {
        separate(out);
        write_float(out, element)?;
    }
    out.push(b']');
    Ok(())
}

/// Appends `{1:0.5,3:1}/5` as dimensions and pairs of index and value.
pub(super) fn write_sparse_vector(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let inside = text.strip_prefix(b"{").ok_or(ValueError::ARRAY)?;
    let end = memchr::memchr(b'}', inside).ok_or(ValueError::ARRAY)?;
    let pairs = inside.get(..end).unwrap_or_default();
    let dimensions = inside.get(end..).and_then(|rest| rest.strip_prefix(b"}/")).ok_or(ValueError::ARRAY)?;
    out.extend_from_slice(b"{\"dimensions\":");
    write_integer(out, dimensions)?;
    out.extend_from_slice(b",\"vector\":[");
    for pair in pairs.split(|b| *b == b',').filter(|_| !pairs.is_empty()) {
        let colon = memchr::memchr(b':', pair).ok_or(ValueError::ARRAY)?;
        separate(out);
        out.push(b'[');
        write_integer(out, pair.get(..colon).unwrap_or_default())?;
        out.push(b',');
        write_float(out, pair.get(colon + 1..).unwrap_or_default())?;
        out.push(b']');
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

fn write_integer(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    if !is_json_number(text) {
        return Err(ValueError::NUMBER);
    }
    out.extend_from_slice(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(
        write: fn(&mut Vec<u8>, &[u8]) -> Result<(), ValueError>,
        text: &str,
    ) -> Result<String, ValueError> {
        let mut out = Vec::new();
        write(&mut out, text.as_bytes())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn points_as_recorded() {
        assert_eq!(
            written(write_point, "(1.5,-2.25)").unwrap(),
            r#"{"x":1.5,"y":-2.25,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAALA","srid":null}"#
        );
        assert_eq!(
            written(write_point, "(1e+300,-1e-300)").unwrap(),
            r#"{"x":1e+300,"y":-1e-300,"wkb":"AQEAAACcdQCIPOQ3flnz+MIfbqWB","srid":null}"#
        );
        assert!(written(write_point, "(1,2)").unwrap().starts_with(r#"{"x":1.0,"y":2.0,"#));
        for text in ["", "1,2", "(1)", "(1,)", "(1,2,3)"] {
            assert!(written(write_point, text).is_err(), "{text}");
        }
    }

    #[test]
    fn geometries_keep_their_srid() {
        let text = "0101000020730C00001C7C613255DE6540787AA52C435C42C0";
        assert_eq!(
            written(write_geometry, text).unwrap(),
            r#"{"wkb":"AQEAACBzDAAAHHxhMlXeZUB4eqUsQ1xCwA==","srid":3187}"#
        );
        let plain = "01010000000000000000000000000000000000F03F";
        assert!(written(write_geometry, plain).unwrap().ends_with(r#","srid":null}"#));
        assert_eq!(written(write_geometry, "POINT(1 2)"), Err(ValueError::BYTES));
    }

    #[test]
    fn vectors() {
        assert_eq!(written(write_vector, "[1,2.5,-3e-05]").unwrap(), "[1.0,2.5,-3e-05]");
        assert_eq!(
            written(write_sparse_vector, "{1:0.5,3:1}/5").unwrap(),
            r#"{"dimensions":5,"vector":[[1,0.5],[3,1.0]]}"#
        );
        assert_eq!(written(write_sparse_vector, "{}/5").unwrap(), r#"{"dimensions":5,"vector":[]}"#);
        for text in ["", "[1", "[1,]", "[a]"] {
            assert!(written(write_vector, text).is_err(), "{text}");
        }
        for text in ["", "{1:1}", "{1}/2", "{1:x}/2", "{1:1}/x"] {
            assert!(written(write_sparse_vector, text).is_err(), "{text}");
        }
    }
}

//! One value in the form that Debezium gives it.

use crate::format::array::write_array;
use crate::format::debezium::binary::{write_bits, write_bytea};
use crate::format::debezium::decimal::{write_decimal, write_money, write_variable_decimal};
use crate::format::debezium::geometry::{write_geometry, write_point, write_sparse_vector, write_vector};
use crate::format::debezium::map::write_hstore;
use crate::format::debezium::shape::Shape;
use crate::format::debezium::temporal;
use crate::format::json::{write_bool, write_text};
use crate::format::number::{is_json_number, write_number};
use crate::format::value::{ValueError, write_boolean};

/// Appends a value that is not null. What it wrote before an error stays; the caller truncates.
pub(super) fn write_shaped(out: &mut Vec<u8>, shape: &Shape<'_>, text: &[u8]) -> Result<(), ValueError> {
    match *shape {
        Shape::Boolean => write_boolean(out, text),
        Shape::Integer => write_number(out, text),
        Shape::Float => write_float(out, text),
        Shape::Text => write_text(out, text),
        Shape::Decimal { scale } => write_decimal(out, text, scale),
        Shape::VariableDecimal => write_variable_decimal(out, text),
        Shape::Money => write_money(out, text),
        Shape::Bytes => write_bytea(out, text),
        Shape::Bit => write_bit(out, text),
        Shape::Bits => write_bits(out, text),
        Shape::Date => temporal::write_date(out, text),
        Shape::Time { millis, cut } => temporal::write_time(out, text, millis, cut),
        Shape::Timestamp { millis } => temporal::write_timestamp(out, text, millis),
        Shape::ZonedTimestamp { digits } => temporal::write_zoned_timestamp(out, text, digits),
        Shape::ZonedTime { cut } => temporal::write_zoned_time(out, text, cut),
        Shape::Interval => temporal::write_interval(out, text),
        Shape::Hstore => write_hstore(out, text),
        Shape::Point => write_point(out, text),
        Shape::Geometry => write_geometry(out, text),
        Shape::Vector => write_vector(out, text),
        Shape::SparseVector => write_sparse_vector(out, text),
        Shape::Array { element, delimiter, typmod } => {
            let element = Shape::of_element(element, typmod);
            write_array(out, text, delimiter, &mut |out, text| write_shaped(out, &element, text))
        }
        Shape::Null => {
            out.extend_from_slice(b"null");
            Ok(())
        }
    }
}

/// Appends a float so that it reads as one: with a fraction or an exponent.
pub(super) fn write_float(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    write_number(out, text)?;
    if is_json_number(text) && !text.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        out.extend_from_slice(b".0");
    }
    Ok(())
}

fn write_bit(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    match text {
        b"1" => write_bool(out, true),
        b"0" => write_bool(out, false),
        // `bit varying(1)` may be empty.
        b"" => out.extend_from_slice(b"null"),
        _ => return Err(ValueError::BITS),
    }
    Ok(())
}

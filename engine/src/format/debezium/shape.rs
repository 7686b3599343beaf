//! How Debezium sees a column: the form that its type takes in a row, with the default options.

use crate::format::oid;
use crate::schema::{Type, TypeKind};

/// The form of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape<'a> {
    /// `true` or `false`.
    Boolean,
    /// A number without a fraction, `oid` among them.
    Integer,
    /// A number with a fraction or an exponent; NaN and the infinities as strings.
    Float,
    /// Postgres' text in a string.
    Text,
    /// `numeric(p,s)`: base64 of the unscaled value.
    Decimal {
        /// Digits after the point; negative when the last digits before it are left out.
        scale: i32,
    },
    /// `numeric`: an object of scale and unscaled value.
    VariableDecimal,
    /// Base64 of the cents.
    Money,
    /// Base64.
    Bytes,
    /// `bit(1)`: a boolean.
    Bit,
    /// Base64 of the bits, lowest byte first.
    Bits,
    /// Days since 1970.
    Date,
    /// Of the day.
    Time {
        /// Up to three digits of precision count milliseconds, more count microseconds.
        millis: bool,
        /// Microseconds are cut to milliseconds, which Debezium does in arrays.
        cut: bool,
    },
    /// Since 1970, as if in UTC.
    Timestamp {
        /// As for [`Shape::Time`].
        millis: bool,
    },
    /// ISO 8601 in UTC.
    ZonedTimestamp {
        /// Digits after the point, always all of them.
        digits: usize,
    },
    /// ISO 8601 in UTC, with the digits that are needed.
    ZonedTime {
        /// Cut to seconds, which Debezium does in arrays.
        cut: bool,
    },
    /// Microseconds, a month being 30.4375 days.
    Interval,
    /// A JSON object in a string.
    Hstore,
    /// Coordinates and WKB.
    Point,
    /// PostGIS: WKB and SRID.
    Geometry,
    /// pgvector: an array of floats.
    Vector,
    /// pgvector: dimensions and the pairs that are not zero.
    SparseVector,
    /// A JSON array.
    Array {
        /// The elements' type.
        element: &'a Type,
        /// Between elements.
        delimiter: char,
        /// The elements' typmod.
        typmod: i32,
    },
    /// Declared, but null for want of a converter: `bit[]`.
    Null,
}

impl<'a> Shape<'a> {
    /// The form of a column of this type; `None` where rows leave the column out.
    pub(super) fn of(ty: &'a Type, typmod: i32) -> Option<Self> {
        match &ty.kind {
            TypeKind::Base => Self::of_base(ty, typmod),
            TypeKind::Enum(_) => Some(Self::Text),
            TypeKind::Range => is_known_range(ty.oid).then_some(Self::Text),
            TypeKind::Domain { base, typmod: inner } => {
                Self::of(base, if *inner == -1 { typmod } else { *inner })
            }
            TypeKind::Array { element, delimiter } => match element.oid {
                oid::BIT => Some(Self::Null),
                _ if has_array(element) => Some(Self::Array { element, delimiter: *delimiter, typmod }),
                _ => None,
            },
            TypeKind::Opaque | TypeKind::Vector(_) | TypeKind::Composite(_) => None,
        }
    }

    /// The form in a key, which leaves no column out: as text where the form of rows is the same for different values.
    pub(super) fn of_key(ty: &'a Type, typmod: i32) -> Self {
        let plain = ty.undomained();
        let loses = match &plain.kind {
            // In arrays Debezium cuts times.
            TypeKind::Array { element, .. } => matches!(element.oid, oid::TIME | oid::TIMETZ),
            // Without the zeros before it, a bit string has lost its length; a month is counted as so many days; a time
            // in UTC has lost its zone, and 24:00.
            _ => matches!(plain.oid, oid::VARBIT | oid::INTERVAL | oid::TIMETZ),
        };
        if loses {
            return Self::Text;
        }
        Self::of(ty, typmod).filter(|shape| *shape != Self::Null).unwrap_or(Self::Text)
    }

    /// This value's form in a key: an array says its lower bounds, if it is not numbered from 1, in its text alone.
    pub(super) fn for_key(self, text: &[u8]) -> Self {
        if matches!(self, Self::Array { .. }) && text.starts_with(b"[") { Self::Text } else { self }
    }

    /// The form of an array's elements.
    pub(super) fn of_element(ty: &'a Type, typmod: i32) -> Self {
        match Self::of(ty, typmod).unwrap_or(Self::Text) {
            Self::Time { millis, .. } => Self::Time { millis, cut: true },
            Self::ZonedTime { .. } => Self::ZonedTime { cut: true },
            shape => shape,
        }
    }

    fn of_base(ty: &Type, typmod: i32) -> Option<Self> {
        Some(match ty.oid {
            oid::BOOL => Self::Boolean,
            oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Self::Integer,
            oid::FLOAT4 | oid::FLOAT8 => Self::Float,
            oid::NUMERIC => decimal(typmod),
            oid::MONEY => Self::Money,
            oid::BYTEA => Self::Bytes,
            oid::BIT | oid::VARBIT if typmod == 1 => Self::Bit,
            oid::BIT | oid::VARBIT => Self::Bits,
            oid::DATE => Self::Date,
            oid::TIME => Self::Time { millis: is_millis(typmod), cut: false },
            oid::TIMETZ => Self::ZonedTime { cut: false },
            oid::TIMESTAMP => Self::Timestamp { millis: is_millis(typmod) },
            oid::TIMESTAMPTZ => Self::ZonedTimestamp { digits: usize::try_from(typmod).unwrap_or(6).min(6) },
            oid::INTERVAL => Self::Interval,
            oid::POINT => Self::Point,
            oid::CHAR | oid::NAME | oid::TEXT | oid::BPCHAR | oid::VARCHAR => Self::Text,
            oid::JSON | oid::JSONB | oid::XML | oid::UUID | oid::TSVECTOR => Self::Text,
            oid::INET | oid::CIDR | oid::MACADDR | oid::MACADDR8 => Self::Text,
            // It may be of a type that rows have.
            _ if ty.is_unknown() => Self::Text,
            _ => match ty.name.as_str() {
                "citext" | "ltree" | "isbn" => Self::Text,
                "hstore" => Self::Hstore,
                "geometry" | "geography" => Self::Geometry,
                "vector" | "halfvec" => Self::Vector,
                "sparsevec" => Self::SparseVector,
                _ => return None,
            },
        })
    }
}

fn decimal(typmod: i32) -> Shape<'static> {
    if typmod < 4 {
        return Shape::VariableDecimal;
    }
    // The typmod is four more than precision and scale in 16 bits each, the scale in 11 bits with a sign.
    let scale = (typmod - 4) & 0x7FF;
    Shape::Decimal { scale: (scale ^ 0x400) - 0x400 }
}

fn is_millis(typmod: i32) -> bool {
    (0..=3).contains(&typmod)
}

fn is_known_range(ty: u32) -> bool {
    matches!(
        ty,
        oid::INT4RANGE | oid::INT8RANGE | oid::NUMRANGE | oid::TSRANGE | oid::TSTZRANGE | oid::DATERANGE
    )
}

/// Whether Debezium knows arrays of the type.
fn has_array(element: &Type) -> bool {
    match &element.kind {
        TypeKind::Base => match element.oid {
            oid::MONEY | oid::NAME | oid::INTERVAL | oid::VARBIT | oid::XML | oid::POINT | oid::TSVECTOR => {
                false
            }
            _ if matches!(element.name.as_str(), "isbn" | "vector" | "halfvec" | "sparsevec") => false,
            _ => Shape::of_base(element, -1).is_some(),
        },
        TypeKind::Enum(_) => true,
        TypeKind::Range => is_known_range(element.oid),
        _ => false,
    }
}

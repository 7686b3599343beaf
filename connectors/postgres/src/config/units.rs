//! Sizes and lengths of time as Postgres writes them: `50GB`, `30s`.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A text; a bare number of a file is taken too, to be told that it lacks its unit.
struct Unit(String);

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Unit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number with its unit, in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Unit, E> {
                Ok(Unit(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Unit, E> {
                Ok(Unit(number.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Unit, E> {
                Ok(Unit(number.to_string()))
            }
        }
        from.deserialize_any(Visitor)
    }
}

pub(super) mod time {
    use std::time::Duration;

    use rowcast_engine::units;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&units::show_time(*time))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        units::time(&super::Unit::deserialize(from)?.0).map_err(D::Error::custom)
    }
}

pub(super) mod size {
    use rowcast_engine::units;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&units::show_size(*bytes))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        units::size(&super::Unit::deserialize(from)?.0).map_err(D::Error::custom)
    }
}

pub(super) mod optional_size {
    use rowcast_engine::units;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_str(&units::show_size(*bytes)),
            None => to.serialize_none(),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<u64>, D::Error> {
        let unit = Option::<super::Unit>::deserialize(from)?;
        unit.map(|unit| units::size(&unit.0)).transpose().map_err(D::Error::custom)
    }
}

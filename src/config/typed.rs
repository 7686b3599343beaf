//! From the tree to the types of the house. Unknown keys and wrong values are refused with where they were given.

use std::fmt;

use rowcast_engine::{Error, Result, in_quotes};
use serde::de::value::SeqDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor,
};

use super::file;
use super::value::{Node, Origin, Table, Value};

/// Reads what was said under `key`, defaults for the rest.
pub(crate) fn read<T: DeserializeOwned>(key: &str, node: Node) -> Result<T> {
    T::deserialize(Reader { key: key.to_owned(), node }).map_err(|mistake| {
        let error = Error::usage(mistake.what);
        match mistake.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

/// The error for a key that does not exist, with the nearest ones that do.
pub(crate) fn unknown(section: &str, name: &str, origin: &Origin, known: &[&str]) -> Error {
    let mistake = unknown_key(section, name, origin, known);
    Error::usage(mistake.what).hint(mistake.hint.unwrap_or_default())
}

fn unknown_key(section: &str, name: &str, origin: &Origin, known: &[&str]) -> Mistake {
    let full = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let hint = match nearest(name, known) {
        Some(near) => format!("Did you mean {}?", full(near)),
        None => format!("Known here: {}", known.join(", ")),
    };
    Mistake { what: format!("Unknown key {} ({origin})", full(name)), hint: Some(hint), located: true }
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this, two words have little more in common than their length.
    const ALIKE: f64 = 0.8;
    let scored = known.iter().map(|known| (strsim::jaro_winkler(name, known), *known));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score >= ALIKE).map(|(_, known)| known)
}

/// Which values there are, the one that was probably meant first.
fn values(text: &str, known: &[&str]) -> String {
    let all: Vec<String> = known.iter().map(|name| in_quotes(name).to_string()).collect();
    let all = format!("It can be {}", all.join(", "));
    nearest(text, known)
        .map_or_else(|| all.clone(), |near| format!("Did you mean {}? {all}", in_quotes(near)))
}

/// What is wrong.
#[derive(Debug)]
struct Mistake {
    what: String,
    hint: Option<String>,
    /// Key and origin are in `what` already.
    located: bool,
}

impl Mistake {
    fn at(self, key: &str, origin: &Origin) -> Self {
        if self.located {
            return self;
        }
        Self { what: format!("Wrong value for {key} ({origin}): {}", self.what), located: true, ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self { what: what.to_string(), hint: None, located: false }
    }
}

/// One value with its key.
struct Reader {
    key: String,
    node: Node,
}

impl<'de> IntoDeserializer<'de, Mistake> for Reader {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Reader {
    /// Visits a whole number or a truth value, whichever `text` was parsed to.
    fn parsed<T, R>(
        self,
        parse: impl Fn(&str) -> Option<T>,
        wanted: &str,
        visit: impl FnOnce(T) -> Result<R, Mistake>,
    ) -> Result<R, Mistake> {
        let Value::Text(text) = &self.node.value else { return Err(de::Error::custom("")) };
        let wrong = || de::Error::custom(format!("{} is not {wanted}", in_quotes(text)));
        let visited = parse(text.trim()).ok_or_else(wrong).and_then(visit);
        visited.map_err(|mistake: Mistake| mistake.at(&self.key, &self.node.origin))
    }

    fn is_text(&self) -> bool {
        matches!(self.node.value, Value::Text(_))
    }
}

/// The keys of a section. A type that reads a text and does not like it (a size, a time) knows nothing of keys: its
/// complaint gets them here.
struct Fields {
    section: String,
    rest: <Table as IntoIterator>::IntoIter,
    value: Option<Reader>,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        let Some((name, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(Reader { key: format!("{}.{name}", self.section), node });
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let reader = self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        let (key, origin) = (reader.key.clone(), reader.node.origin.clone());
        seed.deserialize(reader).map_err(|mistake: Mistake| mistake.at(&key, &origin))
    }
}

/// As Postgres reads them.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
            if self.is_text() {
                return self.parsed(|text| text.parse().ok(), "a whole number", |n| visitor.visit_i64(n));
            }
            self.deserialize_any(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let Self { key, node: Node { value, origin } } = self;
        let visited = match value {
            Value::Text(text) | Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(yes) => visitor.visit_bool(yes),
            Value::List(list) => {
                let node = |value| Self { key: key.clone(), node: Node { value, origin: origin.clone() } };
                visitor.visit_seq(SeqDeserializer::new(list.into_iter().map(node)))
            }
            Value::Table(table) => {
                visitor.visit_map(Fields { section: key.clone(), rest: table.into_iter(), value: None })
            }
        };
        visited.map_err(|mistake| mistake.at(&key, &origin))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let Value::Table(table) = &self.node.value else {
            let what = format!("{} is a section and takes no value ({})", self.key, self.node.origin);
            let hint = format!("Its keys: {}", known.join(", "));
            return Err(Mistake { what, hint: Some(hint), located: true });
        };
        match table.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, node)) => Err(unknown_key(&self.key, name, &node.origin, known)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.is_text() {
            return self.parsed(boolean, "true or false", |yes| visitor.visit_bool(yes));
        }
        self.deserialize_any(visitor)
    }

    whole_numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.is_text() {
            return self.parsed(|text| text.parse().ok(), "a number", |n| visitor.visit_f64(n));
        }
        self.deserialize_any(visitor)
    }

    /// A text is a list in TOML's notation, or has commas between its elements; a string of a file is one element.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let Self { key, node: Node { value, origin } } = self;
        let list = match value {
            Value::Text(text) if text.trim_start().starts_with('[') => {
                file::list(&text).ok_or_else(|| {
                    <Mistake as de::Error>::custom("it is not a list like [\"a\", \"b\"]").at(&key, &origin)
                })?
            }
            Value::Text(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(|part| Value::Text(part.to_owned())).collect()
            }
            Value::List(list) => list,
            other => vec![other],
        };
        Self { key, node: Node { value: Value::List(list), origin } }.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.node.value {
            Value::Text(text) | Value::String(text) if !variants.contains(&text.as_str()) => {
                let what = format!("{} is not a value of it", in_quotes(&text));
                let hint = Some(values(&text, variants));
                Err(Mistake { what, hint, located: false }.at(&self.key, &self.node.origin))
            }
            Value::Text(text) | Value::String(text) => visitor
                .visit_enum(text.into_deserializer())
                .map_err(|mistake: Mistake| mistake.at(&self.key, &self.node.origin)),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests;

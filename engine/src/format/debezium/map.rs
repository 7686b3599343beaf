//! hstore as a JSON object in a string, its members in the order in which Java's HashMap gives them.
//!
//! Consumers that compare the strings see the same one as from Debezium.

use crate::format::hstore::{Pair, Pairs, write_pair};
use crate::format::json::{utf8, write_string};
use crate::format::value::ValueError;

/// Buckets of a new HashMap, which doubles them whenever they are more than three quarters full.
const INITIAL_BUCKETS: usize = 16;

/// Appends hstore text as a string of JSON.
pub(super) fn write_hstore(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let mut pairs: Vec<(u32, Pair<'_>)> = Vec::new();
    for pair in Pairs::of(text) {
        let pair = pair?;
        pairs.push((spread_hash(utf8(&pair.0)?), pair));
    }
    let mut buckets = INITIAL_BUCKETS;
    while pairs.len() * 4 > buckets * 3 {
        buckets *= 2;
    }
    // Stable: within a bucket the order of insertion stays.
    pairs.sort_by_key(|(hash, _)| *hash as usize % buckets);
    let mut object = b"{".to_vec();
    for (_, pair) in &pairs {
        write_pair(&mut object, pair)?;
    }
    object.push(b'}');
    write_string(out, utf8(&object)?);
    Ok(())
}

/// `String.hashCode()`, its upper half mixed into the lower as HashMap does.
fn spread_hash(key: &str) -> u32 {
    let hash = key.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_hstore(&mut out, text.as_bytes()).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn members_are_in_the_order_of_a_hash_map() {
        assert_eq!(written(r#""a"=>"1", "n"=>NULL, "b c"=>"d\"e""#), r#"{"a":"1","b c":"d\"e","n":null}"#);
        assert_eq!(written(""), "{}");
        let many: Vec<_> = (0..13).map(|n| format!("\"{n}\"=>NULL")).collect();
        let expected = [11, 12, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(|n| format!("\"{n}\":null")).join(",");
        assert_eq!(written(&many.join(", ")), format!("{{{expected}}}"));
    }
}

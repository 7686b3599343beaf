//! Topic names that Kafka accepts.

use crate::schema::Schema;

/// Kafka's limit for the name of a topic.
const MAX_TOPIC: usize = 249;

/// The name of a topic: `prefix.suffix`, where [`super::Record::topic_suffix`] is the suffix.
///
/// Characters other than `[a-zA-Z0-9._-]` become `_` and the name is cut to 249, as Debezium does.
pub fn topic_name(prefix: &str, suffix: &str) -> String {
    let mut name = String::with_capacity(prefix.len() + 1 + suffix.len());
    sanitize(&mut name, prefix);
    name.push('.');
    sanitize(&mut name, suffix);
    name.truncate(MAX_TOPIC);
    name
}

/// Appends `schema.table`.
pub(super) fn write_suffix(out: &mut String, schema: &Schema) {
    sanitize(out, &schema.schema);
    out.push('.');
    sanitize(out, &schema.table);
}

/// Appends the name; only ASCII comes out, one UTF-16 unit becoming one `_`, as in Java.
fn sanitize(out: &mut String, name: &str) {
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            out.push(c);
        } else {
            out.extend(std::iter::repeat_n('_', c.len_utf16()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_for_kafka() {
        assert_eq!(topic_name("ref", "public.orders"), "ref.public.orders");
        assert_eq!(topic_name("my app", "my-schema.We ird$Näme"), "my_app.my-schema.We_ird_N_me");
        assert_eq!(topic_name("r", "public.😀"), "r.public.__");
        assert_eq!(topic_name("r", &"x".repeat(300)).len(), 249);
    }
}

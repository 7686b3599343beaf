//! What the server says of an error while it goes through rows may have values of them in it.

use super::DbError;

/// Classes of SQLSTATE whose words are of statements, names, limits and the server's own state, never of a row.
const HARMLESS: [&str; 15] =
    ["08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "XX"];

/// Names of conditions that rows meet, as the documentation has them.
/// Source: PostgreSQL documentation, appendix A.
const NAMES: [(&str, &str); 14] = [
    ("21000", "cardinality_violation"),
    ("22001", "string_data_right_truncation"),
    ("22003", "numeric_value_out_of_range"),
    ("22007", "invalid_datetime_format"),
    ("22008", "datetime_field_overflow"),
    ("22012", "division_by_zero"),
    ("22021", "character_not_in_repertoire"),
    ("2201B", "invalid_regular_expression"),
    ("22023", "invalid_parameter_value"),
    ("22P02", "invalid_text_representation"),
    ("22P03", "invalid_binary_representation"),
    ("22P05", "untranslatable_character"),
    ("23514", "check_violation"),
    ("P0001", "raise_exception"),
];

/// The same error without what may be a value.
pub(super) fn veiled(error: DbError) -> DbError {
    if error.code.get(..2).is_some_and(|class| HARMLESS.contains(&class)) {
        return error;
    }
    let name = NAMES.iter().find(|(code, _)| *code == error.code).map(|(_, name)| *name);
    let name = name.unwrap_or_else(|| match error.code.get(..2) {
        Some("22") => "data_exception",
        Some("23") => "integrity_constraint_violation",
        _ => "an error over the values of a row",
    });
    let message = format!("{name}; the server's log has its words, which may have values in them");
    DbError { message, detail: None, hint: None, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_may_be_values_are_left_out() {
        let said = |code: &str| {
            let error = DbError {
                code: code.to_owned(),
                message: "invalid: \"4111-secret\"".to_owned(),
                detail: Some("4111-secret".to_owned()),
                hint: Some("4111-secret".to_owned()),
                ..DbError::default()
            };
            format!("{:?}", veiled(error))
        };
        for code in ["22P02", "22000", "23505", "P0001", "38001", "2202E", "99999", ""] {
            assert!(!said(code).contains("4111"), "{code}");
        }
        assert!(said("22P02").contains("invalid_text_representation"));
        assert!(said("42501").contains("4111"));
    }
}

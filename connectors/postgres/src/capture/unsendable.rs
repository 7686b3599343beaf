//! Rows that can be stored and not sent: the server holds a value as text, and a row as a message, and has 1 GB for each.

use rowcast_engine::Error;

use crate::setup::slot;
use crate::wire::DbError;

/// What the server says where it would need more for a value. It is not translated.
const TOO_LARGE: &str = "invalid memory alloc request size";

/// Where it fails for a row: the function's name is the same in every version and language.
const OF_MESSAGE: &str = "enlargeStringInfo";

const REMEDY: &str = "It stands in the log, and cannot be changed there: a bytea of more than 512 MB, another value whose text is \
                      longer than 1 GB, or a row that is. (Some minor versions need as much for something else: `rowcast \
                      check` names those, and an upgrade helps.) Make it smaller in its table, or leave the table out, so that \
                      it does not come again; select pg_drop_replication_slot('NAME'); restart rowcast, and `rowcast adopt` \
                      lets it go on behind a gap";

/// Whether the server has said that.
pub(super) fn is(said: &DbError) -> bool {
    match said.code.as_str() {
        "XX000" => said.message.contains(TOO_LARGE),
        "54000" => said.routine.as_deref() == Some(OF_MESSAGE),
        _ => false,
    }
}

/// Says so of an error that ended the stream, which no other try would get past.
pub(super) fn explain(error: Error) -> Error {
    if !slot::db_error(&error).is_some_and(is) {
        return error;
    }
    Error::refused("The server's log holds a row that is too large to be sent: nothing beyond can be")
        .because(error)
        .hint(REMEDY)
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Kind;

    use super::*;
    use crate::wire::server_error;

    fn explained(code: &str, message: &str, routine: &str) -> Error {
        let (code, message) = (code.to_owned(), message.to_owned());
        let said = DbError { code, message, routine: Some(routine.to_owned()), ..DbError::default() };
        explain(server_error("The stream has ended", said))
    }

    #[test]
    fn no_other_try_gets_past_it() {
        for (code, message, routine) in [
            ("XX000", "invalid memory alloc request size 1080000003", "palloc"),
            ("54000", "Speicher aufgebraucht", "enlargeStringInfo"),
        ] {
            let error = explained(code, message, routine);
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(
                error.to_string().contains("too large to be sent") && error.to_string().contains(code),
                "{error}"
            );
            assert!(error.remedy().unwrap().contains("rowcast adopt"), "{error}");
        }
        let another = explained("XX000", "could not map filenode", "ReorderBufferProcessTXN");
        assert_eq!(another.kind(), Kind::Transient);
        assert!(!explained("54000", "too many columns", "heap_form_tuple").to_string().contains("too large"));
    }
}

//! What an error says with which the server has ended a stream, and what there is to do.

use rowcast_engine::{Error, Kind};

use super::broken::Break;
use super::unsendable;
use crate::setup::slot::{self, sqlstate};
use crate::wire::DbError;

/// The server's function that looks up the publications of a stream.
const UNPUBLISHED: &str = "get_publication_oid";

/// SQLSTATE `untranslatable_character`.
const UNTRANSLATABLE: &str = "22P05";

/// SQLSTATE `internal_error`.
const INTERNAL: &str = "XX000";

/// Adds the remedy to what the server says while streaming or at its start.
pub(super) fn explain(error: Error) -> Error {
    let Some(said) = slot::db_error(&error).filter(|_| Break::of(&error).is_none()) else { return error };
    if lacks_publication(said) {
        let detail =
            format!("A publication was dropped, or is younger than the changes that it is to show: {said}");
        return Break { detail, ..Break::unpublished("") }.error();
    }
    match said.code.as_str() {
        // The slot cannot be read any more, or is gone; the next look at it says why.
        "55000" | "42704" if error.kind() != Kind::Transient => {
            Error::transient("The replication slot cannot be read").because(error)
        }
        UNTRANSLATABLE => Error::refused("The server's log holds text that has no UTF-8: nothing beyond can be sent")
            .because(error)
            .hint(
                "It stands in the log, and cannot be mended there: replace such characters in the rows that have them; \
                 select pg_drop_replication_slot('NAME'); restart rowcast, and `rowcast adopt` lets it go on behind a \
                 gap",
            ),
        _ => unsendable::explain(error),
    }
}

/// Whether it may be of a transaction alone that has not committed, where the server sends those, too: rolled back, it was
/// never to be sent.
pub(super) fn may_be_of_uncommitted(error: &Error) -> bool {
    matches!(sqlstate(error), Some(INTERNAL | UNTRANSLATABLE))
        || slot::db_error(error).is_some_and(|said| lacks_publication(said) || unsendable::is(said))
}

/// A publication that was dropped, or created after the slot's position: before version 18 an error, whose function's name is
/// the same in every language; from then on the server leaves it out, and says so.
fn lacks_publication(said: &DbError) -> bool {
    said.leaves_out_publication() || (said.code == "42704" && said.routine.as_deref() == Some(UNPUBLISHED))
}

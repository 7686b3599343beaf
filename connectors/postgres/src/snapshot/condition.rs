//! A condition that somebody gives: SQL that is put into the query of a table's rows.

use rowcast_engine::{Error, Kind, Result};
use tokio_postgres::Client;

use crate::wire::sql_error;

/// Whoever changes the table's definition is waited for no longer.
const LOCK_TIMEOUT: &str = "set lock_timeout = '2s'";

/// Classes of SQLSTATE that a condition comes to and no second try mends: syntax and names, and what its functions do
/// with the values of rows.
const WRONG_CONDITION: [&str; 7] = ["21", "22", "2F", "38", "39", "42", "P0"];

/// A right that the role lacks is not the condition's fault.
const NO_RIGHT: &str = "42501";

/// Makes sure that a condition is one expression over the table's columns, and nothing else: put between parentheses it
/// can neither end the query nor change what stands around it.
///
/// The server reads it twice, as single statements of which none is run. What would close the first one's parenthesis
/// goes on with an operator or a clause; what would close the second one's goes on with a comma or a query. Nothing does
/// both.
///
/// What is wrong is told in these `words`: all of them to the one who asks, fewer to the log.
///
/// # Errors
///
/// `Kind::Usage` when it is none; what the server says when it cannot be asked.
pub(super) async fn try_out(
    client: &Client,
    table: &str,
    condition: &str,
    words: fn(&'static str, tokio_postgres::Error) -> Error,
) -> Result<()> {
    let failed = |error| sql_error("Cannot try the condition out", error);
    client.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let told = |error| {
        let error = words("The condition cannot be used", error);
        if error.kind() == Kind::Transient { error } else { unusable(error.to_string()) }
    };
    for sql in [
        format!("select from {table} where ({condition}\n) limit 0"),
        format!("with chosen as (select from {table} where {condition}\n) select from chosen limit 0"),
    ] {
        let statement = client.prepare(&sql).await.map_err(told)?;
        if !statement.params().is_empty() {
            return Err(unusable("The condition cannot be used: it has parameters ($1)"));
        }
    }
    Ok(())
}

fn unusable(what: impl Into<String>) -> Error {
    Error::usage(what.into()).hint("It is an SQL condition over the table's columns, such as id > 1000")
}

/// Whether reading with a condition has failed because of it, by SQLSTATE.
pub(super) fn is_at_fault(state: &str) -> bool {
    state != NO_RIGHT && state.get(..2).is_some_and(|class| WRONG_CONDITION.contains(&class))
}

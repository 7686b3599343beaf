//! What rowcast's own messages in the log are signed with: one row in schema `rowcast`.

use rowcast_engine::Result;
use tokio_postgres::Client;

use crate::capture::proof::Proof;
use crate::wire::sql_error;

/// Reads it. Where the schema does not exist or may not be read there is none: then no message of the log makes rowcast
/// do anything.
pub(crate) async fn read(client: &Client) -> Result<Proof> {
    let failed = |error| sql_error("Cannot read what messages are signed with (rowcast.secret)", error);
    if !super::may_read(client, "secret").await.map_err(failed)? {
        return Ok(Proof::default());
    }
    let row = client.query_opt("select key from rowcast.secret", &[]).await.map_err(failed)?;
    Ok(Proof::new(row.as_ref().map(|row| row.get::<_, &[u8]>(0))))
}

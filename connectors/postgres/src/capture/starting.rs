//! The start of the stream: by which command, and when the slot comes free.

use std::time::Duration;

use rowcast_engine::journal::Journal;
use rowcast_engine::{Error, Lsn, Result};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::assembly::Assembly;
use super::connect::{FIRST_PATIENCE, Link, SLOT_RETRY};
use super::explain::explain;
use super::feedback::{Feedback, meanwhile};
use super::replay::Replay;
use super::taking::same_server;
use crate::config::{Origin, Source, Streaming};
use crate::setup::server::Server;
use crate::setup::{publications, secret, slot};
use crate::snapshot::job::Jobs;
use crate::tables::{Tables, identifier};
use crate::wire::{Connection, CopyStream, Purpose};

/// After a network cut the server notices within wal_sender_timeout; so much longer is enough.
const PATIENCE_SLACK: Duration = Duration::from_secs(10);

/// Who reads the slot is told as an error after so long in any case: with a wal_sender_timeout of hours nobody waits for
/// that in silence.
const PATIENCE_MAX: Duration = Duration::from_secs(120);

/// A database without encoding holds any bytes. The server does not recode them, and checks them all the same: one
/// value that is not UTF-8 would end the stream, at every start anew.
const UNENCODED: &str = "SQL_ASCII";
const UNCHECKED: &str = "SET client_encoding = 'SQL_ASCII'";

/// How the server sends large transactions over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Before they commit.
    Early,
    /// When they commit.
    Whole,
    /// Likewise, as long as snapshots are wanted: what is being read has to know each change when it is delivered, not
    /// before.
    WholeForSnapshots,
}

impl Sent {
    /// As people are told, where this is `wanted` (source.streaming).
    pub(super) fn told(self, wanted: Streaming) -> &'static str {
        match (wanted, self) {
            (Streaming::Off, _) => "sent when they commit",
            (Streaming::On, Self::Early) => "sent before they commit",
            (Streaming::On, Self::WholeForSnapshots) => {
                "sent when they commit, as long as snapshots are wanted"
            }
            (Streaming::On, Self::Whole) => {
                "sent when they commit up to the next start: before, it has failed"
            }
        }
    }

    fn streaming(self) -> Streaming {
        if self == Self::Early { Streaming::On } else { Streaming::Off }
    }
}

/// Whether rows of tables are wanted, paused ones included.
pub(super) fn wants_snapshots(journal: &Journal) -> Result<bool> {
    let jobs = Jobs::read(&journal.notes())?;
    Ok(jobs.all.is_some() || !jobs.tables.is_empty())
}

impl Link {
    /// How large transactions are to be sent over the next connection.
    pub(super) fn sent(&self) -> Result<Sent> {
        Ok(match self.source.streaming {
            Streaming::On if self.whole => Sent::Whole,
            Streaming::On if wants_snapshots(self.ingest.journal())? => Sent::WholeForSnapshots,
            Streaming::On => Sent::Early,
            Streaming::Off => Sent::Whole,
        })
    }

    /// Starts the stream, waiting for the slot where another session has it.
    pub(super) async fn start(
        &self,
        client: &Client,
        connection: Connection,
        server: &Server,
        command: &str,
    ) -> Result<CopyStream> {
        let patience = if self.is_known() { patience(server.sender_timeout) } else { FIRST_PATIENCE };
        let deadline = Instant::now() + patience;
        let mut connection = Some(connection);
        loop {
            let mut next = match connection.take() {
                Some(connection) => connection,
                None => self.replication(client).await?,
            };
            if server.encoding == UNENCODED {
                next.simple_query(UNCHECKED).await?;
            }
            self.keep_copies(client, &mut next, server).await?;
            match next.start_replication(command).await {
                Ok(stream) => return Ok(stream),
                Err(error) if slot::sqlstate(&error) == Some("55006") => {
                    if Instant::now() >= deadline {
                        return Err(self.in_use(client, error).await);
                    }
                    self.say_in_use(client, patience).await;
                    sleep(SLOT_RETRY).await;
                }
                Err(error) => return Err(explain(error)),
            }
        }
    }

    /// Reads what the stream is compared with from its start on, where it has `confirmed` what was `told`, or was asked for
    /// something later. It runs: a server that heard nothing for as long as this takes would end it, each time anew.
    pub(super) async fn read_ahead(
        &self,
        client: &Client,
        stream: &mut CopyStream,
        server: &Server,
        (told, confirmed, position): (Lsn, Lsn, Lsn),
    ) -> Result<(Assembly, Feedback, Tables)> {
        let journal = self.ingest.journal();
        let stored = journal.position();
        // Where it is asked to start was not told for that.
        let told = self.ingest.confirmable(told);
        let mut feedback = Feedback::new(told, confirmed, position, server.sender_timeout)
            .hastened_by(self.reading.commits_wait());
        let reads = async {
            let replay = Replay::start(journal, (confirmed, stored.captured_since), position).await?;
            let proof = secret::read(client).await?;
            Ok((replay, proof, publications::taken(client, &self.source, server.version).await?))
        };
        let (replay, proof, taken) = meanwhile(stream, &mut feedback, reads).await?;
        let (tables, status) = (&self.source.tables, &self.status);
        let mut assembly = Assembly::new(tables, status, replay, stored, journal.last_tx_end());
        assembly.reads_new_tables = self.source.snapshot.is_on();
        assembly.by_leaf = !self.source.via_partition_root;
        assembly.proof = proof;
        Ok((assembly, feedback, taken))
    }

    /// One more replication connection to the same server.
    pub(super) async fn replication(&self, client: &Client) -> Result<Connection> {
        let mut next = Connection::connect(&self.here, Purpose::Replication).await?;
        same_server(client, &mut next).await?;
        Ok(next)
    }

    async fn in_use(&self, client: &Client, error: Error) -> Error {
        let holder = slot::holder(client, &self.source.slot).await.ok().flatten();
        let holder = holder.unwrap_or_else(|| "another session".to_owned());
        Error::transient(format!("The replication slot {} is being read by {holder}", self.source.slot))
            .because(error)
            .hint(
                "Stop that reader (select pg_terminate_backend(PID)), or give this one a slot of its own \
                 (source.slot)",
            )
    }
}

/// For how long a server with this wal_sender_timeout may take a connection of ours for one that still reads the slot.
pub(super) fn patience(sender_timeout: Duration) -> Duration {
    (sender_timeout + PATIENCE_SLACK).min(PATIENCE_MAX)
}

/// A string in a replication command: a backslash is one like any other, and there is no `E'…'`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Older servers refuse options that they do not know: `origin` is sent only where it was asked for.
pub(super) fn start_command(source: &Source, from: Lsn, publications: &[String], sent: Sent) -> String {
    let (version, more) = match sent.streaming() {
        Streaming::Off => (1, ""),
        Streaming::On => (2, ", streaming 'on'"),
    };
    // An identifier within a string within a command: each layer quotes.
    let names: Vec<String> = publications.iter().map(|name| identifier(name)).collect();
    let origin = if source.origin == Origin::None { ", origin 'none'" } else { "" };
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '{version}', publication_names {}, \
         messages 'true'{more}{origin})",
        identifier(&source.slot),
        quoted(&names.join(","))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn patience_has_an_end() {
        let of = |seconds| patience(Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 60, 3600].map(of), [10, 70, 120]);
    }

    #[test]
    fn names_are_quoted_at_each_layer() {
        let names = ["rowcast".to_owned(), "My \\ \"Pub's\"".to_owned()];
        let config = Config { url: "host=/tmp user=u dbname=d".to_owned(), ..Config::default() };
        let source = Source::new(&config).unwrap();
        assert_eq!(
            start_command(&source, Lsn::ZERO, &names, Sent::Whole),
            "START_REPLICATION SLOT \"rowcast\" LOGICAL 0/0 (proto_version '1', \
             publication_names '\"rowcast\",\"My \\ \"\"Pub''s\"\"\"', messages 'true')"
        );
        let local = Source { origin: Origin::None, ..source };
        assert!(start_command(&local, Lsn(0x1A), &[], Sent::Whole).contains(" LOGICAL 0/1A ("));
        assert!(
            start_command(&local, Lsn::ZERO, &[], Sent::Whole).ends_with(", messages 'true', origin 'none')")
        );
        assert_eq!(
            start_command(&Source::new(&config).unwrap(), Lsn::ZERO, &names[..1], Sent::Early),
            "START_REPLICATION SLOT \"rowcast\" LOGICAL 0/0 (proto_version '2', \
             publication_names '\"rowcast\"', messages 'true', streaming 'on')"
        );
    }
}

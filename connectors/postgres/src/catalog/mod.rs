//! Reads at capture what the stream does not say of a table: keys, NOT NULL, and its types down to built-in ones.

mod keys;
mod order;
mod past;
mod past_types;
mod relation;
mod seen;
mod statements;
mod table;
mod tree;
mod types;

use std::time::Duration;

use futures_util::future::join3;
use rowcast_engine::schema::{Column, Identity, Schema};
use rowcast_engine::{Error, Result};
use tokio::time::timeout;
use tokio_postgres::{Client, IsolationLevel};

use crate::conninfo::Conninfo;
use crate::pgoutput::{Message, Relation, RelationColumn, decode};
use crate::wire::{Observed, observed_client, sql_error};
pub(crate) use order::{KeyOrder, read as key_order};
pub(crate) use past_types::Attributes;
use relation::Published;
pub(crate) use seen::Seen;
pub(crate) use statements::{Asked, Statements};
use table::TableFacts;

/// A catalog read takes milliseconds; one that takes longer waits for a lock or a lost connection.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

const CANNOT_READ: &str = "Cannot read the catalog";

/// Whether somebody changes what a table is, or keeps its writers out: his transaction may be the one whose changes are
/// read, and has not committed.
const CHANGING: &str = "
select exists (select from pg_locks
               where locktype = 'relation' and relation = $1 and granted and pid is distinct from pg_backend_pid()
                 and database = (select oid from pg_database where datname = current_database())
                 and mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))";

/// A client for catalog reads beside the stream, connected when it is first needed.
#[derive(Debug)]
pub(crate) struct Catalog {
    info: Conninfo,
    /// Those that the stream reads from.
    publications: Vec<String>,
    /// The server's.
    version: u32,
    session: Option<Session>,
}

/// It ends with the second also where the answer never comes: the next try would stand beside it.
type Session = (Client, Observed, Statements);

/// What the catalog says of a table, now.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) schema: Schema,
    /// Schema and name of the table and of the partitioned tables above it.
    pub(crate) names: Vec<(String, String)>,
    /// Columns of its key that are not published, for which its events have no key.
    pub(crate) hidden: Vec<String>,
    /// Columns whose row type has lost no attribute: what it had before are the first ones.
    pub(crate) grown: Vec<usize>,
    /// The catalog has it no more.
    pub(crate) gone: bool,
    /// The key's columns are in the order that they have in its index, not in the table's.
    pub(crate) ordered: bool,
    /// As the catalog shows it, some publication sends it.
    pub(crate) published: bool,
    /// The stream calls its old rows whole, and of some of its partitions' only a key is logged.
    pub(crate) partly: bool,
}

impl Catalog {
    pub(crate) fn new(info: &Conninfo, publications: &[&str], version: u32) -> Self {
        let publications = publications.iter().map(|name| (*name).to_owned()).collect();
        Self { info: info.clone(), publications, version, session: None }
    }

    /// A new connection to the server, tried once.
    async fn connect(&self) -> Result<Session> {
        let connect = timeout(READ_TIMEOUT, observed_client(&self.info)).await;
        let connected = connect.map_err(|_| Error::transient("The server takes too long to let us in"))?;
        connected.map(|(client, observed)| (client, observed, Statements::default()))
    }

    /// Everything about a table as the stream has just described it. No table's lock is waited for.
    ///
    /// Keys and types are as they are now, which can be later than the stream's place: what cannot be true of the
    /// described columns is left out.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read; the next call connects anew.
    ///
    /// `keyed`: of a partition of it the stream has said that only a key is logged of its old rows.
    pub(crate) async fn describe(&mut self, relation: &Relation<'_>, keyed: bool) -> Result<Described> {
        let mut session = self.take_session().await?;
        let read = timeout(READ_TIMEOUT, self.read(&mut session, relation, keyed)).await;
        let described = read.map_err(|_| seen::too_long())??;
        self.session = Some(session);
        Ok(described)
    }

    /// The same; `None` for as long as somebody's transaction changes the table: that may be the one whose changes are
    /// read.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    pub(crate) async fn describe_unchanging(&mut self, relation: &Relation<'_>) -> Result<Option<Described>> {
        let session = self.take_session().await?;
        let asked = timeout(READ_TIMEOUT, session.0.query_one(CHANGING, &[&relation.id])).await;
        let row = asked.map_err(|_| seen::too_long())?.map_err(|error| sql_error(CANNOT_READ, error))?;
        self.session = Some(session);
        // What somebody has changed who has ended since is in the snapshot.
        if row.get(0) { Ok(None) } else { self.describe(relation, false).await.map(Some) }
    }

    /// The connection, if there is one that lives. Who has used it gives it back.
    async fn take_session(&mut self) -> Result<Session> {
        match self.session.take() {
            Some(session) if !session.0.is_closed() => Ok(session),
            _ => self.connect().await,
        }
    }

    async fn read(
        &self,
        (client, _, statements): &mut Session,
        relation: &Relation<'_>,
        keyed: bool,
    ) -> Result<Described> {
        let failed = |error| sql_error(CANNOT_READ, error);
        // One snapshot: keys and types of the same moment.
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(failed)?;
        let asked = Asked { transaction: &transaction, statements };
        let described = describe(asked, (relation, keyed), &self.publications, self.version).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(described)
    }
}

/// A table as its publication shows it, in the snapshot of a transaction.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) schema: Schema,
    /// As in [`Described`].
    pub(crate) names: Vec<(String, String)>,
    /// The publication's condition.
    pub(crate) filter: Option<String>,
    /// It has partitions.
    pub(crate) partitioned: bool,
    /// How many rows it is thought to have.
    pub(crate) estimate: u64,
}

/// Describes a table as the stream would, by its OID; `None` when it is gone, has another name than this, or is not published.
/// All that is asked goes to the server at once.
///
/// # Errors
///
/// When the catalog cannot be read.
pub(crate) async fn show(
    asked: Asked<'_>,
    (oid, name): (u32, (&str, &str)),
    publications: &[String],
    version: u32,
) -> Result<Option<Shown>> {
    let failed = |error| sql_error(CANNOT_READ, error);
    let (published, facts, types) = join3(
        Box::pin(relation::read(asked, (oid, name), publications, version)),
        Box::pin(table::read(asked, (oid, false), publications, version)),
        Box::pin(types::of_table(asked, oid)),
    )
    .await;
    let (published, facts, types) = (published.map_err(failed)?, facts?, types.map_err(failed)?);
    let Some(Published { message, filter, partitioned, estimate }) = published else { return Ok(None) };
    let Ok(Message::Relation(relation)) = decode(&message) else {
        return Err(Error::failed("A table's description in the catalog cannot be understood"));
    };
    let Described { schema, names, .. } = assemble((&relation, false), facts, &types);
    Ok(Some(Shown { schema, names, filter, partitioned, estimate }))
}

async fn describe(
    asked: Asked<'_>,
    (relation, keyed): (&Relation<'_>, bool),
    publications: &[String],
    version: u32,
) -> Result<Described> {
    let failed = |error| sql_error(CANNOT_READ, error);
    let of = (relation.id, relation.identity == Identity::Full);
    let facts = table::read(asked, of, publications, version).await?;
    let oids = relation.columns().map(|column| column.type_oid).collect();
    let types = types::read(asked, oids).await.map_err(failed)?;
    if facts.names.is_empty() {
        let table = Schema::channel_of(relation.schema, relation.table);
        tracing::debug!(
            table,
            "The table is gone: its keys are those that it had, its types what the stream says of them"
        );
    }
    Ok(assemble((relation, keyed), facts, &types))
}

fn assemble((relation, keyed): (&Relation<'_>, bool), facts: TableFacts, types: &types::Types) -> Described {
    let identity = identity_of(relation, keyed, &facts);
    let is_key = |column: &RelationColumn<'_>| match identity {
        _ if identity == relation.identity => column.identity,
        _ => facts.primary.iter().any(|name| name == column.name),
    };
    let mut trees = tree::Trees::of(types);
    let mut columns: Vec<Column> = relation
        .columns()
        .map(|column| Column {
            name: column.name.to_owned(),
            ty: trees.build(column.type_oid),
            typmod: column.typmod,
            identity: is_key(&column),
            not_null: facts.not_null.iter().any(|name| name == column.name),
        })
        .collect();
    let oids = relation.columns().map(|column| column.type_oid).enumerate();
    let grown = oids.filter(|(_, oid)| tree::has_grown(types, *oid)).map(|(column, _)| column).collect();
    let keys = keys::choose(identity, &columns, &facts);
    let (gone, ordered) = (facts.names.is_empty(), keys.is_ordered(identity, &columns, &facts));
    if !keys.hidden.is_empty() && identity != Identity::Full {
        // A part of a key identifies nothing.
        columns.iter_mut().for_each(|column| column.identity = false);
    }
    let schema = Schema {
        id: 0,
        relation: relation.id,
        database: facts.database,
        schema: relation.schema.to_owned(),
        table: relation.table.to_owned(),
        channel: Schema::channel_of(relation.schema, relation.table),
        identity,
        inserts_only: facts.inserts_only,
        columns,
        primary_key: keys.primary,
        key: keys.event,
        unique_key: keys.unique,
    };
    let (published, partly, mut names) = (facts.published, identity != relation.identity, facts.names);
    names.push((schema.schema.clone(), schema.table.clone()));
    Described { schema, names, hidden: keys.hidden, grown, gone, ordered, published, partly }
}

/// What a table's old rows hold. The server says of them what is the root's own, whatever is logged of the partition that they
/// come from: where that may be a key alone, it is a key of all.
fn identity_of(relation: &Relation<'_>, keyed: bool, facts: &TableFacts) -> Identity {
    if relation.identity == Identity::Full && (facts.partly_whole || keyed) {
        Identity::Default
    } else {
        relation.identity
    }
}

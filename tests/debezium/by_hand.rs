//! A snapshot of tables without keys, for which there is no reader: rows that the stream told are put into the journal
//! once more, as a snapshot's.
//!
//! So the rows, their schemas and the values' texts are what Postgres said, and the marks are set here, by the rule of
//! the recordings: tables in the order of their names, each in the order in which it lies.

use std::path::Path;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::{Body, Marks};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, Read};
use rowcast_engine::record::{Builder, Tuple, Value};

use crate::support::{Database, Rowcast, SOON, wait_for};

const TABLES: &str = r#"
    select format('%I.%I', n.nspname, c.relname), c.relpersistence = 'u'
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'rowcast')
    order by n.nspname collate "C", c.relname collate "C""#;

/// A row, the version of its table and the table's name.
type Row = (u32, String, Vec<u8>);

/// The tables, in the order of their names. Rows of an unlogged one are never told, and yet Debezium reads them: it is
/// logged from here on.
pub(super) async fn log_all(database: &Database) -> Vec<String> {
    let client = database.client().await;
    let tables = client.query(TABLES, &[]).await.expect("the catalog");
    for table in tables.iter().filter(|table| table.get(1)) {
        let name: String = table.get(0);
        client.batch_execute(&format!("alter table {name} set logged")).await.expect("a table");
    }
    tables.iter().map(|table| table.get(0)).collect()
}

/// Puts all rows of the database into the journal of `rowcast`, which has never run and is to run on afterwards.
/// The number of the first row: what lies below it is of no interest.
pub(super) async fn snapshot(database: &Database, mut rowcast: Rowcast) -> (Rowcast, u64) {
    let tables = log_all(database).await;
    rowcast = rowcast.start().await;
    let client = database.client().await;
    for table in &tables {
        let again =
            format!("with rows as (delete from {table} returning *) insert into {table} select * from rows");
        client.batch_execute(&again).await.unwrap_or_else(|error| panic!("{error:?}\nin: {again}"));
    }
    let confirmed =
        "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2";
    let written = client.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("a position");
    let (written, slot) = (written.get::<_, String>(0), database.name());
    wait_for("the rows to be in the journal", SOON, async || {
        let row = client.query_one(confirmed, &[&written, &slot]).await.map_err(|error| error.to_string())?;
        if row.get(0) { Ok(()) } else { Err(format!("not confirmed up to {written}")) }
    })
    .await;
    assert_eq!(rowcast.terminate().await, 0);
    let first = read_into(&rowcast.data().join("journal"), &tables).await;
    (rowcast, first)
}

async fn read_into(directory: &Path, tables: &[String]) -> u64 {
    let journal = journal::open(Options::new(directory), Arc::new(RealDisk)).expect("the journal");
    let rows = inserted(&journal);
    let (first, position) = (journal.newest() + 1, journal.position());
    let mut builder = Builder::new();
    // Below what the stream has reached: a stream that took it for its own would go back.
    let lsn = Lsn(position.lsn.0 - 1);
    builder.begin_snapshot(1_800_000_000_000_000, lsn, 741);
    for (at, (schema, table, tuple)) in rows.iter().enumerate() {
        let first = at == 0 || rows[at - 1].1 != *table;
        let last = rows.get(at + 1).is_none_or(|(_, next, _)| next != table);
        let marks = [
            // Debezium marks no first row when the first table is empty.
            (first && *table == tables[0], Marks::FIRST),
            (first, Marks::FIRST_IN_TABLE),
            (last, Marks::LAST_IN_TABLE),
            (at + 1 == rows.len(), Marks::LAST),
        ];
        let marks = marks.into_iter().filter(|(has, _)| *has).fold(Marks::NONE, |all, (_, mark)| all | mark);
        builder.read(*schema, lsn, marks, tuple);
    }
    builder.commit(lsn);
    let ingest = Ingest::new(journal.clone());
    ingest.room().await.expect("room").append(&journal, builder.take(), position.lsn);
    journal.close().await;
    assert_eq!(journal.position().lsn, position.lsn, "the rows are nothing to the stream");
    first
}

/// The rows that were inserted, in order.
fn inserted(journal: &Journal) -> Vec<Row> {
    let (mut after, mut rows) = (0, Vec::new());
    loop {
        match journal.read(after).expect("a journal") {
            Read::AtHead => return rows,
            Read::Gone(gone) => after = gone.to,
            Read::Batches(batches) => {
                for batch in batches {
                    rows.extend(batch.events().filter(|event| event.id > after).filter_map(|event| {
                        let Body::Row { schema, new: Some(new), .. } = event.body else { return None };
                        Some((schema.id, schema.channel.clone(), tuple_data(new)))
                    }));
                    after = batch.last();
                }
            }
        }
    }
}

fn tuple_data(tuple: Tuple<'_>) -> Vec<u8> {
    let mut bytes = u16::try_from(tuple.len()).expect("columns").to_be_bytes().to_vec();
    for value in tuple.values() {
        match value {
            Value::Null => bytes.push(b'n'),
            Value::Unchanged => panic!("an insert has all values"),
            Value::Text(text) => {
                bytes.push(b't');
                bytes.extend_from_slice(&u32::try_from(text.len()).expect("a length").to_be_bytes());
                bytes.extend_from_slice(text);
            }
        }
    }
    bytes
}

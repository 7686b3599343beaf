//! Rows of about a hundred bytes, as pgoutput sends them, in transactions.

use std::path::Path;
use std::sync::Arc;

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, StreamPosition};
use rowcast_engine::record::{Builder, Part, TxStart};
use rowcast_engine::schema::{Column, Identity, Schema, Type};

/// Rows of one transaction, in groups that have more than that.
pub(crate) const ROWS_PER_TX: usize = 100;

pub(crate) fn table(name: &str) -> Schema {
    let column = |name: &str, oid, ty: &str| Column {
        name: name.to_owned(),
        ty: Type::base(oid, ty),
        typmod: -1,
        identity: name == "id",
        not_null: name == "id",
    };
    Schema {
        id: 0,
        relation: 16384,
        database: "bench".to_owned(),
        schema: "public".to_owned(),
        table: name.to_owned(),
        channel: format!("public.{name}"),
        identity: Identity::Default,
        inserts_only: false,
        columns: vec![
            column("id", 20, "int8"),
            column("a", 23, "int4"),
            column("b", 25, "text"),
            column("c", 1184, "timestamptz"),
            column("d", 1700, "numeric"),
        ],
        primary_key: vec![0],
        key: vec![0],
        unique_key: Vec::new(),
    }
}

/// pgoutput's Insert of one row after the relation id.
pub(crate) fn tuple(values: [&str; 5]) -> Vec<u8> {
    let mut raw = vec![b'N', 0, 5];
    for value in values {
        raw.push(b't');
        raw.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        raw.extend_from_slice(value.as_bytes());
    }
    raw
}

/// All that a row needs but for the number that [`number`] writes into it.
fn row() -> Vec<u8> {
    tuple(["00000000", "42", "a text of two and thirty letters", "2026-01-01 12:00:00.12345+00", "12345.67"])
}

/// Where the digits of the id stand.
const ID: std::ops::Range<usize> = 8..16;

/// Gives the row its id; cheap, so that what is measured is not the making of rows.
fn number(raw: &mut [u8], mut id: u64) {
    for digit in raw[ID].iter_mut().rev() {
        *digit = b'0' + u8::try_from(id % 10).unwrap();
        id /= 10;
    }
}

/// A journal and a stream of transactions for it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) ingest: Ingest,
    pub(crate) lsn: u64,
    pub(crate) tables: Vec<Arc<Schema>>,
    row: u64,
    raw: Vec<u8>,
}

/// Opens a new journal that keeps so many bytes of its newest batches in memory.
pub(crate) fn open(dir: &Path, cache_bytes: usize) -> Journal {
    let options = Options { cache_bytes, ..Options::new(dir) };
    journal::open(options, Arc::new(RealDisk)).unwrap()
}

impl Stream {
    /// A stream of rows of so many tables, which take turns.
    pub(crate) async fn over(journal: Journal, tables: usize) -> Self {
        let tables =
            (0..tables).map(|at| journal.register(table(&format!("orders_{at}"))).unwrap()).collect();
        let ingest = Ingest::new(journal);
        let position = StreamPosition {
            slot: "rowcast".into(),
            system: 7,
            timeline: 1,
            lsn: Lsn(1000),
            ..ingest.journal().position()
        };
        ingest.identify(position, &[]).await.unwrap();
        Self { ingest, lsn: 1000, tables, row: 0, raw: row() }
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.ingest.journal()
    }

    /// Whole transactions with so many rows together.
    pub(crate) fn group(&mut self, builder: &mut Builder, rows: usize) -> Vec<Part> {
        let mut left = rows;
        while left > 0 {
            let count = left.min(ROWS_PER_TX);
            left -= count;
            self.transaction(builder, count);
        }
        builder.take()
    }

    fn transaction(&mut self, builder: &mut Builder, rows: usize) {
        self.begin(builder);
        self.rows(builder, rows);
        builder.commit(Lsn(self.lsn));
    }

    pub(crate) fn begin(&mut self, builder: &mut Builder) {
        let previous_end_lsn = Lsn(self.lsn);
        self.lsn += 100;
        builder.begin(TxStart {
            xid: u32::try_from(self.lsn / 100 % (1 << 31)).unwrap(),
            final_lsn: Lsn(self.lsn - 8),
            previous_end_lsn,
            committed: 1_800_000_000_000_000 + i64::try_from(self.lsn).unwrap(),
            origin: "",
        });
    }

    /// Rows of the transaction that has begun.
    pub(crate) fn rows(&mut self, builder: &mut Builder, rows: usize) {
        for _ in 0..rows {
            self.row += 1;
            let table = usize::try_from(self.row).unwrap() % self.tables.len();
            number(&mut self.raw, self.row);
            builder.change(self.tables[table].id, Op::Insert, Lsn(self.lsn - 50), &self.raw);
        }
    }

    /// Appends a group and waits until it is durable.
    pub(crate) async fn append(&self, parts: Vec<Part>, lsn: u64) {
        let room = self.ingest.room().await.unwrap();
        room.append(self.journal(), parts, Lsn(lsn));
        self.durable(lsn).await;
    }

    pub(crate) async fn durable(&self, lsn: u64) {
        self.journal().durable().wait_for(|durable| durable.0 >= lsn).await.unwrap();
    }
}

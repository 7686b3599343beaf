//! A table, transactions in it, and a journal to put them into.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowcast_engine::Lsn;
use rowcast_engine::event::{Marks, Op};
use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Journal, Options, Read, StreamPosition};
use rowcast_engine::record::{Batch, Builder, TxStart};
use rowcast_engine::schema::{Column, Identity, Schema, Type};

pub(crate) fn table(name: &str) -> Schema {
    let column = |name: &str, identity| Column {
        name: name.to_owned(),
        ty: Type::base(if identity { 23 } else { 25 }, if identity { "int4" } else { "text" }),
        typmod: -1,
        identity,
        not_null: identity,
    };
    Schema {
        id: 0,
        relation: 16384,
        database: "db".to_owned(),
        schema: "public".to_owned(),
        table: name.to_owned(),
        channel: format!("public.{name}"),
        identity: Identity::Default,
        inserts_only: false,
        columns: vec![column("id", true), column("v", false)],
        primary_key: vec![0],
        key: vec![0],
        unique_key: Vec::new(),
    }
}

/// Waits until a journal that has been let go has ended: its thread does so on its own.
pub(crate) fn unlocked(dir: &Path) {
    let started = Instant::now();
    let Ok(file) = File::open(dir.join("lock")) else { return };
    while file.try_lock().is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "the journal's thread has not ended");
        std::thread::yield_now();
    }
}

/// As after a kill: only an orderly end leaves an index of the newest segment, which says its position once more. Where
/// there is none every batch is read.
pub(crate) fn without_indexes(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// The bytes of pgoutput's Insert after the relation id.
pub(crate) fn insert(id: u64, text: &str) -> Vec<u8> {
    let mut raw = vec![b'N', 0, 2];
    for value in [id.to_string().as_str(), text] {
        raw.push(b't');
        raw.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        raw.extend_from_slice(value.as_bytes());
    }
    raw
}

pub(crate) struct Fixture {
    pub(crate) ingest: Ingest,
    pub(crate) orders: Arc<Schema>,
    pub(crate) lsn: u64,
    pub(crate) rows: u64,
}

impl Fixture {
    pub(crate) async fn open(options: Options) -> Self {
        let journal = journal::open(options, Arc::new(RealDisk)).unwrap();
        Self::over(journal).await
    }

    pub(crate) async fn over(journal: Journal) -> Self {
        let orders = journal.register(table("orders")).unwrap();
        let ingest = Ingest::new(journal);
        let mut position = ingest.journal().position();
        if position.slot.is_empty() {
            position = StreamPosition { slot: "rowcast".into(), system: 7, timeline: 1, ..position };
            ingest.identify(position.clone(), &[]).await.unwrap();
        }
        Self { ingest, orders, lsn: position.lsn.0.max(1000), rows: 0 }
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.ingest.journal()
    }

    pub(crate) fn begin(&mut self, builder: &mut Builder) {
        self.lsn += 100;
        builder.begin(TxStart {
            xid: u32::try_from(self.lsn / 100).unwrap(),
            final_lsn: Lsn(self.lsn - 8),
            previous_end_lsn: self.journal().last_tx_end(),
            committed: 1_800_000_000_000_000 + i64::try_from(self.lsn).unwrap(),
            origin: "",
        });
    }

    pub(crate) fn row(&mut self, builder: &mut Builder, text: &str) {
        self.rows += 1;
        let raw = insert(self.rows, text);
        builder.change(self.orders.id, Op::Insert, Lsn(self.lsn - 50), &raw);
    }

    pub(crate) fn commit(&self, builder: &mut Builder) {
        builder.commit(Lsn(self.lsn));
    }

    /// One transaction of `rows` rows, durable when this returns.
    pub(crate) async fn transaction(&mut self, rows: usize, text: &str) {
        let mut builder = Builder::new();
        self.begin(&mut builder);
        for _ in 0..rows {
            self.row(&mut builder, text);
        }
        self.commit(&mut builder);
        self.submit(&mut builder).await;
    }

    /// Rows that a snapshot read, one with each of the marks, durable when this returns.
    pub(crate) async fn chunk(&mut self, marks: &[Marks]) {
        self.chunk_for(&[], marks).await;
    }

    /// Likewise, for these sinks alone.
    pub(crate) async fn chunk_for(&mut self, sinks: &[&str], marks: &[Marks]) {
        let mut builder = Builder::new();
        let sinks: Vec<String> = sinks.iter().map(ToString::to_string).collect();
        builder.begin_snapshot_for(&sinks, 1_800_000_000_000_000, Lsn(self.lsn - 20), 7);
        for marks in marks {
            self.rows += 1;
            builder.read(self.orders.id, Lsn(self.lsn - 20), *marks, &insert(self.rows, "read")[1..]);
        }
        builder.commit(Lsn::ZERO);
        // What follows makes it durable: it has no position of its own.
        self.begin(&mut builder);
        self.row(&mut builder, "beside it");
        self.commit(&mut builder);
        self.submit(&mut builder).await;
    }

    pub(crate) async fn submit(&mut self, builder: &mut Builder) {
        let room = self.ingest.room().await.unwrap();
        room.append(self.journal(), builder.take(), Lsn(self.lsn));
        self.durable().await;
    }

    pub(crate) async fn durable(&self) {
        let mut durable = self.journal().durable();
        let wait = durable.wait_for(|durable| durable.0 >= self.lsn);
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("durable in time").unwrap();
    }
}

/// An event: id, index in the transaction, last, end LSN, a digest of the row.
pub(crate) type Seen = (u64, u32, bool, u64, u32);

/// Gives every batch that has events behind one to `see`, with the event behind which they count in it.
pub(crate) fn for_each_batch(journal: &Journal, mut after: u64, mut see: impl FnMut(&Batch, u64)) {
    loop {
        match journal.read(after).unwrap() {
            Read::AtHead => return,
            Read::Gone(gone) => after = gone.to,
            Read::Batches(batches) => {
                for batch in batches {
                    see(&batch, after);
                    after = after.max(batch.last());
                }
            }
        }
    }
}

pub(crate) fn read_all(journal: &Journal, after: u64) -> Vec<Seen> {
    let mut seen = Vec::new();
    for_each_batch(journal, after, |batch, after| {
        let before = seen.len();
        for event in batch.events().filter(|event| event.id > after) {
            let rowcast_engine::event::Body::Row { new: Some(tuple), .. } = event.body else {
                panic!("not a row: {event:?}")
            };
            let bytes = tuple.values().map(|value| format!("{value:?}")).collect::<String>();
            let end = event.tx.map_or(0, |tx| tx.end_lsn.0);
            seen.push((event.id, event.seq, event.last, end, crc32c::crc32c(bytes.as_bytes())));
        }
        assert!(seen.len() > before, "a batch that was read has something new");
    });
    seen
}

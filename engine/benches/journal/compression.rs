//! Closed segments compressed: how small they become, what processor time that takes, and how fast they are read again.
//!
//! The limit is the same journal as it was written: both are read from their start, each event, from the page cache.
//! Four kinds of rows, from what compresses best to what does worst; figures speak of rows that are like them. The time
//! is that of the thread that compresses, as the kernel counts it: it reads and checks a segment, compresses it, unpacks
//! it again to compare, and writes it.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{self, Compression, Journal, Options};
use rowcast_engine::record::Builder;
use tokio::runtime::Runtime;

use crate::paired::{Report, Rounds};
use crate::rows::{ROWS_PER_TX, Stream, tuple};
use crate::sequential;

/// Of each kind, before it is compressed.
const BYTES: u64 = 96 << 20;
/// A quarter of the usual: the one that is being written, which stays as it is, is a small part of all.
const SEGMENT_BYTES: u64 = 16 << 20;
const ROUNDS: usize = 7;

const WORDS: [&str; 16] = [
    "order",
    "shipped",
    "waiting",
    "customer",
    "paid",
    "returned",
    "the",
    "address",
    "until",
    "parcel",
    "signed",
    "of",
    "warehouse",
    "late",
    "morning",
    "refund",
];

/// Makes the row of a number.
type Make = fn(&mut Chance, u64) -> Vec<u8>;

pub(crate) fn run(dir: &Path, report: &mut Report) {
    let kinds: [(&str, Make); 4] =
        [("equal rows", equal), ("narrow rows", narrow), ("rows with JSON", json), ("random text", noise)];
    for (name, make) in kinds {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let journals = Journals::make(dir.path(), make);
        journals.compress(name, report);
        journals.read(name, report);
    }
}

/// The same journal in both forms.
struct Journals {
    runtime: Runtime,
    plain: Journal,
    packed: Journal,
}

/// Nothing is kept in memory, and nothing goes.
fn options(dir: &Path, compression: Compression) -> Options {
    let (max_size, min_free) = (Some(u64::MAX), 0);
    Options {
        segment_bytes: SEGMENT_BYTES,
        cache_bytes: 1000,
        compression,
        max_size,
        min_free,
        ..Options::new(dir)
    }
}

impl Journals {
    /// Writes it, and a copy of it that begins to be compressed.
    fn make(dir: &Path, make: Make) -> Self {
        let (plain, packed) = (dir.join("plain"), dir.join("packed"));
        let runtime = crate::runtime();
        let inside = runtime.enter();
        let open = |dir: &Path, how| journal::open(options(dir, how), Arc::new(RealDisk)).unwrap();
        let written = open(&plain, Compression::None);
        runtime.block_on(fill(&written, make));
        runtime.block_on(written.close());
        drop(written);
        fs::create_dir(&packed).unwrap();
        for entry in fs::read_dir(&plain).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, packed.join(path.file_name().unwrap())).unwrap();
        }
        let (plain, packed) = (open(&plain, Compression::None), open(&packed, Compression::Zstd));
        drop(inside);
        Self { runtime, plain, packed }
    }

    fn compress(&self, name: &str, report: &mut Report) {
        let summary = loop {
            let summary = self.packed.summary();
            if summary.compressed + 1 >= summary.segments {
                break summary;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = processor_time("compress").as_secs_f64();
        let plain = self.plain.summary().bytes as f64;
        report.say(format!(
            "compress {name}: 1:{:.2}, {:.2} s of processor a GB",
            plain / summary.bytes as f64,
            took * 1e9 / plain
        ));
    }

    fn read(self, name: &str, report: &mut Report) {
        let (bytes, end) = (self.plain.summary().bytes as f64, self.plain.newest());
        let read = |journal| sequential::read(journal, end, true);
        // Once before the first round: the page cache is warm, and both tell the same.
        assert_eq!(read(&self.packed).1, read(&self.plain).1);
        let mut rounds = Rounds::default();
        for _ in 0..ROUNDS {
            rounds.round(|| read(&self.packed).0, || read(&self.plain).0);
        }
        report.add(&format!("read compressed, {name}"), "read as written", rounds, "MB", bytes / 1e6);
        self.runtime.block_on(async { tokio::join!(self.plain.close(), self.packed.close()) });
    }
}

async fn fill(journal: &Journal, make: Make) {
    let mut stream = Stream::over(journal.clone(), 1).await;
    let (mut builder, mut chance, mut number) = (Builder::new(), Chance(1), 0);
    while journal.summary().bytes < BYTES {
        for _ in 0..10 {
            stream.begin(&mut builder);
            for _ in 0..ROWS_PER_TX {
                number += 1;
                let (table, lsn) = (stream.tables[0].id, Lsn(stream.lsn - 50));
                builder.change(table, Op::Insert, lsn, &make(&mut chance, number));
            }
            builder.commit(Lsn(stream.lsn));
        }
        let parts = builder.take();
        stream.append(parts, stream.lsn).await;
    }
}

/// Those that the other measurements write: nothing but the number differs.
fn equal(_: &mut Chance, number: u64) -> Vec<u8> {
    let text = "a text of two and thirty letters";
    tuple([&format!("{number:08}"), "42", text, "2026-01-01 12:00:00.12345+00", "12345.67"])
}

/// What an order is like.
fn narrow(chance: &mut Chance, number: u64) -> Vec<u8> {
    let status = WORDS[chance.below(6)];
    tuple([&number.to_string(), &customer(chance), status, &time(chance, number), &price(chance)])
}

/// Half a kilobyte of JSON, as applications keep it.
fn json(chance: &mut Chance, number: u64) -> Vec<u8> {
    let mut items = String::new();
    for item in 0..3 {
        let comma = if item > 0 { "," } else { "" };
        let (price, count) = (price(chance), chance.below(9) + 1);
        write!(items, r#"{comma}{{"sku":"{:08x}","count":{count},"price":{price}}}"#, chance.next() >> 32)
            .unwrap();
    }
    let note: Vec<_> = (0..12).map(|_| WORDS[chance.below(WORDS.len())]).collect();
    let text = format!(
        r#"{{"session":"{:016x}{:016x}","agent":"Mozilla/5.0 (X11; Linux x86_64)","items":[{items}],"note":"{}"}}"#,
        chance.next(),
        chance.next(),
        note.join(" ")
    );
    tuple([&number.to_string(), &customer(chance), &text, &time(chance, number), &price(chance)])
}

/// Half a kilobyte of letters and digits in no order, such as what is compressed or encrypted already.
fn noise(chance: &mut Chance, number: u64) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text: String = (0..512).map(|_| char::from(LETTERS[chance.below(LETTERS.len())])).collect();
    tuple([&number.to_string(), &customer(chance), &text, &time(chance, number), &price(chance)])
}

fn customer(chance: &mut Chance) -> String {
    chance.below(50_000).to_string()
}

fn price(chance: &mut Chance) -> String {
    format!("{}.{:02}", chance.below(500), chance.below(100))
}

/// A few milliseconds after the row before.
fn time(chance: &mut Chance, number: u64) -> String {
    let millis = number * 5;
    let (minutes, seconds) = (millis / 60_000, millis / 1000 % 60);
    let (hours, micros) = (minutes / 60 % 24, millis % 1000 * 1000 + chance.next() % 1000);
    format!(
        "2026-01-{:02} {hours:02}:{:02}:{seconds:02}.{micros:06}+00",
        minutes / 1440 % 28 + 1,
        minutes % 60
    )
}

/// Chance that is the same every time: "splitmix64".
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// What the kernel says that the thread of this name has used so far.
fn processor_time(name: &str) -> Duration {
    let named = |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let task = tasks.into_iter().find(|task| named(task)).unwrap();
    let text = fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

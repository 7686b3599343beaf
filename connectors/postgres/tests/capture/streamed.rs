//! Transactions that the server sends before they commit (protocol 2): the journal is what it is when they are sent
//! whole, whatever they do and whatever is cut.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rowcast_engine::event::Op;
use rowcast_postgres::{Config, Streaming};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, SENDS_NO_EMPTY, Seen, config, run, sql, until, value, version};
use super::liveness::through_a_proxy;
use super::measured::counted;
use super::snapshot::caught_up;
use crate::support::Server;

/// The least that there is: everything above some hundred rows is sent in pieces.
const IN_PIECES: &str = "logical_decoding_work_mem = 64kB\nmax_wal_senders = 10\nmax_replication_slots = 10";

const SESSIONS: u64 = 5;

fn whole(server: &Server) -> Config {
    Config { slot: "whole".to_owned(), ..config(server) }
}

fn in_pieces(server: &Server) -> Config {
    Config { slot: "pieces".to_owned(), streaming: Streaming::On, ..config(server) }
}

fn seed() -> u64 {
    let seed = std::env::var("ROWCAST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("ROWCAST_SEED={seed}");
    seed
}

/// What must be the same, whichever way it was sent.
fn told(events: &[Seen]) -> Vec<Seen> {
    let events = events.iter().filter(|event| event.op != Op::Gap).cloned();
    let mut told: Vec<Seen> = events.map(|event| Seen { id: 0, ..event }).collect();
    if let Some(first) = told.first().map(|first| first.end_lsn) {
        // One of them may have been told of an earlier one.
        let of_first = told.iter_mut().take_while(|event| event.end_lsn == first);
        of_first.for_each(|event| event.previous_end = rowcast_engine::Lsn::ZERO);
    }
    told
}

async fn ended(capture: &Capture, count: usize) -> Vec<Seen> {
    let is_end = |event: &Seen| event.channel == "public.ends" && event.new == count.to_string();
    // The newest one alone: there are hundreds of thousands.
    let newest = || capture.after(capture.journal.newest().saturating_sub(1));
    until("the end", async || newest().last().is_some_and(is_end)).await;
    capture.events()
}

/// Ends the transactions so far with a row of its own, and compares.
async fn compare(client: &Client, captures: [&Capture; 2], count: usize) -> Vec<Seen> {
    run(client, &format!("insert into ends values ({count})")).await;
    let [left, right] = [ended(captures[0], count).await, ended(captures[1], count).await];
    let (mut whole, mut pieces) = (told(&left), told(&right));
    if version(client).await < SENDS_NO_EMPTY {
        // Each stream names the empty ones between, or not, as they came to it.
        whole.iter_mut().chain(&mut pieces).for_each(|event| event.previous_end = rowcast_engine::Lsn::ZERO);
    }
    for (at, (one, other)) in whole.iter().zip(&pieces).enumerate() {
        assert_eq!(one, other, "event {at} of {} and {}", whole.len(), pieces.len());
    }
    assert_eq!(whole.len(), pieces.len());
    right
}

/// The statements of one transaction.
struct Writer {
    random: StdRng,
    session: u64,
    next: u64,
    columns: u32,
    depth: u32,
}

impl Writer {
    fn rows(&mut self) -> String {
        let (first, count) = (self.next, self.random.random_range(20..400));
        self.next += count;
        let last = self.next - 1;
        let table = ["shared", "parted", "bare"][self.random.random_range(0..3)];
        format!(
            "insert into {table} select g, repeat(md5(g::text), 3) from generate_series({first}, {last}) g"
        )
    }

    fn step(&mut self) -> String {
        let (session, low) = (self.session, self.session * 1_000_000);
        match self.random.random_range(0..20) {
            0..=6 => self.rows(),
            7 | 8 => {
                let from = self.random.random_range(low..=self.next);
                format!("update shared set v = v || 'x' where id between {from} and {}", from + 150)
            }
            9 => {
                let from = self.random.random_range(low..=self.next);
                format!("delete from parted where id between {from} and {}", from + 100)
            }
            10 | 11 => {
                let first = self.random.random_range(0..1_000_000);
                format!("insert into own{session} (id) select {first} + g from generate_series(1, 60) g")
            }
            12 => {
                self.columns += 1;
                format!("alter table own{session} add c{} int default {}", self.columns, self.columns)
            }
            13 => format!("truncate own{session}"),
            // With a row behind it: it is certain then that it was not sent from a savepoint.
            14 if self.depth == 0 => {
                format!(
                    "select rowcast.publish('a.b', '{session}'); insert into own{session} (id) values (0)"
                )
            }
            15..=17 => {
                self.depth += 1;
                format!("savepoint s{}", self.depth)
            }
            18 if self.depth > 0 => {
                let at = self.random.random_range(1..=self.depth);
                self.depth = at - 1;
                format!("release savepoint s{at}")
            }
            19 if self.depth > 0 => {
                // The savepoint stays.
                self.depth = self.random.random_range(1..=self.depth);
                format!("rollback to savepoint s{}", self.depth)
            }
            _ => self.rows(),
        }
    }

    async fn transactions(&mut self, client: &Client, count: usize) {
        for _ in 0..count {
            self.depth = 0;
            let columns = self.columns;
            run(client, "begin").await;
            for _ in 0..self.random.random_range(1..14) {
                let step = self.step();
                run(client, &step).await;
            }
            let commits = self.random.random_range(0..6) > 0;
            run(client, if commits { "commit" } else { "rollback" }).await;
            self.columns = columns.max(self.columns);
        }
    }
}

async fn tables(client: &Client) {
    let own: String = (0..SESSIONS).map(|at| format!("create table own{at} (id int);")).collect();
    run(
        client,
        &format!(
            "create table ends (id int primary key); create table shared (id int primary key, v text);
             create table bare (id int, v text); alter table bare replica identity full;
             create table parted (id int primary key, v text) partition by range (id);
             create table parted_a partition of parted for values from (0) to (2500000);
             create table parted_b (v text, id int not null);
             alter table parted attach partition parted_b for values from (2500000) to (100000000); {own}"
        ),
    )
    .await;
}

/// Random transactions of several sessions at the same time.
fn load(server: &Server, seed: u64, round: u64, count: usize) -> JoinSet<()> {
    let mut sessions = JoinSet::new();
    for session in 0..SESSIONS {
        let url = server.admin();
        sessions.spawn(async move {
            let info = rowcast_postgres::conninfo::Conninfo::parse(&url).unwrap();
            let client = rowcast_postgres::wire::sql_client(&info).await.unwrap();
            let random = StdRng::seed_from_u64(seed ^ (round << 32) ^ session);
            let columns = u32::try_from(round).unwrap() * 1000;
            let next = session * 1_000_000 + round * 100_000;
            Writer { random, session, next, columns, depth: 0 }.transactions(&client, count).await;
        });
    }
    sessions
}

async fn all(mut sessions: JoinSet<()>) {
    while let Some(session) = sessions.join_next().await {
        session.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_is_the_same_as_when_transactions_are_sent_whole() {
    let (server, one, two) = (Server::start(IN_PIECES), Directory::new(), Directory::new());
    let (client, seed) = (sql(&server).await, seed());
    tables(&client).await;
    let whole = Capture::start(whole(&server), one.path()).await;
    let pieces = Capture::start(in_pieces(&server), two.path()).await;
    for round in 0..2 {
        all(load(&server, seed, round, 12)).await;
        let count = usize::try_from(round).unwrap();
        let events = compare(&client, [&whole, &pieces], count).await;
        assert!(events.len() > 1000, "{} events", events.len());
    }
    let streamed = "select stream_txns from pg_stat_replication_slots where slot_name = 'pieces'";
    until("the server's count", async || value(&client, streamed).await.parse::<u32>().unwrap() > 10).await;
    assert_eq!(pieces.report().source.reconnects, 0);
    whole.stop().await;
    pieces.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_and_crashes_change_nothing() {
    let (server, one, two) = (Server::start(IN_PIECES), Directory::new(), Directory::new());
    let (client, seed) = (sql(&server).await, seed());
    tables(&client).await;
    let whole = Capture::start(whole(&server), one.path()).await;
    let mut pieces = Capture::start(in_pieces(&server), two.path()).await;
    let mut cuts = 0;
    for round in 0..4 {
        let mut sessions = load(&server, seed, round, 8);
        while let Some(session) = sessions.try_join_next() {
            session.unwrap();
        }
        while !sessions.is_empty() {
            let cut = "select pg_terminate_backend(active_pid) from pg_replication_slots
                       where slot_name = 'pieces' and active_pid is not null";
            cuts += client.execute(cut, &[]).await.unwrap();
            if let Ok(ended) = tokio::time::timeout(Duration::from_millis(300), sessions.join_next()).await {
                ended.expect("a session").unwrap();
                // As a kill would: nothing is flushed, nothing is told.
                pieces.crash().await;
                pieces = Capture::start(in_pieces(&server), two.path()).await;
            }
        }
        let round = usize::try_from(round).unwrap();
        compare(&client, [&whole, &pieces], round).await;
    }
    assert!(cuts > 4, "{cuts} cuts");
    whole.stop().await;
    pieces.stop().await;
    let left = std::fs::read_dir(two.path()).unwrap().flatten();
    assert_eq!(left.filter(|file| file.file_name().to_string_lossy().starts_with("spill")).count(), 0);
}

/// Rows of some 180 bytes.
fn rows(table: &str, first: u64, last: u64) -> String {
    format!("insert into {table} select g, repeat('x', 150) from generate_series({first}, {last}) g")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ones_in_turns_while_small_ones_are_seen() {
    // Three times as many are more than fits into memory.
    const ROWS: u64 = 40_000;
    let (server, one, two) = (Server::start(IN_PIECES), Directory::new(), Directory::new());
    let client = sql(&server).await;
    tables(&client).await;
    run(&client, "insert into shared values (0, '')").await;
    let whole = Capture::start(whole(&server), one.path()).await;
    let pieces = Capture::start(in_pieces(&server), two.path()).await;
    // Known, so that the file can stay as it is; `bare` is not known before.
    run(&client, "insert into shared values (1, '')").await;
    let (first, second, third) = (sql(&server).await, sql(&server).await, sql(&server).await);
    run(&first, "begin").await;
    run(&second, "begin; insert into bare values (0, '')").await;
    run(&third, "begin").await;
    for turn in 0..3 {
        let low = 10_000_000 + turn * ROWS;
        run(&first, &rows("shared", low, low + ROWS - 1)).await;
        run(&second, &format!("savepoint a; {}; rollback to a", rows("bare", 1, ROWS / 2))).await;
        run(&second, &rows("bare", low, low + ROWS - 1)).await;
        run(&third, &rows("shared", 30_000_000 + low, 30_000_000 + low + ROWS - 1)).await;
        let id = 100 + turn;
        run(&client, &format!("insert into shared values ({id}, 'small')")).await;
        let small = format!("insert public.shared {id},small");
        until("the small one", async || pieces.after(0).iter().any(|event| event.brief() == small)).await;
    }
    let segments = pieces.journal.summary().segments;
    run(&third, "rollback").await;
    run(&second, "commit").await;
    run(&client, "insert into shared values (200, '')").await;
    run(&first, "commit").await;
    let events = compare(&client, [&whole, &pieces], 1).await;
    assert_eq!(events.len() as u64, 1 + 3 + 1 + 3 * ROWS + 1 + 3 * ROWS + 1);
    assert!(pieces.journal.summary().segments >= segments + 2);
    assert_eq!(pieces.report().source.reconnects, 0);
    // What was on its way is found again, whichever way it came.
    pieces.crash().await;
    let pieces = Capture::start(in_pieces(&server), two.path()).await;
    caught_up(&client, &pieces).await;
    assert_eq!(told(&pieces.events()), told(&events));
    compare(&client, [&whole, &pieces], 2).await;
    whole.stop().await;
    pieces.stop().await;
}

#[tokio::test]
async fn small_ones_share_a_segment() {
    let (server, directory) = (Server::start(IN_PIECES), Directory::new());
    let client = sql(&server).await;
    tables(&client).await;
    let capture = Capture::start(in_pieces(&server), directory.path()).await;
    for turn in 0..20_u64 {
        run(&client, &rows("shared", turn * 1000, turn * 1000 + 999)).await;
    }
    let events = capture.wait(20_000).await;
    let places: Vec<_> = events.iter().map(|event| (event.seq, event.last)).collect();
    let expected: Vec<_> = (0..20_000).map(|at| (at % 1000, at % 1000 == 999)).collect();
    assert_eq!(places, expected);
    assert_eq!(capture.journal.summary().segments, 1);
    let streamed = "select stream_txns from pg_stat_replication_slots where slot_name = 'pieces'";
    // Version 14 loses some of what it counts.
    until("the server's count", async || value(&client, streamed).await.parse::<u32>().unwrap() >= 10).await;
    until("monitors to have it", async || capture.gauge("slot_streamed_transactions") >= 10.0).await;
    // A transaction has 150 KB and more of values.
    assert!(capture.gauge("slot_streamed_bytes") >= 1e6, "{}", capture.gauge("slot_streamed_bytes"));
    assert_eq!(capture.gauge("slot_spilled_transactions"), 0.0);
    capture.stop().await;
}

/// An error as the server says it: some of 18.4's transactions end so for ever, and can be decoded when they are sent whole.
const FAILURE: &[u8] =
    b"E\0\0\0\x4fSERROR\0VERROR\0CXX000\0Mcould not map filenumber \"base/5/1\" to relation OID\0\0";

#[tokio::test]
async fn where_the_server_fails_over_it_they_are_sent_whole() {
    let (server, proxy, config) = through_a_proxy(IN_PIECES).await;
    let (client, open, directory) = (sql(&server).await, sql(&server).await, Directory::new());
    let config = Config { streaming: Streaming::On, ..config };
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (0, 'known')").await;
    capture.wait(1).await;
    assert_eq!(capture.report().source.large_transactions, "sent before they commit");
    let given_up = || counted("rowcast_source_streaming_given_up_total");
    let lost = || counted("rowcast_source_reconnects_total");
    let before = (given_up(), lost());
    proxy.fail(b"large one", FAILURE);
    let large = "insert into t select g, 'a large one' || repeat('x', 150) from generate_series(1, 2000) g";
    run(&open, &format!("begin; {large}")).await;
    until("the reason", async || {
        let reason = capture.report().source.reason.unwrap_or_default();
        reason.contains("no more sent before they commit") && reason.contains("could not map filenumber")
    })
    .await;
    proxy.mend();
    run(&open, "commit").await;
    let events = capture.wait(2001).await;
    assert_eq!(events.len(), 2001);
    assert!(events[1..].iter().zip(0..).all(|(event, seq)| event.seq == seq));
    // What it holds back it has to keep on its disk meanwhile.
    let spilled = "select spill_txns from pg_stat_replication_slots where slot_name = 'rowcast'";
    until("the server's count", async || value(&client, spilled).await.parse::<u32>().unwrap() > 0).await;
    until("monitors to have it", async || capture.gauge("slot_spilled_transactions") >= 1.0).await;
    // Of 2,000 rows of more than 150 bytes all but what fits into memory.
    assert!(capture.gauge("slot_spilled_bytes") >= 2e5, "{}", capture.gauge("slot_spilled_bytes"));
    assert_eq!(capture.report().source.reconnects, 1);
    assert_eq!((given_up() - before.0, lost() - before.1), (1, 1));
    assert!(
        capture.report().source.large_transactions.starts_with("sent when they commit up to the next start")
    );
    capture.stop().await;
}

/// Postgres says of a message only in which transaction it was sent, not in which subtransaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_savepoint_that_was_rolled_back_are_not_told() {
    let (server, one, two) = (Server::start(IN_PIECES), Directory::new(), Directory::new());
    let client = sql(&server).await;
    tables(&client).await;
    let whole = Capture::start(whole(&server), one.path()).await;
    let pieces = Capture::start(in_pieces(&server), two.path()).await;
    let unsure = format!(
        "begin; {}; savepoint a; select rowcast.publish('never', repeat('1', 90000)::jsonb)",
        rows("shared", 0, 2000)
    );
    // Where all of it is rolled back there is nothing to know.
    run(&client, &unsure).await;
    run(&client, "rollback").await;
    compare(&client, [&whole, &pieces], 1).await;
    assert_eq!(pieces.report().source.reconnects, 0);
    run(&client, &unsure).await;
    run(&client, &format!("rollback to a; {}; commit", rows("shared", 3000, 5000))).await;
    let events = compare(&client, [&whole, &pieces], 2).await;
    assert!(events.iter().all(|event| event.channel != "never"));
    assert_eq!(pieces.report().source.reconnects, 1, "they are sent whole since then");
    run(&client, &rows("shared", 10_000, 12_000)).await;
    compare(&client, [&whole, &pieces], 3).await;
    assert_eq!(pieces.report().source.reconnects, 1);
    whole.stop().await;
    pieces.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_one_does_not_hold_back_what_is_confirmed() {
    let (server, directory) = (Server::start(IN_PIECES), Directory::new());
    let (client, open) = (sql(&server).await, sql(&server).await);
    tables(&client).await;
    let capture = Capture::start(in_pieces(&server), directory.path()).await;
    run(&open, &format!("begin; {}", rows("shared", 0, 5000))).await;
    run(&client, "insert into shared values (9999, '')").await;
    let lsn = capture.wait(1).await.remove(0).end_lsn;
    let confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'pieces'";
    until("the confirmation", async || {
        value(&client, confirmed).await.parse::<rowcast_engine::Lsn>().unwrap() >= lsn
    })
    .await;
    capture.crash().await;
    let capture = Capture::start(in_pieces(&server), directory.path()).await;
    run(&open, &format!("{}; commit", rows("shared", 5001, 6000))).await;
    let events = capture.wait(1 + 6001).await;
    assert!(events[1..].iter().zip(0..).all(|(event, seq)| event.seq == seq && event.end_lsn > lsn));
    capture.stop().await;
}

/// What the same transaction did to a table before its first row there: it is looked up when that is seen, not while the
/// transaction has the table for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_same_transaction_made_is_known() {
    let (server, directory) = (Server::start(IN_PIECES), Directory::new());
    let (client, open) = (sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int not null, v text); create table ends (id int primary key)").await;
    let capture = Capture::start(in_pieces(&server), directory.path()).await;
    let made = "alter table t add primary key (id), alter v set not null";
    let rows = "insert into t select i, repeat('x', 200) from generate_series(1, 5000) i";
    run(&open, &format!("begin; {made}; {rows}")).await;
    // What was written before it has been sent.
    run(&client, "insert into ends values (1)").await;
    capture.wait(1).await;
    run(&open, "commit").await;
    capture.wait(1 + 5000).await;
    let schema = capture.schema("public.t");
    assert!(schema.primary_key == [0] && schema.columns[1].not_null, "{schema:?}");
    assert_eq!(capture.journal.schemas().len(), 2, "not described before");
    capture.stop().await;
}

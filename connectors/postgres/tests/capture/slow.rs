//! A journal that takes long to be read while the stream runs already: the server hears of us all the while.

use std::sync::{Arc, Condvar, Mutex};

use rowcast_engine::ingest::Ingest;
use rowcast_engine::journal::disk::{Disk, RealDisk};
use rowcast_engine::journal::{Compression, Options, open};
use rowcast_postgres::{Config, OnGap};
use tokio_postgres::Client;

use super::breaks::{gaps, one_row};
use super::guarded::{Guard, Guarded};
use super::harness::{Capture, Directory, confirmed, run, set, sql, until, value};
use super::restored::put_back;

/// A server that waits for no longer than this; it is told after 60 % of it. Long enough for a busy machine.
const PATIENCE: &str = "wal_sender_timeout = '8s'";

/// So many words of ours take longer than that.
const WORDS: usize = 3;

/// Between two looks at how often the server has heard of us.
const HEARD: &str = "select pid || ' ' || coalesce(reply_time::text, '') from pg_stat_replication
    where state in ('catchup', 'streaming')";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reads {
    #[default]
    Pass,
    /// The next one waits.
    Wait,
    Waits,
    /// The one that waits goes on, the next one waits.
    Next,
}

/// The machine's disk, whose reads wait for as long as the test says.
#[derive(Clone, Debug, Default)]
struct Slow(Arc<(Mutex<Reads>, Condvar)>);

impl Slow {
    fn set(&self, reads: Reads) {
        *self.0.0.lock().unwrap() = reads;
        self.0.1.notify_all();
    }

    fn waits(&self) -> bool {
        *self.0.0.lock().unwrap() == Reads::Waits
    }
}

impl Guard for Slow {
    fn read(&self) {
        let mut reads = self.0.0.lock().unwrap();
        while *reads != Reads::Pass {
            *reads = Reads::Waits;
            reads = self.0.1.wait(reads).unwrap();
            if *reads == Reads::Next {
                *reads = Reads::Wait;
                return;
            }
        }
    }
}

/// Whatever waits goes on, also where the test has failed.
struct Release(Slow);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.set(Reads::Pass);
    }
}

/// A journal that nobody reads but who captures; the server may forget only what these sinks have.
fn journal(disk: Arc<dyn Disk>, directory: &Directory, sinks: &[&str]) -> Ingest {
    let options = Options { compression: Compression::None, ..Options::new(directory.path()) };
    let sinks = sinks.iter().map(|name| (*name).to_owned()).collect();
    Ingest::new(open(options, disk).unwrap()).required(sinks)
}

/// Captures on a disk whose next read waits until the server has heard of us for longer than it would wait.
async fn goes_on(client: &Client, config: Config, directory: &Directory, sinks: &[&str]) -> Capture {
    let disk = Slow::default();
    let ingest = journal(Arc::new(Guarded(disk.clone())), directory, sinks);
    let _release = Release(disk.clone());
    disk.set(Reads::Wait);
    let mut capture = Capture::launch_into(ingest, config, &[]);
    let streams = "select count(*) from pg_stat_replication where state in ('catchup', 'streaming')";
    until("the journal to be read while the stream runs", async || {
        if !disk.waits() {
            return false;
        }
        let runs = value(client, streams).await == "1";
        if !runs {
            // Read before it.
            disk.set(Reads::Next);
        }
        runs
    })
    .await;
    let mut heard = Vec::new();
    until("the server to hear of us", async || {
        let now = value(client, HEARD).await;
        let (pid, _) = now.split_once(' ').unwrap();
        if heard.last() != Some(&now) {
            heard.push(now.clone());
        }
        assert!(heard[0].starts_with(&format!("{pid} ")), "another connection: {heard:?}");
        heard.len() > WORDS
    })
    .await;
    assert!(disk.waits());
    disk.set(Reads::Pass);
    capture.streams().await;
    capture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_compared_is_read_while_the_server_hears_of_us() {
    let (server, directory, config) = one_row(PATIENCE, OnGap::Stop).await;
    let client = sql(&server).await;
    let told = confirmed(&client).await;
    // A sink that never moves keeps the slot where it is.
    let away = ["away"];
    let ingest = journal(Arc::new(RealDisk), &directory, &away);
    let mut capture = Capture::launch_into(ingest, config.clone(), &[]);
    capture.streams().await;
    run(&client, "insert into t values (2)").await;
    capture.wait(2).await;
    capture.stop().await;
    assert_eq!(confirmed(&client).await, told, "the slot has stayed");

    let capture = goes_on(&client, config, &directory, &away).await;
    run(&client, "insert into t values (3)").await;
    let expected = ["insert public.t 1", "insert public.t 2", "insert public.t 3"];
    assert_eq!(capture.briefs(3).await, expected);
    assert_eq!(capture.report().source.reconnects, 0);
    capture.stop().await;
}

/// The same where a history that parts from the journal's is compared with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_histories_part_is_looked_for_while_the_server_hears_of_us() {
    let (server, directory, config) = put_back(OnGap::Continue).await;
    let client = sql(&server).await;
    set(&client, PATIENCE).await;
    until("the setting", async || value(&client, "current_setting('wal_sender_timeout')").await == "8s")
        .await;
    // Less than the journal has, so that it is seen at once.
    run(&client, "insert into t values (4)").await;
    let capture = goes_on(&client, config, &directory, &[]).await;
    assert_eq!(capture.briefs(5).await[3..], ["gap source_restored", "insert public.t 4"]);
    assert_eq!((gaps(&capture).len(), capture.report().source.reconnects), (1, 0));
    capture.stop().await;
}

//! What a reader costs the server: transactions per second of pgbench (TPC-B, four clients) with nobody attached, with
//! pg_recvlogical to /dev/null, and with rowcast into its durable journal, in turns.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use tokio_postgres::Client;

use crate::backlog;
use crate::process::{Manners, Process, command, run};
use crate::program::Rowcast;
use crate::server::{Place, Route, Server};
use crate::table::{median, set};

/// The slot of either reader.
const SLOT: &str = "bench";
/// Rows of pgbench's accounts are 100,000 times this: small, so that the disk decides less.
const SCALE: &str = "10";
/// Between two looks at whether a reader is there.
const LOOK: Duration = Duration::from_millis(10);

const SETTINGS: &[&str] =
    &["autovacuum=off", "max_wal_size=16GB", "checkpoint_timeout=1h", "shared_buffers=512MB"];

/// How long, and how often.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds of each run.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Rounds; the medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Turn the server's fsync off, so that its processor time decides and not the disk.
    #[arg(long)]
    no_fsync: bool,
}

/// Who reads meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Nobody,
    Peer(Route),
    Rowcast(Route),
}

const READERS: [Reader; 5] = [
    Reader::Nobody,
    Reader::Peer(Route::Tcp),
    Reader::Rowcast(Route::Tcp),
    Reader::Peer(Route::Unix),
    Reader::Rowcast(Route::Unix),
];

/// Measures, and gives the table.
pub(crate) async fn measure(place: &Place, program: &Path, options: &Options) -> Result<String> {
    let fsync = if options.no_fsync { "fsync=off" } else { "fsync=on" };
    let server = Server::start(place, &[SETTINGS, &[fsync]].concat()).await?;
    let client = server.client().await?;
    let bench = Bench { place, program, server: &server, client: &client };
    run(bench.pgbench().args(["-i", "-q", "-s", SCALE]))?;
    // It makes the publications that both readers name.
    bench.rowcast(Route::Unix, "set-up").await?.stop();
    backlog::drop_slot(&client, SLOT).await?;
    let mut speeds = READERS.map(|_| Vec::new());
    for round in 1..=options.rounds {
        for at in 0..READERS.len() {
            // Each is first in its turn.
            let at = (at + round as usize) % READERS.len();
            let speed = bench.round(READERS[at], options.seconds, round).await?;
            eprintln!("Round {round}, {}: {speed:.0} transactions/s", named(READERS[at]));
            speeds[at].push(speed);
        }
    }
    Ok(report(options, fsync, &speeds))
}

struct Bench<'a> {
    place: &'a Place,
    program: &'a Path,
    server: &'a Server,
    client: &'a Client,
}

impl Bench<'_> {
    fn pgbench(&self) -> Command {
        let mut pgbench = command(&self.server.program("pgbench"), Manners { user: None, end: Signal::INT });
        // It takes the database as its last word only.
        let options = self.server.options(Route::Unix);
        pgbench.args(&options[..options.len() - 2]).env("PGDATABASE", "postgres");
        pgbench
    }

    /// One run of pgbench from a checkpoint on, with a reader that begins with it.
    async fn round(&self, reader: Reader, seconds: u32, round: u32) -> Result<f64> {
        backlog::execute(self.client, "checkpoint").await?;
        let speed = match reader {
            Reader::Nobody => self.transactions(seconds).await?,
            Reader::Peer(route) => {
                let peer = self.peer(route).await?;
                let speed = self.transactions(seconds).await?;
                peer.stop();
                speed
            }
            Reader::Rowcast(route) => {
                let data = format!("data-{round}-{route:?}");
                let rowcast = self.rowcast(route, &data).await?;
                let speed = self.transactions(seconds).await?;
                rowcast.stop();
                run(Command::new("rm").arg("-r").arg(self.place.path(&data)))?;
                speed
            }
        };
        backlog::drop_slot(self.client, SLOT).await?;
        Ok(speed)
    }

    async fn peer(&self, route: Route) -> Result<Process> {
        let create = format!("select pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
        backlog::execute(self.client, &create).await?;
        let names = "select string_agg(quote_ident(pubname), ',') from pg_publication";
        let names: String =
            self.client.query_one(names, &[]).await.map_err(|error| failed(names, error))?.get(0);
        let mut drain = self.server.recvlogical(route, SLOT, &names);
        drain.args(["--file", "/dev/null"]);
        let process = Process::start(&mut drain, Signal::INT, &self.place.path("peer.log"))?;
        while backlog::walsender(self.client, SLOT).await?.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(process)
    }

    async fn rowcast(&self, route: Route, data: &str) -> Result<Rowcast> {
        let (url, slot) = (self.server.url(route), format!("source.slot={SLOT}"));
        let publication = format!("source.publication={SLOT}");
        let arguments = ["--source", &url, "--set", &slot, "--set", &publication];
        let mut rowcast = Rowcast::start(self.program, &self.place.path(data), &arguments).await?;
        rowcast.wait_streaming().await?;
        Ok(rowcast)
    }

    /// Of a run of so many seconds, per second.
    async fn transactions(&self, seconds: u32) -> Result<f64> {
        let mut pgbench = self.pgbench();
        pgbench.args(["-n", "-c", "4", "-T", &seconds.to_string()]);
        // Not on this thread: the connections of this program go on meanwhile.
        let output = tokio::task::spawn_blocking(move || pgbench.output()).await;
        let output = output.map_err(|error| Error::failed("pgbench was not waited for").because(error))?;
        let output = output.map_err(|error| Error::failed("Cannot run pgbench").because(error))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let speed = printed
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
        speed.ok_or_else(|| {
            Error::failed("pgbench has failed")
                .because(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        })
    }
}

fn named(reader: Reader) -> String {
    let over = |route| if route == Route::Tcp { "TCP" } else { "Unix socket" };
    match reader {
        Reader::Nobody => "nobody".to_owned(),
        Reader::Peer(route) => format!("pg_recvlogical to /dev/null, {}", over(route)),
        Reader::Rowcast(route) => format!("rowcast, durable, {}", over(route)),
    }
}

fn report(options: &Options, fsync: &str, speeds: &[Vec<f64>; 5]) -> String {
    let mut rows = vec![
        ["attached", "transactions/s", "of nobody", "of pg_recvlogical"].map(ToOwned::to_owned).to_vec(),
    ];
    let ratio = |ours: &[f64], theirs: &[f64]| {
        // Round by round, since the machine changes more between rounds than within one.
        let pairs = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        format!("{:.3}", median(pairs.collect()))
    };
    for (at, reader) in READERS.into_iter().enumerate() {
        let beside = match reader {
            Reader::Rowcast(_) => ratio(&speeds[at], &speeds[at - 1]),
            Reader::Nobody | Reader::Peer(_) => "-".to_owned(),
        };
        let speed = format!("{:.0}", median(speeds[at].clone()));
        rows.push(vec![named(reader), speed, ratio(&speeds[at], &speeds[0]), beside]);
    }
    let (seconds, rounds) = (options.seconds, options.rounds);
    format!(
        "pgbench, 4 clients, {fsync}, {seconds} s a run; medians of {rounds} rounds, in turns.\n\n{}",
        set(&rows)
    )
}

fn failed(sql: &str, error: tokio_postgres::Error) -> Error {
    Error::failed(format!("Postgres refuses: {sql}")).because(error)
}

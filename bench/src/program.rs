//! The real `rowcast run`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::http;
use crate::process::{Manners, Process, command};

/// A program that does not answer by then has failed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The program: the one given, else the one beside us.
pub(crate) fn find(given: Option<PathBuf>) -> Result<PathBuf> {
    let beside = || std::env::current_exe().ok()?.parent().map(|directory| directory.join("rowcast"));
    let found = given.or_else(beside).filter(|program| program.is_file());
    found.ok_or_else(|| {
        Error::usage("There is no rowcast to measure")
            .hint("Run cargo build --release, or name it: --rowcast FILE.")
    })
}

/// A running `rowcast run`; ended when dropped.
#[derive(Debug)]
pub(crate) struct Rowcast {
    process: Process,
    address: SocketAddr,
    log: PathBuf,
}

impl Rowcast {
    /// Starts it on a data directory and waits until it listens.
    pub(crate) async fn start(program: &Path, data: &Path, arguments: &[&str]) -> Result<Self> {
        let written = data.join("http.addr");
        // Left by an earlier run.
        let _ = fs::remove_file(&written);
        let log = data.with_extension("log");
        let mut start = command(program, Manners { user: None, end: Signal::TERM });
        start.arg("run").args(arguments).arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
        let mut process = Process::start(&mut start, Signal::TERM, &log)?;
        let began = Instant::now();
        loop {
            if let Some(address) = fs::read_to_string(&written).ok().and_then(|text| text.trim().parse().ok())
            {
                return Ok(Self { process, address, log });
            }
            if process.ended().is_some() || began.elapsed() > START_TIMEOUT {
                return Err(failed("rowcast does not start", &log));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of itself.
    pub(crate) async fn status(&mut self) -> Result<Value> {
        if self.process.ended().is_some() {
            return Err(failed("rowcast has ended", &self.log));
        }
        http::json(self.address, "/v1/status").await
    }

    /// Waits until it captures.
    pub(crate) async fn wait_streaming(&mut self) -> Result<Value> {
        let began = Instant::now();
        loop {
            let status = self.status().await?;
            if status["source"]["state"] == "streaming" {
                return Ok(status);
            }
            if began.elapsed() > START_TIMEOUT {
                return Err(failed(&format!("rowcast does not stream: {}", status["reasons"]), &self.log));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends it in order.
    pub(crate) fn stop(self) {
        self.process.stop();
    }
}

fn failed(what: &str, log: &Path) -> Error {
    let said = fs::read_to_string(log).unwrap_or_default();
    Error::failed(format!("{what}; it said: {}", said.trim()))
}

//! The program itself, as a user starts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::port::free_port;
use super::process::{Directory, Launch, Process, tail};
use super::{Database, Kafka, SOON, http, small_disk, soon, wait_for};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_rowcast");

/// A running `rowcast run` with a data directory of its own, ended and removed when dropped. Its log is shown
/// when the test fails.
pub(crate) struct Rowcast {
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    /// Who runs the program: a command and its arguments, in front of it.
    under: Vec<String>,
    /// The same port after a restart.
    listen: String,
    process: Option<Process>,
    address: SocketAddr,
    data: PathBuf,
    directory: Directory,
}

impl Rowcast {
    /// `run --source URL`, ready to have more added to it.
    pub(crate) fn on(source: &str) -> Self {
        let directory = Directory::new("rowcast");
        Self {
            arguments: vec!["--source".into(), source.into()],
            env: Vec::new(),
            under: Vec::new(),
            listen: format!("127.0.0.1:{}", free_port()),
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: directory.path().join("data"),
            directory,
        }
    }

    /// Likewise on a database, with a replication slot of the database's name: slots belong to the whole server.
    pub(crate) fn of(database: &Database) -> Self {
        Self::on(database.url()).set(&format!("source.slot={}", database.name()))
    }

    /// Adds arguments.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets a configuration key: `journal.sync=interval`.
    pub(crate) fn set(self, assignment: &str) -> Self {
        self.with(&["--set", assignment])
    }

    /// Keeps its data elsewhere than in a directory of its own.
    pub(crate) fn data_at(mut self, data: &Path) -> Self {
        self.data = data.to_owned();
        self
    }

    /// Is run by a command, as somebody else.
    pub(crate) fn under(mut self, command: &[&str]) -> Self {
        self.under = command.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds the Kafka door, for a scenario of the stream: the rows that are there before are not read.
    pub(crate) fn kafka(self, kafka: &Kafka, prefix: &str) -> Self {
        self.filled(kafka, prefix).set("source.snapshot=never")
    }

    /// Adds the Kafka door and leaves it at that: what a user gets.
    pub(crate) fn filled(self, kafka: &Kafka, prefix: &str) -> Self {
        self.with(&["--kafka", kafka.brokers(), "--topic-prefix", prefix])
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets an environment variable for the next starts, or removes it.
    pub(crate) fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.env.retain(|(other, _)| other != name);
        self.env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Starts it and waits until it is ready and changes flow.
    pub(crate) async fn start(mut self) -> Self {
        self.resume().await;
        self.wait_streaming().await;
        self
    }

    /// Waits until changes are captured.
    pub(crate) async fn wait_streaming(&mut self) {
        let address = self.address;
        wait_for("rowcast to capture changes", SOON * 2, async || {
            if let Some(code) = self.ended() {
                panic!("rowcast ended with code {code}");
            }
            let status = http::get(address, "/v1/status").await?.json();
            if status["source"]["state"] == "streaming" { Ok(()) } else { Err(status["source"].to_string()) }
        })
        .await;
    }

    /// Starts the ended program again, on the same data and the same port, and waits until it is ready.
    pub(crate) async fn resume(&mut self) {
        self.launch().await;
        self.wait_ready().await;
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        let _ = std::fs::remove_file(self.address_file());
        let data = self.data().display().to_string();
        let mut command = self.under.clone();
        command.extend([PROGRAM.to_owned(), "run".into()]);
        command.extend(self.arguments.iter().cloned());
        command.extend(["--data", &data, "--listen", &self.listen, "--log", "json"].map(ToOwned::to_owned));
        let (log, directory) = (self.log_file(), self.directory.path());
        let launch = Launch { command: &command, env: &self.env, log: &log, last_signal: "KILL", directory };
        self.process = None;
        self.process = Some(Process::start(&launch));
    }

    /// Starts it and waits only until it listens.
    pub(crate) async fn launch(&mut self) {
        self.spawn();
        let written = self.address_file();
        let process = self.process.as_mut().expect("a started rowcast");
        self.address = wait_for("rowcast to listen", SOON, async || {
            let ended = process.ended();
            let text = std::fs::read_to_string(&written).map_err(|error| error.to_string());
            let address = text.and_then(|text| text.trim().parse().map_err(|_| format!("{text:?}")));
            // One that is to be killed may have been by now; where it listened stays written.
            match (address, ended) {
                (Err(_), Some(code)) => panic!("rowcast ended with code {code}"),
                (address, _) => address,
            }
        })
        .await;
        self.listen = self.address.to_string();
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) async fn wait_ready(&mut self) {
        let address = self.address;
        wait_for("rowcast to be ready", SOON * 2, async || {
            if let Some(code) = self.ended() {
                panic!("rowcast ended with code {code}");
            }
            let answer = http::get(address, "/readyz").await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its exit code, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Waits for it to end by itself; its exit code.
    pub(crate) async fn wait_end(&mut self) -> i32 {
        self.process.as_mut().expect("a started rowcast").wait(SOON * 2).await
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) async fn kill9(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// SIGTERM; its exit code, which has to come within the ten seconds that it promises, and what the machine adds.
    pub(crate) async fn terminate(&mut self) -> i32 {
        self.end(Signal::TERM).await
    }

    async fn end(&mut self, signal: Signal) -> i32 {
        let process = self.process.as_mut().expect("a started rowcast");
        process.signal(signal);
        process.wait(Duration::from_secs(15)).await
    }

    /// Everything that it has logged, one JSON object a line.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// GET, which has to be answered.
    pub(crate) async fn get(&self, path: &str) -> http::Answer {
        soon(path, http::get(self.address, path)).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// `/v1/status`.
    pub(crate) async fn status(&self) -> Value {
        self.get("/v1/status").await.json()
    }

    /// The value of a sample in `/metrics`, by its name with labels as printed.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").await.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    fn address_file(&self) -> PathBuf {
        self.data().join("http.addr")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("rowcast.log")
    }
}

impl Drop for Rowcast {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- rowcast's log\n{}", tail(&self.log_file()));
        }
    }
}

/// What a command of the program printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs the program to its end, in an empty directory and with no rowcast settings of ours.
pub(crate) async fn command(arguments: &[&str]) -> Output {
    let directory = Directory::new("command");
    command_in(directory.path(), arguments).await
}

/// Likewise, in a directory.
pub(crate) async fn command_in(directory: &Path, arguments: &[&str]) -> Output {
    output_of(tokio::process::Command::new(PROGRAM).args(arguments).current_dir(directory), arguments).await
}

/// Mounts a directory over itself so that it may only be read, and runs the program there.
const READ_ONLY: &str = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 99
    shift && exec \"$@\"";

/// Likewise, for a program to which the file system of `read_only` can only be read. `None` where nothing may be
/// mounted (in a container, which is said by `ROWCAST_TEST_SMALL_DISK`).
pub(crate) async fn command_on_read_only(read_only: &Path, arguments: &[&str]) -> Option<Output> {
    if std::env::var_os(small_disk::GIVEN).is_some() {
        return None;
    }
    for namespaces in [&["--mount"][..], &["--map-root-user", "--mount"]] {
        let mut command = tokio::process::Command::new("unshare");
        command
            .args(namespaces)
            .args(["sh", "-c", READ_ONLY, "sh"])
            .arg(read_only)
            .arg(PROGRAM)
            .args(arguments);
        let output = output_of(&mut command, arguments).await;
        // 1: unshare itself may not.
        if output.code != 99 && !output.stderr.starts_with("unshare:") {
            return Some(output);
        }
    }
    panic!(
        "Cannot mount {} so that it may only be read: neither root nor a user namespace may",
        read_only.display()
    )
}

async fn output_of(command: &mut tokio::process::Command, arguments: &[&str]) -> Output {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let what = format!("rowcast {} to end", arguments.join(" "));
    let output = soon(&what, output).await.expect("the program starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

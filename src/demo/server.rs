//! A Postgres server that nobody will miss.
//!
//! It runs under a small shell that holds the reading end of a pipe. When rowcast closes the other end, or dies in
//! whatever way, the shell ends the server and removes its directory.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rowcast_engine::{Error, Result};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::programs::{self, User};

/// Waits for the end of the pipe. SIGQUIT is Postgres' immediate shutdown: there is nothing to save.
const GUARD: &str = r#"
directory=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- >"$directory/postgres.log" 2>&1 &
server=$!
read -r _ <&3
kill -QUIT $server
wait $server
rm -rf "$directory"
"#;

/// Where the server is another user's, that user's guard cannot remove what is ours: this one does.
const SWEEPER: &str = r#"
read -r _
while [ -e "$1" ]; do rm -rf "$1"; sleep 0.1; done
"#;

/// For the server to answer: a second on a machine at rest.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For the server to end: moments.
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// Lines of the server's log that are shown when it does not start.
const LOG_LINES: usize = 5;

/// The running server.
pub(super) struct Server {
    /// Its guard, and the sweeper where one is needed.
    guards: Vec<Child>,
    port: u16,
    password: String,
    /// Removed when dropped.
    directory: TempDir,
}

impl Server {
    /// Makes a cluster and starts it.
    pub(super) async fn start() -> Result<Self> {
        let programs = programs::find()?;
        let owner = programs::owner()?;
        let failed = |error| Error::failed("Cannot make a temporary directory").because(error);
        let directory = tempfile::Builder::new()
            .prefix("rowcast-demo-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(failed)?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let secret = directory.path().join("password");
        fs::write(&secret, &password).map_err(failed)?;
        for path in [directory.path(), &secret] {
            give(path, owner).map_err(failed)?;
        }
        let place = Place { programs, owner, directory: directory.path().to_owned() };
        place.initialise(&secret).await?;
        let port = free_port()?;
        let guards = place.launch(port)?;
        let mut server = Self { guards, port, password, directory };
        match server.answers().await {
            Ok(()) => Ok(server),
            Err(error) => {
                server.stop().await;
                Err(error)
            }
        }
    }

    /// Its directory; there is room for more in it.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A database over TCP, for programs of other users: with the password.
    pub(super) fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A database over the Unix socket, which is ours alone.
    pub(super) fn socket_url(&self, database: &str) -> String {
        let directory = self.directory.path().display();
        format!("host={directory} port={} user=postgres dbname={database}", self.port)
    }

    async fn answers(&mut self) -> Result<()> {
        let url = self.socket_url("postgres");
        let late = Instant::now() + START_WITHIN;
        loop {
            let Err(error) = connect(&url).await else { return Ok(()) };
            // Written last before it ends by itself; the guard is still there.
            let log = fs::read_to_string(self.directory().join("postgres.log")).unwrap_or_default();
            if Instant::now() > late || log.contains("FATAL:") && !log.contains("starting up") {
                let lines: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
                let lines: Vec<&str> = lines.into_iter().rev().collect();
                return Err(Error::failed("The throw-away Postgres does not start")
                    .because(error)
                    .hint(format!("Its log ends with:\n{}", lines.join("\n"))));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends it and removes everything.
    pub(super) async fn stop(mut self) {
        for guard in &mut self.guards {
            drop(guard.stdin.take());
        }
        for guard in &mut self.guards {
            if timeout(STOP_WITHIN, guard.wait()).await.is_err() {
                tracing::warn!("The throw-away Postgres has not ended in time; its guard will see to it");
            }
        }
    }
}

/// A session, driven by the runtime.
pub(super) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // A broken connection shows in the client's own errors.
    tokio::spawn(async move { connection.await.is_ok() });
    Ok(client)
}

fn spawn(guard: &mut Command) -> Result<Child> {
    guard
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| Error::failed("Cannot start Postgres").because(error))
}

fn give(path: &Path, owner: Option<User>) -> std::io::Result<()> {
    owner.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
}

fn free_port() -> Result<u16> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::failed("No port is free").because(error))
}

/// What is needed to start one of Postgres' programs.
struct Place {
    programs: PathBuf,
    owner: Option<User>,
    directory: PathBuf,
}

impl Place {
    /// A program of the server's user.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        // Programs of another user may not read the directory that we are in.
        command.current_dir(&self.directory).stdin(Stdio::piped()).env("LC_ALL", "C");
        if let Some(user) = self.owner {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    async fn initialise(&self, secret: &Path) -> Result<()> {
        let made = self
            .command(self.programs.join("initdb"))
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256", "-D"])
            .arg(self.directory.join("postgres"))
            .arg("--pwfile")
            .arg(secret)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| Error::failed("Cannot run initdb").because(error))?;
        if made.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&made.stderr);
        Err(Error::failed("initdb could not make a Postgres").because(said.trim().replace('\n', "; ")))
    }

    /// In a process group of its own: Ctrl-C is for rowcast, which then ends all in order.
    fn launch(&self, port: u16) -> Result<Vec<Child>> {
        let settings = [
            "wal_level=logical".to_owned(),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", self.directory.display()),
            "fsync=off".to_owned(),
            "shared_buffers=32MB".to_owned(),
            "max_connections=50".to_owned(),
        ];
        let mut guard = self.command("/bin/sh");
        guard
            .args(["-c", GUARD, "rowcast-demo"])
            .arg(&self.directory)
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.directory.join("postgres"))
            .args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]));
        let mut guards = Vec::new();
        if self.owner.is_some() {
            let mut sweeper = Command::new("/bin/sh");
            sweeper.args(["-c", SWEEPER, "rowcast-demo"]).arg(&self.directory).stdin(Stdio::piped());
            guards.push(spawn(&mut sweeper)?);
        }
        guards.insert(0, spawn(&mut guard)?);
        Ok(guards)
    }
}

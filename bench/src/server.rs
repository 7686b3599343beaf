//! A throw-away Postgres.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rowcast_engine::{Error, Result};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::process::{Manners, Process, command, run};

/// A server that does not answer by then has failed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A directory for everything, removed at the end.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    /// A new directory below `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let cannot =
            |error| Error::failed(format!("Cannot make a directory in {}", parent.display())).because(error);
        let directory =
            tempfile::Builder::new().prefix("rowcast-bench-").tempdir_in(parent).map_err(cannot)?;
        // The server runs as another user when we are root.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).map_err(cannot)?;
        Ok(Self { directory })
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
    // Ended when dropped.
    _process: Process,
}

impl Server {
    /// Starts a fresh one with settings (`name=value`) above logical decoding.
    pub(crate) async fn start(place: &Place, settings: &[&str]) -> Result<Self> {
        let directory = place.path("postgres");
        let programs = programs()?;
        let user = rustix::process::geteuid().is_root().then_some("postgres");
        let manners = Manners { user, end: Signal::INT };
        make_directory(&directory, user)?;
        let data = directory.join("data");
        let flags = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"];
        run(command(&programs.join("initdb"), manners).args(flags).arg("-D").arg(&data))?;
        let port = free_port()?;
        let mut start = command(&programs.join("postgres"), manners);
        start.arg("-D").arg(&data).args(["-p", &port.to_string()]).arg("-k").arg(&directory);
        for setting in ["wal_level=logical", "listen_addresses=127.0.0.1"].iter().chain(settings) {
            start.args(["-c", setting]);
        }
        let log = place.path("postgres.log");
        let process = Process::start(&mut start, Signal::INT, &log)?;
        let server = Self { directory, programs, port, _process: process };
        server.wait_ready(&log).await?;
        Ok(server)
    }

    async fn wait_ready(&self, log: &Path) -> Result<()> {
        let start = Instant::now();
        while let Err(error) = self.client().await {
            if start.elapsed() > START_TIMEOUT {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(Error::failed(format!("Postgres does not start: {}", said.trim())).because(error));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A session over the Unix socket.
    pub(crate) async fn client(&self) -> Result<Client> {
        let cannot = |error| Error::failed("Cannot connect to Postgres").because(error);
        let (client, connection) =
            tokio_postgres::connect(&self.url(Route::Unix), NoTls).await.map_err(cannot)?;
        // A broken connection shows in the client's own errors.
        tokio::spawn(async move { connection.await.is_ok() });
        Ok(client)
    }

    /// Where it is, for a URL.
    pub(crate) fn url(&self, route: Route) -> String {
        let host = match route {
            Route::Tcp => "127.0.0.1".to_owned(),
            Route::Unix => self.directory.display().to_string().replace('/', "%2F"),
        };
        format!("postgres://postgres@{host}:{}/postgres", self.port)
    }

    /// The options `-h`, `-p`, `-U` and `-d` of Postgres' own programs.
    pub(crate) fn options(&self, route: Route) -> Vec<String> {
        let host = match route {
            Route::Tcp => "127.0.0.1".to_owned(),
            Route::Unix => self.directory.display().to_string(),
        };
        let port = self.port.to_string();
        ["-h", &host, "-p", &port, "-U", "postgres", "-d", "postgres"].map(ToOwned::to_owned).to_vec()
    }

    /// One of Postgres' own programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// pg_recvlogical, which reads a slot until it is told to end; where to is still to be said.
    pub(crate) fn recvlogical(&self, route: Route, slot: &str, publications: &str) -> Command {
        let mut command = command(&self.program("pg_recvlogical"), Manners { user: None, end: Signal::INT });
        command.args(self.options(route)).args(["--slot", slot, "--start", "--no-loop"]);
        command.args(["-o", "proto_version=1", "-o", &format!("publication_names={publications}")]);
        command
    }
}

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Over the loopback.
    Tcp,
    /// Over the Unix socket.
    Unix,
}

fn make_directory(directory: &Path, owner: Option<&str>) -> Result<()> {
    let cannot = |error| Error::failed(format!("Cannot make {}", directory.display())).because(error);
    fs::create_dir(directory).map_err(cannot)?;
    match owner {
        Some(owner) => run(std::process::Command::new("chown").arg(owner).arg(directory)),
        None => Ok(()),
    }
}

/// Where Postgres' programs are: Debian's newest, else the search path's.
fn programs() -> Result<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = debian.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    if let Some(newest) = versions.max() {
        return Ok(format!("/usr/lib/postgresql/{newest}/bin").into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|path| path.join("initdb").exists());
    found.ok_or_else(|| {
        Error::failed("There is no Postgres on this machine")
            .hint("Run scripts/install-postgres.sh, or make bench-capture.")
    })
}

fn free_port() -> Result<u16> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    Ok(port.map_err(|error| Error::failed("There is no free port").because(error))?.port())
}

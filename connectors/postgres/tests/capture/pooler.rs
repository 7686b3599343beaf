//! A pooler in place of the server: who connects through one is told so, whatever it lets through.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rowcast_engine::Kind;
use rowcast_postgres::{Config, check};

use super::harness::{Capture, Directory, config, run, sql};
use crate::support::Server;
use crate::support::port::free_port;

const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// What it refuses unless it is told to leave it out.
const SETTINGS: &str = "IntervalStyle,bytea_output,extra_float_digits,lc_monetary,search_path,quote_all_identifiers,\
                        row_security,statement_timeout,idle_in_transaction_session_timeout,exit_on_error,\
                        default_transaction_isolation,synchronous_commit,client_min_messages,lock_timeout";

/// PgBouncer in front of a server; ends when it is dropped.
struct Pooler {
    child: Child,
    port: u16,
    _directory: Directory,
}

impl Pooler {
    /// `None` where it is not installed, which is said.
    fn start(server: &Server, ignored: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("SKIPPED: no PgBouncer (scripts/install-pooler.sh)");
            return None;
        }
        let (directory, port) = (Directory::new(), free_port());
        let dir = directory.path();
        std::fs::create_dir_all(dir).unwrap();
        let ini = dir.join("pgbouncer.ini");
        std::fs::write(dir.join("users"), "\"postgres\" \"\"\n").unwrap();
        let users = dir.join("users").display().to_string();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {users}\nignore_startup_parameters = {ignored}\n",
            server.port
        );
        std::fs::write(&ini, settings).unwrap();
        // It refuses to be root.
        let mut command = Command::new("setpriv");
        if Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n") {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.args(["--pdeathsig=KILL", "--", PROGRAM, "--quiet"]).arg(ini).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "it does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { child, port, _directory: directory })
    }

    fn config(&self) -> Config {
        let port = self.port;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
        Config { url, ..Config::default() }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assert_named(what: &str, remedy: &str) {
    assert!(what.contains("is a connection pooler"), "{what}");
    assert!(remedy.contains("Name the Postgres server itself"), "{remedy}");
}

#[tokio::test]
async fn a_pooler_is_named_by_check_and_run() {
    let server = Server::start("");
    server.admit("host all all all trust");
    run(&sql(&server).await, "create table t (id int primary key)").await;
    for ignored in ["", SETTINGS, &format!("{SETTINGS},replication")] {
        let Some(pooler) = Pooler::start(&server, ignored) else { return };
        let found = check(&pooler.config()).await.unwrap();
        let bad: Vec<_> = found.iter().filter(|one| !one.ok).collect();
        assert_eq!(bad.len(), 1, "{found:#?}");
        assert_named(&bad[0].found, bad[0].remedy.as_deref().unwrap());
        let directory = Directory::new();
        let error = Capture::launch(pooler.config(), directory.path()).fails().await;
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert_named(&error.to_string(), error.remedy().unwrap());
    }
}

/// An installation that has worked does not try it for ever either.
#[tokio::test]
async fn a_known_installation_ends_at_a_pooler() {
    let server = Server::start("");
    server.admit("host all all all trust");
    run(&sql(&server).await, "create table t (id int primary key)").await;
    let directory = Directory::new();
    let Some(pooler) = Pooler::start(&server, "") else { return };
    Capture::start(config(&server), directory.path()).await.stop().await;
    let error = Capture::launch(pooler.config(), directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert_named(&error.to_string(), error.remedy().unwrap());
}

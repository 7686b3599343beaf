//! A password that is changed while capture runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rowcast_engine::Kind;
use rowcast_postgres::Config;

use super::breaks::gaps;
use super::harness::{Capture, Directory, run, set, sql, until};
use crate::support::Server;
use crate::wire::Certificates;

/// Whose password is in a file of its own.
const USER: &str = "app";

fn write_password(directory: &Directory, password: &str) -> String {
    let path = directory.path().join("passwords");
    fs::create_dir_all(directory.path()).unwrap();
    fs::write(&path, format!("*:*:*:{USER}:{password}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Waits until it is said why nobody lets us in, while it is tried again.
async fn is_told(capture: &Capture, words: &str) {
    until(words, async || {
        let told = capture.report().source.reason.unwrap_or_default();
        capture.report().source.state == "reconnecting" && told.contains(words)
    })
    .await;
}

/// The server has the new one before the file has: capture waits, and goes on with the file.
#[tokio::test]
async fn a_login_that_is_refused_for_a_time_ends_no_capture() {
    let server = Server::start("");
    server.admit("host all all all scram-sha-256");
    let client = sql(&server).await;
    let role = format!("create role {USER} superuser login password 'old'");
    run(&client, &format!("{role}; create table t (id int primary key)")).await;
    let (directory, secrets) = (Directory::new(), Directory::new());
    let passfile = write_password(&secrets, "wrong");
    let port = server.port;
    let url = format!("host=127.0.0.1 port={port} user={USER} dbname=postgres passfile={passfile}");
    let config = Config { url, ..Config::default() };
    // Before the first success nobody waits.
    let error = Capture::launch(config.clone(), directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("refuses the password"), "{error}");

    write_password(&secrets, "old");
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    run(&client, &format!("alter role {USER} password 'new'")).await;
    let cut = format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{USER}'");
    run(&client, &cut).await;
    until("the word", async || {
        let report = capture.report();
        let told = report.source.reason.clone().unwrap_or_default();
        let told = report.source.state == "reconnecting" && told.contains("refuses the password");
        told && !report.healthy && report.reasons.iter().any(|reason| reason.contains("~/.pgpass"))
    })
    .await;
    // A file that is not what it should be, for a moment.
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    is_told(&capture, "others may read it").await;
    fs::remove_file(&passfile).unwrap();
    is_told(&capture, "nor a line of").await;
    run(&client, "insert into t values (2)").await;
    write_password(&secrets, "new");
    assert_eq!(capture.briefs(2).await, ["insert public.t 1", "insert public.t 2"]);
    until("health", async || capture.report().healthy).await;
    assert!(gaps(&capture).is_empty());
    capture.stop().await;
}

/// As around a restore or a rename: a right is taken away for a while, the database admits nobody, or has another name.
#[tokio::test]
async fn a_database_that_is_closed_for_maintenance_ends_no_capture() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create role app login replication").await;
    client.batch_execute("create database shop owner app").await.unwrap();
    server.admit("host all all all trust");
    let url = format!("postgres://app@127.0.0.1:{}/shop", server.port);
    let shop = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(shop.1);
    run(&shop.0, "create table t (id int primary key)").await;
    let capture = Capture::start(Config { url: url.clone(), ..Config::default() }, directory.path()).await;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop'";
    let closed = [
        (
            "revoke connect on database shop from public, app",
            "grant connect on database shop to app",
            "denies user",
        ),
        (
            "alter database shop allow_connections false",
            "alter database shop allow_connections true",
            "not currently accepting connections",
        ),
        ("alter database shop rename to away", "alter database away rename to shop", "has no database"),
    ];
    for (id, (close, open, words)) in closed.into_iter().enumerate() {
        let by_force = close.contains("rename").then_some("alter database shop allow_connections false");
        if let Some(first) = by_force {
            run(&client, first).await;
            run(&client, cut).await;
        }
        until("the database to be closed", async || client.batch_execute(close).await.is_ok()).await;
        run(&client, cut).await;
        is_told(&capture, words).await;
        run(&client, open).await;
        if by_force.is_some() {
            run(&client, "alter database shop allow_connections true").await;
        }
        let (shop, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        run(&shop, &format!("insert into t values ({id})")).await;
        capture.wait(id + 1).await;
    }
    until("health", async || capture.report().healthy).await;
    assert!(gaps(&capture).is_empty());
    capture.stop().await;
}

/// Likewise keys and certificates, on either end.
#[tokio::test]
async fn a_key_or_certificate_that_will_not_do_for_a_time_ends_no_capture() {
    let server = Server::start("");
    let ours = Certificates::new(&server, "ours");
    ours.issue("server", "localhost", &["localhost"]);
    ours.issue("client", USER, &[]);
    let client = sql(&server).await;
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_ca_file = 'ours.crt'", "ssl = on"] {
        set(&client, setting).await;
    }
    server.admit("hostssl all all all cert");
    run(&client, &format!("create role {USER} superuser login; create table t (id int primary key)")).await;
    let (port, dir, directory) = (server.port, server.dir().display(), Directory::new());
    let url = format!(
        "host=localhost port={port} user={USER} dbname=postgres sslmode=verify-full sslrootcert={dir}/ours.crt \
         sslcert={dir}/client.crt sslkey={dir}/client.key"
    );
    let config = Config { url, ..Config::default() };
    let allow = |mode| {
        fs::set_permissions(server.dir().join("client.key"), fs::Permissions::from_mode(mode)).unwrap();
    };
    // Before the first success nobody waits.
    allow(0o644);
    let error = Capture::launch(config.clone(), directory.path()).fails().await;
    assert!(error.kind() == Kind::Usage && error.to_string().contains("may be read by others"), "{error}");

    allow(0o600);
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1)").await;
    capture.wait(1).await;
    allow(0o644);
    let cut = format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{USER}'");
    run(&client, &cut).await;
    is_told(&capture, "may be read by others").await;
    // The server has a certificate of an authority that is not known here yet.
    let known = fs::read_to_string(server.dir().join("ours.crt")).unwrap();
    Certificates::new(&server, "ours").issue("server", "localhost", &["localhost"]);
    let next = fs::read_to_string(server.dir().join("ours.crt")).unwrap();
    server.write("ours.crt", &known);
    run(&client, "select pg_reload_conf()").await;
    allow(0o600);
    is_told(&capture, "is not trusted").await;
    run(&client, "insert into t values (2)").await;
    server.write("ours.crt", &format!("{known}{next}"));
    assert_eq!(capture.briefs(2).await, ["insert public.t 1", "insert public.t 2"]);
    until("health", async || capture.report().healthy).await;
    capture.stop().await;
}

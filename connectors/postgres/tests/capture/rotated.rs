//! A password that is changed while capture runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rowcast_engine::Kind;
use rowcast_postgres::Config;

use super::breaks::gaps;
use super::harness::{Capture, Directory, run, sql, until};
use crate::support::Server;

/// Whose password is in a file of its own.
const USER: &str = "app";

fn write_password(directory: &Directory, password: &str) -> String {
    let path = directory.path().join("passwords");
    fs::create_dir_all(directory.path()).unwrap();
    fs::write(&path, format!("*:*:*:{USER}:{password}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
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
    run(&client, "insert into t values (2)").await;
    write_password(&secrets, "new");
    assert_eq!(capture.briefs(2).await, ["insert public.t 1", "insert public.t 2"]);
    until("health", async || capture.report().healthy).await;
    assert!(gaps(&capture).is_empty());
    capture.stop().await;
}

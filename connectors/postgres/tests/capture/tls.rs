//! The stream under TLS, with load on it and connections that are cut.

use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;
use crate::wire::Certificates;

/// Rows of each of the two sessions; their 200 bytes fill many TLS records.
const ROWS: usize = 20_000;

async fn load(client: Client, session: usize) {
    for first in (0..ROWS).step_by(100) {
        let rows = format!(
            "insert into public.t select i * 2 + {session}, repeat(chr(97 + i % 26), 200) from generate_series({first}, {}) i",
            first + 99
        );
        client.batch_execute(&rows).await.unwrap();
    }
}

/// Ends the walsender as an administrator would, and gives which it was, if there is one. The `last` one may have the slot
/// still while it ends: to end it again would cut nobody off.
async fn cut(client: &Client, last: &str) -> Option<String> {
    let cut = format!(
        "(select max(active_pid) filter (where pg_terminate_backend(active_pid)) from pg_replication_slots
          where active_pid <> {last})"
    );
    Some(value(client, &cut).await).filter(|pid| pid != "NULL")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_over_tls_arrives_once_through_cuts() {
    let server = Server::start("");
    Certificates::new(&server, "ours").issue("server", "localhost", &["localhost"]);
    let admin = sql(&server).await;
    for setting in ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl = on"] {
        admin.batch_execute(&format!("alter system set {setting}")).await.unwrap();
    }
    server.admit("hostssl all all all trust");
    run(&admin, "create table t (n integer primary key, v text)").await;

    let directory = Directory::new();
    let mut over_tls = config(&server);
    let (port, dir) = (server.port, server.dir().display());
    over_tls.url = format!(
        "host=localhost port={port} user=postgres dbname=postgres sslmode=verify-full sslrootcert={dir}/ours.crt"
    );
    let capture = Capture::start(over_tls, directory.path()).await;
    let encrypted = "(select bool_and(s.ssl) from pg_stat_replication r join pg_stat_ssl s using (pid))";
    assert_eq!(value(&admin, encrypted).await, "true");

    let sessions = [load(sql(&server).await, 0), load(sql(&server).await, 1)].map(tokio::spawn);
    let mut last = "0".to_owned();
    for cuts in 1..=3_u64 {
        let mut found = None;
        until("a walsender to cut", async || {
            found = cut(&admin, &last).await;
            found.is_some()
        })
        .await;
        last = found.unwrap();
        until("another connection", async || capture.report().source.reconnects >= cuts).await;
    }
    for session in sessions {
        session.await.unwrap();
    }
    let events = capture.wait(ROWS * 2).await;
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    let mut numbers: Vec<usize> =
        events.iter().map(|event| event.new.split(',').next().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..ROWS * 2), "each row once");
    capture.stop().await;
}

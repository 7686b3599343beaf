//! A source of several servers: SQL and stream come from one of them, and from another when that is gone.

use std::sync::atomic::{AtomicUsize, Ordering};

use rowcast_engine::Kind;
use rowcast_postgres::{Config, OnGap, check};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::restored::{caught_up, pair};
use crate::support::Server;
use crate::wire::hosts::pair as open_pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_moves_to_the_server_that_was_promoted() {
    let (mut primary, standby, directory, config) = pair(OnGap::Stop).await;
    let url = format!(
        "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs=primary",
        standby.dir().display(),
        primary.dir().display(),
        standby.port,
        primary.port
    );
    let tables = vec!["public.*".to_owned()];
    let mut capture = Capture::start(Config { url, tables, ..config }, directory.path()).await;
    let address = |server: &Server| format!(":{}/postgres", server.port);
    assert!(capture.report().source.address.ends_with(&format!("{}?sslmode=prefer", address(&primary))));
    run(&sql(&primary).await, "insert into t values (2)").await;
    capture.wait(2).await;
    caught_up(&primary, &standby).await;

    tokio::task::block_in_place(|| primary.stop_in_order());
    // For as long as no server is a primary, the status says of each why not.
    until("the reason", async || {
        let reason = capture.report().source.reason.unwrap_or_default();
        reason.contains("None of 2 servers will do")
            && reason.contains(&format!("{} is not what target_session_attrs=primary asks for", standby.port))
            && reason.contains(&format!("{} is unreachable", primary.port))
    })
    .await;
    standby.promote();
    until("the promoted server", async || capture.report().source.address.contains(&address(&standby))).await;
    capture.streams().await;
    // The new server's watch finds its new tables.
    run(&sql(&standby).await, "insert into t values (3); create table later (id int primary key)").await;
    until("the new table", async || capture.report().source.tables.contains_key("public.later")).await;
    let events = capture.events();
    let briefs: Vec<String> = events.iter().map(|event| event.brief()).collect();
    assert_eq!(briefs[..3], ["insert public.t 1", "insert public.t 2", "insert public.t 3"]);
    capture.stop().await;
}

/// The primary of before comes back, as a standby or as somebody who does not know that it is over. Its host comes first,
/// and neither capture nor whoever looks after the slot goes there: nobody says `target_session_attrs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_comes_back_as_a_standby_is_passed_over() {
    let (mut primary, standby, directory, config) = pair(OnGap::Stop).await;
    let url = format!(
        "host={},{} port={},{} user=postgres dbname=postgres",
        primary.dir().display(),
        standby.dir().display(),
        primary.port,
        standby.port
    );
    let mut capture = Capture::start(Config { url, ..config }, directory.path()).await;
    run(&sql(&primary).await, "insert into t values (2)").await;
    capture.wait(2).await;
    caught_up(&primary, &standby).await;
    tokio::task::block_in_place(|| primary.stop_in_order());
    standby.promote();
    let there = format!(":{}/postgres", standby.port);
    let arrived = async |capture: &Capture| {
        until("the promoted server", async || {
            let source = capture.report().source;
            source.address.contains(&there) && source.state == "streaming" && source.slot_state == "active"
        })
        .await;
    };
    arrived(&capture).await;

    primary.write("standby.signal", "");
    tokio::task::block_in_place(|| primary.relaunch());
    let (old, new) = (sql(&primary).await, sql(&standby).await);
    assert_eq!(value(&old, "select pg_is_in_recovery()").await, "true");
    let before = capture.report().source.reconnects;
    run(&new, "select pg_terminate_backend(pid) from pg_stat_replication; insert into t values (3)").await;
    until("the break", async || capture.report().source.reconnects > before).await;
    arrived(&capture).await;
    capture.wait(3).await;

    // Both are primaries now, each with a slot of that name. Every session but the stream is broken off.
    primary.promote();
    let others = "select pg_terminate_backend(pid) from pg_stat_activity
                  where pid <> pg_backend_pid() and backend_type = 'client backend'";
    run(&new, others).await;
    for _ in 0..60 {
        let looks = "select count(*) from pg_stat_activity
                     where pid <> pg_backend_pid() and backend_type = 'client backend'";
        assert_eq!(value(&old, looks).await, "0", "somebody looks at the other server");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(capture.report().source.slot_state, "active");
    run(&new, "insert into t values (4)").await;
    capture.wait(4).await;
    capture.streams().await;
    capture.stop().await;
}

/// What spreads connections over servers is no server: it is noticed before anything is believed.
#[tokio::test]
async fn an_address_that_leads_to_two_servers_is_noticed() {
    let (primary, standby) = open_pair().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let targets = [primary.address(), standby.address()];
    let spread = tokio::spawn(async move {
        let next = AtomicUsize::new(0);
        while let Ok((mut client, _)) = listener.accept().await {
            let target = targets[next.fetch_add(1, Ordering::Relaxed) % 2];
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let directory = Directory::new();
    let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let spreading = Config { url, ..config(&primary) };
    // SQL and stream, one after the other; before anything is begun.
    let found = check(&spreading).await.unwrap();
    let stream = found.iter().find(|found| found.name == "replication connection").unwrap();
    assert!(!stream.ok && stream.found.contains("have ended at two servers"), "{stream:?}");
    assert!(stream.remedy.as_ref().unwrap().contains("HOST1,HOST2"), "{stream:?}");
    let error = Capture::launch(spreading, directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.to_string().contains("have ended at two servers"), "{error}");
    assert!(error.remedy().unwrap().contains("HOST1,HOST2"));
    spread.abort();
}

/// A list of hosts may have the same one twice: an address that moves, beside the names of those that it moves between.
#[tokio::test]
async fn one_server_by_two_names_is_no_second_primary() {
    let server = Server::start("");
    server.admit("host all all 127.0.0.1/32 trust");
    let (socket, port) = (server.dir().display(), server.port);
    let url = format!("host={socket},127.0.0.1 port={port},{port} user=postgres dbname=postgres");
    let found = check(&Config { url, ..config(&server) }).await.unwrap();
    let other = found.iter().find(|found| found.name.starts_with("server at ")).expect("the other name");
    assert!(other.ok && other.found.contains("the same one by another name"), "{other:?}");
}

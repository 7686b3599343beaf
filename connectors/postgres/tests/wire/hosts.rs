//! Several hosts: which of them is taken, for SQL and for the stream alike, and what is said of the others.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rowcast_engine::Kind;
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::{Connection, Purpose, sql_client};

use super::{DEADLINE, login, one, refusal};
use crate::support::Server;

/// A primary and a standby of it; everybody may log in.
pub(crate) async fn pair() -> (Server, Server) {
    let mut primary = Server::start("");
    primary.admit("host all all all trust\nhost replication all all trust");
    primary.stop_in_order();
    let mut standby = primary.copy();
    primary.launch("");
    standby.write("standby.signal", "");
    standby.launch(&format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'", primary.port));
    // It lets nobody in before its data are consistent.
    let (info, start) = (Conninfo::parse(&standby.admin()).unwrap(), Instant::now());
    while let Err(error) = Connection::connect(&info, Purpose::Query).await {
        assert!(error.kind() == Kind::Transient && start.elapsed() < DEADLINE, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (primary, standby)
}

fn url(ports: &[u16], rest: &str) -> String {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("postgres://postgres@{}/postgres?{rest}", hosts.join(","))
}

/// A port of nobody.
fn closed() -> u16 {
    crate::support::port::free_port()
}

#[tokio::test]
async fn the_first_of_the_right_sort_is_taken() {
    const PORT: &str = "SELECT pg_catalog.inet_server_port()::text";
    let (primary, standby) = pair().await;
    let (p, s, dead) = (primary.port, standby.port, closed());
    let cases: [(&str, &[u16], u16); 11] = [
        ("any", &[dead, s, p], s),
        ("any", &[p, s], p),
        ("read-write", &[s, dead, p], p),
        ("read-only", &[p, s], s),
        ("primary", &[s, p], p),
        ("standby", &[p, dead, s], s),
        ("prefer-standby", &[p, dead, s], s),
        ("prefer-standby", &[s, p], s),
        ("prefer-standby", &[dead, p], p),
        ("prefer-standby", &[p], p),
        ("primary", &[p], p),
    ];
    for (attrs, ports, expected) in cases {
        let text = url(ports, &format!("target_session_attrs={attrs}"));
        let key_value = format!(
            "host={} port={} user=postgres dbname=postgres target_session_attrs={attrs}",
            vec!["127.0.0.1"; ports.len()].join(","),
            ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
        );
        for text in [text, key_value] {
            let port = one(&mut login(&text).await, PORT).await;
            assert_eq!(port, expected.to_string(), "replication: {text}");
            let client = sql_client(&Conninfo::parse(&text).unwrap()).await.unwrap();
            let port: String = client.query_one(PORT, &[]).await.unwrap().get(0);
            assert_eq!(port, expected.to_string(), "SQL: {text}");
        }
    }
    // Read-only by setting, as a database is fenced off before it moves.
    let mut admin = login(&primary.admin()).await;
    admin.simple_query("ALTER DATABASE postgres SET default_transaction_read_only = on").await.unwrap();
    refusal(&url(&[p, s], "target_session_attrs=read-write"), Kind::Transient, "read-write asks for").await;
    let mut fenced = login(&url(&[dead, p], "target_session_attrs=read-only")).await;
    assert_eq!(one(&mut fenced, PORT).await, p.to_string());
    // Sessions are not bound by it.
    assert_eq!(one(&mut fenced, "SHOW transaction_read_only").await, "off");
}

#[tokio::test]
async fn every_host_that_was_tried_is_named_with_its_reason() {
    let server = Server::start("listen_addresses = '127.0.0.1'");
    server.admit("host all all all scram-sha-256");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (dead, mute) = (closed(), silent.local_addr().unwrap().port());
    let start = Instant::now();
    // Longer than a name may be: no name server is asked.
    let nowhere = format!("{}.invalid", "x".repeat(64));
    let text = format!(
        "host={nowhere},127.0.0.1,127.0.0.1,{dir} port=1,{dead},{mute},{port} user=postgres \
         dbname=postgres connect_timeout=2 target_session_attrs=standby",
        dir = server.dir().display(),
        port = server.port
    );
    let error = refusal(&text, Kind::Transient, "None of 4 servers will do").await.to_string();
    for reason in [
        format!("\"{nowhere}\" cannot be resolved"),
        format!("127.0.0.1:{dead} is unreachable: Connection refused"),
        format!("127.0.0.1:{mute} is unreachable: no login within 2 s"),
        format!(".s.PGSQL.{} is not what target_session_attrs=standby asks for", server.port),
    ] {
        assert!(error.contains(&reason), "{reason} in {error}");
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "a time for each: {took:?}");

    // A refusal for good ends the search: the next server would be asked the same with the same words.
    let both = url(&[dead, server.port, dead], "");
    let error = refusal(&both, Kind::Refused, "and none is given").await.to_string();
    assert!(error.starts_with("None of 2 servers will do") && error.contains(&dead.to_string()), "{error}");

    // A name stands for all its addresses; here the server listens on one of them only.
    server.admit("host all all all trust");
    login(&format!("host=localhost port={} user=postgres dbname=postgres", server.port)).await;
    let error = refusal(&format!("host=localhost port={dead} user=u"), Kind::Transient, "localhost (").await;
    assert!(error.to_string().contains(&format!("(127.0.0.1:{dead}) is unreachable")), "{error}");
}

//! A server that is far away: each way to it and back takes a while, whatever it is asked.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::*;

const ROWS: u64 = 100_000;

/// Passes on what comes, later by this.
async fn later(
    from: impl AsyncReadExt + Unpin + Send + 'static,
    mut to: impl AsyncWriteExt + Unpin,
    way: Duration,
) {
    let (sender, mut come) = mpsc::channel(1_000);
    tokio::spawn(async move {
        let mut from = from;
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if sender.send((Instant::now() + way, bytes[..count].to_vec())).await.is_err() {
                return;
            }
        }
    });
    while let Some((due, bytes)) = come.recv().await {
        sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Listens where the server seems to be that far away.
async fn far(target: SocketAddr, way: Duration) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(target).await.unwrap();
            for one in [&client, &server] {
                one.set_nodelay(true).unwrap();
            }
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(later(from_client, to_server, way));
            tokio::spawn(later(from_server, to_client, way));
        }
    });
    address
}

/// Capture of a server that is 20 ms away.
async fn captured(server: &Server, directory: &Directory) -> Capture {
    server.admit("host all all all trust");
    let port = far(server.address(), Duration::from_millis(20)).await.port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
    Capture::start(rowcast_postgres::Config { url, ..config(server) }, directory.path()).await
}

/// Has somebody do this to a row all the time, and asks for the rows of `public.t` meanwhile.
async fn ask_while(statements: &'static str, server: &Server, capture: &Capture) -> JoinHandle<()> {
    let writer = sql(server).await;
    let writing = tokio::spawn(async move {
        loop {
            run(&writer, statements).await;
        }
    });
    let before = capture.journal.newest();
    until("updates", async || capture.journal.newest() > before + 10).await;
    capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
    writing
}

/// Has `public.t` read while its row 1 is updated all the time, a large value left as it is.
async fn read_while_a_row_is_updated(server: &Server, capture: &Capture, large: &str) {
    let writing = ask_while("update t set n = n + 1 where id = 1", server, capture).await;
    read_whole(capture).await;
    writing.abort();
    let rows: Vec<Seen> = capture.events().into_iter().filter(|event| event.op == Op::Read).collect();
    let row = rows.iter().find(|row| row.new.starts_with("1,")).unwrap();
    assert!(row.new.ends_with(large), "the value that no event has");
}

const LARGE: &str = "alter table t alter big set storage external;
    insert into t (id, n, big) select i, 0, repeat('x', 5000) from generate_series(1, 500) i";

/// Each chunk takes longer than the next update: else there would always be one more.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_updated_all_the_time_is_read_below_a_root_whose_partitions_are_not_alike() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let tree = "create table t (id int primary key, n int, big text) partition by range (id);
        alter table t replica identity full;
        create table full_one partition of t for values from (0) to (400);
        alter table full_one replica identity full;
        create table other partition of t for values from (400) to (1000)";
    run(&client, &format!("{tree}; {LARGE}")).await;
    let capture = captured(&server, &directory).await;
    read_while_a_row_is_updated(&server, &capture, &"x".repeat(5000)).await;
    capture.stop().await;
}

/// What nobody can put together is read when it is left alone. That this does not come is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_never_left_alone_is_told_to_whoever_looks_after_it() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, &format!("create table t (id int primary key, n int, big text); {LARGE}")).await;
    let capture = captured(&server, &directory).await;
    let anew = "delete from t where id = 1; insert into t values (1, 0, repeat('x', 5000));
                update t set n = n + 1 where id = 1";
    let writing = ask_while(anew, &server, &capture).await;
    let still = || capture.status.unfinished_snapshots().into_iter().find_map(|shown| shown.still);
    until("that to be said", async || still().is_some_and(|(_, why)| why.contains("updated again"))).await;
    let since = still().map(|(since, _)| since);
    let chunks = || capture.journal.notes()["snapshot public.t"].clone();
    let before = chunks();
    until("another try", async || chunks() != before).await;
    assert_eq!(still().map(|(since, _)| since), since, "it is no better");
    writing.abort();
    read_whole(&capture).await;
    capture.stop().await;
}

/// Whether tables have rows is asked of all of them together: while it is, no order is heard.
#[tokio::test(flavor = "multi_thread")]
async fn many_tables_are_listed_in_little_time() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let tables =
        "do $$ begin for i in 1..150 loop execute format('create table t%s (id int primary key)', i);
                  end loop; end $$; insert into t7 values (1); create table locked (id int primary key)";
    run(&client, tables).await;
    let capture = captured(&server, &directory).await;
    let locker = sql(&server).await;
    run(&locker, "begin; lock table locked").await;
    let start = Instant::now();
    let all = Command::Start { tables: vec!["public.*".to_owned()], condition: None };
    assert_eq!(capture.status.ask_for_snapshot(all).await.unwrap().tables.len(), 151);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "at three ways to the server for each it is 18 s: {took:?}");
    let note = |table: &str| {
        let note = capture.journal.notes()[&format!("snapshot public.{table}")].to_vec();
        serde_json::from_slice::<serde_json::Value>(&note).unwrap()["rowless"].as_bool().unwrap_or(false)
    };
    assert!(note("t8") && !note("t7") && !note("locked"), "what is locked counts as one with rows");
    run(&locker, "rollback").await;
    capture.stop().await;
}

/// What a chunk takes anyway does not make it smaller: at a row a second or two this would not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_server_that_is_far_away_is_read() {
    for way in [10, 20].map(Duration::from_millis) {
        let (server, directory) = (Server::start(""), Directory::new());
        let client = sql(&server).await;
        let fill = "create table t (id int primary key, v text);
                    insert into t select i, repeat('x', 50) from generate_series(1, ROWS) i; analyze t";
        run(&client, &fill.replace("ROWS", &ROWS.to_string())).await;
        server.admit("host all all all trust");
        let port = far(server.address(), way).await.port();
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
        let config = rowcast_postgres::Config { url, ..config(&server) };
        let capture = Capture::start(config, directory.path()).await;
        let start = Instant::now();
        capture.status.ask_for_snapshot(rows_of_t(None)).await.unwrap();
        read_whole(&capture).await;
        let took = start.elapsed();
        let pace = ROWS as f64 / took.as_secs_f64();
        println!("{ROWS} rows, {:?} there and back: {took:?}, {pace:.0} rows/s", 2 * way);
        assert_eq!(capture.status.read_tables()["public.t"], ROWS);
        capture.stop().await;
    }
}

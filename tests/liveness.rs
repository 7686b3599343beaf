//! Doors that stand still change nothing for the source, however impatient the server is.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::Stop;
use crate::support::websocket::WebSocket;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON, own_servers, soon, wait_for};
use crate::workload::alone;

/// Of the server. A machine may be busy for seconds without anybody being at fault.
const PATIENCE: Duration = Duration::from_secs(6);

/// More than the buffers between rowcast and a client hold.
const ROWS: i64 = 40_000;

/// Waits until the slot has confirmed what was committed by now.
async fn wait_confirmed(client: &tokio_postgres::Client) {
    let end: String = client.query_one("select pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let sql = format!("select confirmed_flush_lsn >= '{end}' from pg_replication_slots");
    wait_for("the confirmation", SOON, async || {
        let reached: bool = client.query_one(&sql, &[]).await.unwrap().get(0);
        if reached { Ok(()) } else { Err(String::from("not yet")) }
    })
    .await;
}

/// A client that asks for everything in this form.
async fn deaf(rowcast: &Rowcast, form: &str) -> TcpStream {
    let mut stream = TcpStream::connect(rowcast.address()).await.unwrap();
    let path = "/v1/events?channel=*&from=earliest";
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: {form}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads until the words have come.
async fn read_until(stream: &mut TcpStream, words: &[u8]) {
    let (mut told, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    while !told.windows(words.len()).any(|part| part == words) {
        // They may have been cut in two.
        told.drain(..told.len().saturating_sub(words.len()));
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the stream has ended");
        told.extend_from_slice(&buffer[..count]);
    }
}

#[tokio::test]
async fn doors_that_stand_still_for_three_timeouts_change_nothing() {
    if !own_servers("liveness") {
        return;
    }
    let _alone = alone().await;
    let setting = format!("wal_sender_timeout={}s", PATIENCE.as_secs());
    let settings = [setting.as_str()];
    let (mut postgres, mut kafka) = tokio::join!(Postgres::start(&settings), Kafka::start());
    let client = postgres.client("postgres").await;
    client.batch_execute("create table t (id bigint primary key, v text)").await.unwrap();
    let mut rowcast = Rowcast::on(&postgres.url("postgres")).kafka(&kafka, "still").start().await;
    client.batch_execute("insert into t values (0, 'first')").await.unwrap();
    let mut reader = KafkaReader::start(&kafka, "still");
    assert_eq!(reader.next(SOON).await.expect("a record").key["id"], 0);
    let pid = "select pid from pg_stat_replication";
    let walsender: i32 = client.query_one(pid, &[]).await.unwrap().get(0);

    // A broker that answers nothing, and clients that ask for everything and read nothing.
    kafka.freeze();
    let mut deaf = [deaf(&rowcast, "text/event-stream").await, deaf(&rowcast, "application/x-ndjson").await];
    let mut socket = WebSocket::open(rowcast.address()).await.unwrap();
    socket.send(&json!({"type": "subscribe", "id": "all", "channel": "*", "from": "earliest"})).await;
    let (start, mut row) = (Instant::now(), 1);
    while start.elapsed() < PATIENCE * 3 + Duration::from_secs(1) || row < ROWS {
        assert!(start.elapsed() < SOON * 3, "{row} rows only");
        let until = (row + 1_000).min(ROWS);
        if row < ROWS {
            let rows =
                "insert into t select n, repeat('x', 1000) from generate_series($1::int8, $2::int8 - 1) n";
            client.execute(rows, &[&row, &until]).await.unwrap();
        }
        row = until;
        let status = rowcast.status().await;
        assert_eq!(
            (&status["source"]["state"], &status["source"]["reconnects"]),
            (&"streaming".into(), &0.into())
        );
        let reasons = status["reasons"].as_array().unwrap();
        assert!(reasons.iter().all(|reason| reason.as_str().unwrap().contains("kafka")), "{reasons:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    wait_confirmed(&client).await;
    assert_eq!(client.query_one(pid, &[]).await.unwrap().get::<_, i32>(0), walsender);

    // The server may go, too, doors or no doors. What the disk has to take it takes before.
    client.batch_execute("checkpoint").await.unwrap();
    let start = Instant::now();
    postgres.stop(Stop::Fast).await;
    println!("The server's fast shutdown took {:?}", start.elapsed());
    // It takes two tenths of a second. Where it waited for doors, it would wait for ever, or until its patience is over.
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    postgres.resume().await;
    rowcast.wait_streaming().await;

    kafka.thaw();
    // What the frozen broker could not acknowledge comes again; nothing is left out.
    let mut row = 1;
    while row < ROWS {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("row {row}"));
        let came = record.key["id"].as_i64().unwrap();
        assert!(came <= row, "row {came} where {row} should be");
        row += i64::from(came == row);
    }
    let last = format!("{{\"id\":{}}}", ROWS - 1);
    for deaf in &mut deaf {
        soon("a deaf client's last row", read_until(deaf, last.as_bytes())).await;
    }
    soon("the deaf socket's last row", async {
        while socket.next().await.expect("an open socket")["key"]["id"] != ROWS - 1 {}
    })
    .await;
}

//! The supports themselves: servers start, answer, come back, and go.

use std::time::Duration;

use serde_json::{Value, json};

use super::database::Table;
use super::debezium::DebeziumTables;
use super::kafka::{KafkaReader, Record};
use super::postgres::Stop;
use super::process::{Directory, Launch, Process};
use super::{Kafka, Postgres, SOON, Tables, own_servers, wait_for};

#[tokio::test]
async fn postgres_comes_back_and_goes() {
    if !own_servers("postgres_comes_back_and_goes") {
        return;
    }
    let mut server = Postgres::start(&["wal_sender_timeout=5s"]).await;
    let directory = server.directory().to_owned();
    let setting: String =
        server.client("postgres").await.query_one("show wal_sender_timeout", &[]).await.unwrap().get(0);
    assert_eq!(setting, "5s");
    server.client("postgres").await.batch_execute("create table t (id int)").await.unwrap();
    server.restart().await;
    server.stop(Stop::Immediate).await;
    server.resume().await;
    server.kill().await;
    server.resume().await;
    let client = server.client("postgres").await;
    assert_eq!(client.query("select * from t", &[]).await.unwrap().len(), 0);
    let url = server.url("postgres");
    drop(server);
    assert!(super::postgres::connect(&url).await.is_err());
    assert!(!directory.exists());
}

#[tokio::test]
async fn databases_print_rows_as_rowcast_does() {
    let database = Postgres::shared().await.create_database("works").await;
    database
        .execute(
            "create type pair as (n numeric, t text); create domain cents as numeric(10,2);
             create table \"T\" (id int primary key, n numeric, ns numeric[], p pair, ps pair[], c cents, m money,
                 i interval, z timestamptz, b bytea, f float8, missing text);
             insert into \"T\" values (1, 1.50, '{1.10,NULL}', (2.50,'x'), array[(3.50,'y')::pair, null], 4.50, '5.50',
                 '1 day 2 hours', '2026-01-02 03:04:05+01', '\\x0102', 1e15, null)",
        )
        .await;
    let rows = database.rows("\"T\"").await;
    let expected = json!({"id": 1, "n": "1.50", "ns": ["1.10", null], "p": {"n": "2.50", "t": "x"},
        "ps": [{"n": "3.50", "t": "y"}, null], "c": "4.50", "m": "5.50", "i": "P1DT2H",
        "z": "2026-01-02T02:04:05+00:00", "b": "\\x0102", "f": 1_000_000_000_000_000_u64, "missing": null});
    assert_eq!(rows, [expected]);
    let tables = database.tables().await;
    assert_eq!(tables.len(), 1);
    assert_eq!((tables[0].channel.as_str(), &tables[0].key[..]), ("public.\"T\"", &["id".to_owned()][..]));
}

#[tokio::test]
async fn kafka_comes_back_with_its_records() {
    use rdkafka::ClientConfig;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::producer::{FutureProducer, FutureRecord};

    if !own_servers("kafka_comes_back_with_its_records") {
        return;
    }
    let mut kafka = Kafka::start().await;
    let prefix = kafka.prefix("works");
    let mut reader = KafkaReader::start(&kafka, &prefix);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers());
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topic = format!("{prefix}.public.t");
    let new = NewTopic::new(&topic, 2, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    let producer: FutureProducer = config.create().unwrap();
    let send = async |payload: &str| {
        let record = FutureRecord::to(&topic).key("{\"id\":1}").payload(payload);
        producer.send(record, SOON).await.unwrap();
    };
    send("{\"n\":1}").await;
    assert_eq!(reader.next(SOON).await.unwrap().value, Some(json!({"n": 1})));
    kafka.restart().await;
    send("{\"n\":2}").await;
    let record = reader.next(SOON).await.unwrap();
    assert_eq!((record.key, record.value), (json!({"id": 1}), Some(json!({"n": 2}))));
}

#[tokio::test]
async fn programs_end_with_their_guard() {
    let directory = Directory::new("guard");
    let log = directory.path().join("log");
    let start = |script: &str| {
        let command = ["sh", "-c", script].map(ToOwned::to_owned);
        let directory = directory.path();
        Process::start(&Launch { command: &command, env: &[], log: &log, last_signal: "KILL", directory })
    };
    assert_eq!(start("exit 3").wait(SOON).await, 3);
    assert!(directory.path().exists());

    let process = start("echo $$; exec sleep 1000");
    let pid = process.pid();
    wait_for("the program", SOON, async || match std::fs::read_to_string(&log) {
        Ok(text) if text.trim() == pid.to_string() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    drop(process);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.path().exists());
}

#[tokio::test]
async fn chromium_runs_a_page() {
    assert_eq!(super::browser::node("works.mjs", &[]).await, [json!({"title": "42"})]);
}

#[tokio::test]
async fn proxy_passes_stalls_and_cuts() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = super::Proxy::start(listener.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut byte = [0; 1];
    client.write_all(b"a").await.unwrap();
    server.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");
    proxy.stall();
    client.write_all(b"b").await.unwrap();
    let held = tokio::time::timeout(Duration::from_millis(100), server.read_exact(&mut byte)).await;
    assert!(held.is_err());
    proxy.mend();
    server.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");
    proxy.cut();
    assert!(client.read_exact(&mut byte).await.is_err());
}

fn orders() -> Vec<Table> {
    let columns = [("id", "integer"), ("note", "text")].map(|(name, ty)| (name.to_owned(), ty.to_owned()));
    vec![Table { channel: "public.orders".into(), columns: columns.into(), key: vec!["id".into()] }]
}

fn event(id: u64, op: &str, lsn: &str, seq: u64, last: bool, rows: &Value) -> Value {
    let mut event = json!({"id": id, "channel": "public.orders", "op": op,
        "tx": {"id": 1, "lsn": lsn, "seq": seq, "last": last}});
    for (name, value) in rows.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

#[test]
fn rebuilding_follows_and_judges() {
    let mut tables = Tables::new(&orders());
    let insert = json!({"after": {"id": 1, "note": "long"}});
    let update = json!({"before": {"id": 1}, "after": {"id": 2}, "unchanged": ["note"]});
    tables.apply(&event(10, "insert", "0/1", 0, false, &insert)).unwrap();
    tables.apply(&event(12, "update", "0/1", 1, true, &update)).unwrap();
    assert_eq!(tables.rows("public.orders"), [json!({"id": 2, "note": "long"})]);

    let again = event(13, "update", "0/1", 1, true, &update);
    assert!(tables.apply(&again).unwrap_err().contains("second time"));
    let behind = event(13, "insert", "0/2", 0, true, &insert);
    assert!(tables.apply(&behind).unwrap_err().contains("The number after 13"));
    let torn = event(14, "insert", "0/3", 1, true, &insert);
    assert!(tables.apply(&torn).unwrap_err().contains("Index 1 where 0"));
    let double = event(15, "insert", "0/4", 0, true, &json!({"after": {"id": 2, "note": "x"}}));
    assert!(tables.apply(&double).unwrap_err().contains("there already"));
    let unknown = event(16, "delete", "0/5", 0, true, &json!({"before": {"id": 7}}));
    assert!(tables.apply(&unknown).unwrap_err().contains("No row [7]"));
    tables.apply(&event(17, "delete", "0/6", 0, true, &json!({"key": {"id": 2}}))).unwrap();
    assert_eq!(tables.rows("public.orders"), [] as [Value; 0]);
}

/// A record of the topic of a table, about its row 1.
fn record_of(table: &str, id: u64, part: u64, value: Option<Value>) -> Record {
    Record {
        topic: format!("p.public.{table}"),
        partition: 0,
        offset: 0,
        key: json!({"id": 1}),
        value,
        headers: [("rowcast.id", id), ("rowcast.part", part)].map(|(k, v)| (k.into(), v.to_string())).into(),
        timestamp: None,
    }
}

/// A topic may be read later than another one whose records are newer.
#[test]
fn debezium_records_may_lack_rows_up_to_an_event() {
    let mut tables = DebeziumTables::new("p", &orders()).filling();
    let delete =
        |id| record_of("orders", id, 0, Some(json!({"op": "d", "before": {"id": 1}, "after": null})));
    tables.apply(&record_of("marker", 3, 0, Some(json!({"op": "c", "after": {"id": 1}})))).unwrap();
    tables.filled_behind("public.marker");
    tables.apply(&delete(2)).unwrap();
    assert!(tables.apply(&delete(4)).unwrap_err().contains("No row [1]"));
}

#[test]
fn debezium_records_count_once() {
    let record = |id, part, value| record_of("orders", id, part, value);
    let mut tables = DebeziumTables::new("p", &orders());
    let create = record(1, 0, Some(json!({"op": "c", "before": null, "after": {"id": 1, "note": "a"}})));
    let delete = record(2, 0, Some(json!({"op": "d", "before": {"id": 1}, "after": null})));
    for record in [&create, &delete, &record(2, 1, None), &create, &delete] {
        tables.apply(record).unwrap();
    }
    assert_eq!((tables.count, tables.repeated), (3, 2));
    tables.compare(&[("public.orders".into(), vec![])]).unwrap();
    tables.apply(&record(3, 0, create.value.clone())).unwrap();
    let error = tables.compare(&[("public.orders".into(), vec![])]).unwrap_err();
    assert!(error.contains(r#"only rebuilt:"#) && error.contains(r#"{"id":1,"note":"a"}"#), "{error}");
}

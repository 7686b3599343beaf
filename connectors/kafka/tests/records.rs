//! What lies on the topics.

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rowcast_engine::event::{Marks, Op};
use rowcast_engine::schema::Type;
use serde_json::json;

use crate::support::{Fixture, Kafka, KafkaReader, Record, SOON, config, identity, read, table, tuple};

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_records_as_debezium_writes_them() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("rows");
    let mut fixture = Fixture::new().await;
    let orders = fixture.register(table("orders", true));
    let row = |id, v| tuple(b'N', [Some(id), Some(v)]);
    let moved = [tuple(b'K', [Some("1"), None]), row("2", "c")].concat();
    let delete = tuple(b'K', [Some("2"), None]);
    fixture
        .transaction(&[
            (&orders, Op::Insert, row("1", "a")),
            (&orders, Op::Update, row("1", "b")),
            (&orders, Op::Update, moved),
            (&orders, Op::Delete, delete),
        ])
        .await;
    let door = fixture.deliver(config(kafka, &prefix));
    let mut reader = KafkaReader::start(kafka, &prefix);
    let records = read(&mut reader, 7).await;
    door.wait_delivered().await;

    let first = identity(&records[0]).0;
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            let (id, part) = identity(record);
            let op = record.value.as_ref().map(|value| value["op"].as_str().unwrap().to_owned());
            (id - first, part, record.key["id"].as_i64().unwrap(), op)
        })
        .collect();
    let op = |name: &str| Some(name.to_owned());
    let expected = [
        (0, 0, 1, op("c")),
        (1, 0, 1, op("u")),
        (2, 0, 1, op("d")),
        (2, 1, 1, None),
        (2, 2, 2, op("c")),
        (3, 0, 2, op("d")),
        (3, 1, 2, None),
    ];
    assert_eq!(told, expected);
    assert!(records.iter().all(|record| record.topic == format!("{prefix}.public.orders")));
    assert_eq!(records[2].headers["__debezium.newkey"], r#"{"id":2}"#);
    assert_eq!(records[4].headers["__debezium.oldkey"], r#"{"id":1}"#);
    let source = &records[0].value.as_ref().unwrap()["source"];
    assert_eq!((&source["name"], &source["table"]), (&json!(prefix), &json!("orders")));
    assert_eq!(door.door().delivered, 4);
    door.stop().await.unwrap();
}

/// Debezium has no placeholder for a number: it is null there, and the header says that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_null_though_it_did_not_change_is_named_in_a_header() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("unchanged");
    let mut fixture = Fixture::new().await;
    let mut of_numbers = table("numbers", true);
    of_numbers.columns[1].ty = Type::base(1700, "numeric");
    let numbers = fixture.register(of_numbers);
    let unchanged = b"N\0\x02t\0\0\0\x011u".to_vec();
    let null = tuple(b'N', [Some("1"), None]);
    fixture.transaction(&[(&numbers, Op::Update, unchanged), (&numbers, Op::Update, null)]).await;
    let door = fixture.deliver(config(kafka, &prefix));
    let mut reader = KafkaReader::start(kafka, &prefix);
    let records = read(&mut reader, 2).await;
    door.wait_delivered().await;
    let told = records.iter().map(|record| {
        let value = record.value.as_ref().expect("no tombstone");
        (&value["after"], record.headers.get("rowcast.unchanged").map(String::as_str))
    });
    let row = json!({"id": 1, "v": null});
    assert_eq!(told.collect::<Vec<_>>(), [(&row, Some(r#"["v"]"#)), (&row, None)]);
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_snapshot_read_are_records_without_tombstones() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("snapshot");
    let mut fixture = Fixture::new().await;
    for (name, keyed) in [("keyed", true), ("keyless", false)] {
        let table = fixture.register(table(name, keyed));
        let row = |id| tuple(b'N', [Some(id), Some("x")]);
        let rows = [(Marks::FIRST, row("1")), (Marks::NONE, row("2")), (Marks::AD_HOC, row("3"))];
        fixture.snapshot(&table, &rows).await;
    }
    let door = fixture.deliver(config(kafka, &prefix));
    let mut reader = KafkaReader::start(kafka, &prefix);
    let mut records = read(&mut reader, 8).await;
    door.wait_delivered().await;
    records.sort_by_key(identity);
    let told = |records: &[Record]| -> Vec<_> {
        let told = records.iter().map(|record| {
            let value = record.value.as_ref().expect("no tombstone");
            let names: Vec<_> = record.headers.keys().cloned().collect();
            assert_eq!(names, ["rowcast.id", "rowcast.part", "rowcast.schema"]);
            json!([value["op"], record.key, value["source"]["snapshot"], value["source"]["txId"]])
        });
        told.collect()
    };
    let key = |id| json!({"id": id});
    let keyed = [
        json!(["r", key(1), "first", 741]),
        json!(["r", key(2), "true", 741]),
        json!(["r", key(3), "incremental", 741]),
    ];
    assert_eq!(told(&records[..3]), keyed);
    let keyless = ["first", "true", "incremental"].map(|word| json!(["r", null, word, 741]));
    assert_eq!(told(&records[4..7]), keyless);
    assert!(records[..4].iter().all(|record| record.topic == format!("{prefix}.public.keyed")));
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_events_have_topics_of_their_own() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("custom");
    let fixture = Fixture::new().await;
    let first = fixture.publish("orders.shipped", &json!({"id": 7})).await;
    let payloads: [(&str, &[u8]); 1] = [("audit", b"not json \"")];
    let second = fixture.journal.publish(&payloads, 0).await.unwrap();
    let door = fixture.deliver(config(kafka, &prefix));
    let mut reader = KafkaReader::start(kafka, &prefix);
    let mut records = read(&mut reader, 2).await;
    records.sort_by_key(identity);
    let [shipped, audit] = records.as_slice() else { panic!("two records") };
    assert_eq!(identity(shipped), (first, 0));
    assert_eq!(shipped.topic, format!("{prefix}.orders.shipped"));
    assert_eq!((&shipped.key, &shipped.value), (&json!(null), &Some(json!({"id": 7}))));
    assert_eq!(shipped.headers["rowcast.channel"], "orders.shipped");
    assert_eq!(identity(audit), (second, 0));
    assert_eq!(audit.value, Some(json!("not json \"")));
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_where_the_java_client_would_put_them() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("partitions");
    let mut fixture = Fixture::new().await;
    let keyed = fixture.register(table("keyed", true));
    let keyless = fixture.register(table("keyless", false));
    let texts: Vec<_> = (0..40).map(|id: i32| id.to_string()).collect();
    let rows: Vec<_> = texts
        .iter()
        .flat_map(|id| {
            let raw = tuple(b'N', [Some(id), Some("x")]);
            [(&*keyed, Op::Insert, raw.clone()), (&*keyless, Op::Insert, raw)]
        })
        .collect();
    fixture.transaction(&rows).await;
    let mut options = config(kafka, &prefix);
    options["partitions"] = json!(5);
    let door = fixture.deliver(options);
    let mut reader = KafkaReader::start(kafka, &prefix);
    let records = read(&mut reader, 80).await;
    let (keyed, keyless): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.topic.ends_with("keyed"));

    assert_eq!((keyed.len(), keyless.len()), (40, 40));
    assert!(keyless.iter().all(|record| record.partition == keyless[0].partition && record.key.is_null()));
    assert!(keyless.windows(2).all(|pair| identity(pair[0]) < identity(pair[1])), "in order");
    let java = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("partitioner", "murmur2_random")
        .create::<FutureProducer>()
        .unwrap();
    for record in &keyed {
        let key = record.key.to_string();
        let sent = java.send(FutureRecord::to(&record.topic).key(&key).payload("{}"), SOON).await.unwrap();
        assert_eq!(sent.partition, record.partition, "{key}");
    }
    let used: std::collections::BTreeSet<_> = keyed.iter().map(|record| record.partition).collect();
    assert_eq!(used.len(), 5);
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_behind_the_last_position_and_a_new_sink_may_begin_at_the_newest() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("restart");
    let fixture = Fixture::new().await;
    fixture.publish("c", &json!(1)).await;
    let mut options = config(kafka, &prefix);
    options["start"] = json!("latest");
    let door = fixture.deliver(options.clone());
    door.wait_state("running").await;
    fixture.publish("c", &json!(2)).await;
    door.wait_delivered().await;
    door.stop().await.unwrap();
    fixture.publish("c", &json!(3)).await;
    let door = fixture.deliver(options);
    door.wait_delivered().await;
    fixture.publish("c", &json!(4)).await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let records = read(&mut reader, 3).await;
    let values: Vec<_> = records.iter().map(|record| record.value.clone().unwrap()).collect();
    assert_eq!(values, [json!(2), json!(3), json!(4)]);
    assert_eq!(records[2].offset, 2, "nothing was sent twice");
    door.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn truncates_are_left_out_unless_asked_for() {
    let kafka = Kafka::shared().await;
    let prefix = kafka.prefix("truncate");
    let mut fixture = Fixture::new().await;
    let orders = fixture.register(table("orders", true));
    fixture.truncate(&orders).await;
    let door = fixture.deliver(config(kafka, &prefix));
    door.wait_delivered().await;
    door.stop().await.unwrap();
    let mut options = config(kafka, &prefix);
    options["debezium"] = json!({"skipped.operations": "none"});
    let door = fixture.deliver(options);
    fixture.truncate(&orders).await;
    let mut reader = KafkaReader::start(kafka, &prefix);
    let record = read(&mut reader, 1).await.remove(0);
    assert_eq!((identity(&record), record.offset), ((fixture.journal.newest(), 0), 0));
    assert_eq!((&record.key, &record.value.unwrap()["op"]), (&json!(null), &json!("t")));
    door.stop().await.unwrap();
}

//! A broker that its cluster has given up for a moment: its answers name no broker then, not even itself.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::{Kafka, KafkaReader, Postgres, Rowcast, SOON, own_servers, wait_for};

#[tokio::test]
async fn a_broker_that_was_given_up_is_found_again() {
    if !own_servers("given_up") {
        return;
    }
    let (postgres, (kafka, proxy)) = tokio::join!(Postgres::start(&[]), broker());
    let client = postgres.client("postgres").await;
    client.batch_execute("create table t (id bigserial primary key, v text)").await.unwrap();
    let rowcast = Rowcast::on(&postgres.url("postgres")).kafka(&kafka, "given-up").start().await;
    let insert = "insert into t (v) select repeat('x', 500) from generate_series(1, 1000)";
    // The client need not have asked at the wrong moment at once.
    for _ in 0..2 {
        client.batch_execute(insert).await.unwrap();
        delivered(&rowcast).await;
        proxy.stall();
        wait_for("the cluster to give the broker up", SOON, async || {
            let named = brokers(&kafka).await;
            if named == 0 { Ok(()) } else { Err(format!("{named} brokers")) }
        })
        .await;
        client.batch_execute(insert).await.unwrap();
        wait_for("the sink to notice", SOON, async || {
            let sink = rowcast.status().await["doors"]["kafka"].clone();
            if sink["state"] == "retrying" { Ok(()) } else { Err(sink.to_string()) }
        })
        .await;
        proxy.mend();
        delivered(&rowcast).await;
    }
    let lost = rowcast.metric("rowcast_kafka_clients_lost_total{sink=\"kafka\"}").await;
    assert!(lost.is_some_and(|lost| lost >= 1.0), "it is not what this is about: {lost:?}");
    for words in ["Kafka's client has lost its brokers", "what was on its way is sent again"] {
        assert!(rowcast.log().contains(words), "{}", rowcast.log());
    }

    let mut reader = KafkaReader::start(&kafka, "given-up");
    let mut newest = 0;
    while newest < 4000 {
        let record = reader.next(SOON).await.unwrap_or_else(|| panic!("row {newest} is the last one"));
        let id = record.key["id"].as_i64().unwrap();
        assert!(id <= newest + 1, "row {id} comes behind {newest}");
        newest = newest.max(id);
    }
}

/// One whose cluster gives it up when nothing has come through the proxy for some seconds, and has it back when
/// something does. Clients do not come that way.
async fn broker() -> (Kafka, Proxy) {
    let controller = free_port();
    let proxy = Proxy::start(([127, 0, 0, 1], controller).into()).await;
    let hasty = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500";
    (Kafka::start_at(controller, proxy.address().port(), hasty).await, proxy)
}

/// How many of them Kafka names.
async fn brokers(kafka: &Kafka) -> usize {
    let asked = kafka.brokers().to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", asked).create().unwrap();
        match consumer.fetch_metadata(None, SOON) {
            Ok(metadata) => metadata.brokers().len(),
            // What an answer without any is called.
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::Partial)) => 0,
            Err(error) => panic!("{error}"),
        }
    });
    answer.await.unwrap()
}

async fn delivered(rowcast: &Rowcast) {
    wait_for("Kafka to have everything", SOON * 3, async || {
        let status = rowcast.status().await;
        let sink = &status["doors"]["kafka"];
        if sink["state"] == "running" && sink["position"] == status["journal"]["newest"] {
            Ok(())
        } else {
            Err(sink.to_string())
        }
    })
    .await;
}

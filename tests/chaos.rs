//! The same as in `flow`, while everything is killed and restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::task::JoinHandle;

use crate::flow::Followers;
use crate::support::postgres::{Stop, connect};
use crate::support::{Kafka, Postgres, Rowcast, SOON, own_servers, random, wait_for};
use crate::workload::{Workload, alone, create};

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillRowcast,
    RestartPostgres(Stop),
    RestartKafka,
}

/// In an order of chance.
fn blows(rng: &mut StdRng) -> Vec<Blow> {
    let mut blows = vec![Blow::KillRowcast; 10];
    blows.extend([
        Blow::RestartPostgres(Stop::Fast),
        Blow::RestartPostgres(Stop::Immediate),
        Blow::RestartKafka,
    ]);
    blows.shuffle(rng);
    blows
}

/// An application that goes on whatever happens, connecting again when the database was away.
fn keep_writing(
    url: String,
    mut workload: Workload,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> JoinHandle<Workload> {
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let Ok(client) = connect(&url).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = workload.step(&client).await {
                    assert!(is_farewell(&error, client.is_closed()), "{error:?}");
                    break;
                }
                done.fetch_add(1, Ordering::Relaxed);
                // Room for the others on a machine of two cores.
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        workload
    })
}

/// Whether an error comes from the server's end and not from the statement.
fn is_farewell(error: &tokio_postgres::Error, closed: bool) -> bool {
    closed || error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57P"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_whatever_dies() {
    if !own_servers("chaos") {
        return;
    }
    let _alone = alone().await;
    let mut rng = random("chaos");
    let (mut postgres, mut kafka) = tokio::join!(Postgres::start(&[]), Kafka::start());
    let database = postgres.create_database("chaos").await;
    let tables = create(&database).await;
    let mut rowcast = Rowcast::on(database.url())
        .kafka(&kafka, "chaos")
        .set("kafka.debezium.skipped.operations=none")
        .start()
        .await;
    let followers = Followers::start(&rowcast, &kafka, "chaos", &tables);
    let (stop, done) = (Arc::default(), Arc::default());
    let blows = blows(&mut rng);
    let workload = Workload::new(rng.clone());
    let writer = keep_writing(database.url().into(), workload, Arc::clone(&stop), Arc::clone(&done));

    for blow in blows {
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..2_000))).await;
        println!("{blow:?} after {} transactions", done.load(Ordering::Relaxed));
        match blow {
            Blow::KillRowcast => {
                let before = followers.connections();
                rowcast.kill9().await;
                rowcast.resume().await;
                // One that has still much to read of before would not notice two kills.
                wait_for("the readers to come back", SOON, async || {
                    let now = followers.connections();
                    let back = now.iter().zip(&before).all(|(now, before)| now > before);
                    if back { Ok(()) } else { Err(format!("{before:?}, then {now:?}")) }
                })
                .await;
            }
            Blow::RestartPostgres(how) => {
                postgres.stop(how).await;
                postgres.resume().await;
            }
            Blow::RestartKafka => kafka.restart().await,
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut workload = writer.await.expect("the application goes on");
    let last = workload.finish(&database.client().await).await.unwrap();
    followers.wait_equal(&database, last).await;

    let connections = followers.connections();
    println!(
        "{} transactions, {} events, {connections:?} connections; Kafka got {} records again",
        done.load(Ordering::Relaxed),
        followers.events(),
        followers.repeated()
    );
    assert!(
        connections.iter().all(|count| *count > 10),
        "Readers came back after each kill: {connections:?}"
    );
    let status = rowcast.status().await;
    assert_eq!(status["healthy"], true, "{status}");
}

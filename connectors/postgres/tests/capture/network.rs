//! A network that cuts, stalls and half-closes: survived, and told for as long as it lasts.

use std::time::{Duration, Instant};

use super::harness::{Capture, Directory, run, sql, until};
use super::liveness::through_a_proxy;
use crate::support::proxy::Proxy;

/// What the network does, and what has to be told of it, one after the other.
type Case = (&'static str, fn(&Proxy), &'static [&'static str]);

const CASES: &[Case] = &[
    ("cut", Proxy::cut, &["The source is reconnecting", "broke"]),
    ("stalled", Proxy::stall, &["silent for", "Nothing came from the server for 8 s", "no login within 2 s"]),
    ("stalled to the server", Proxy::stall_to_server, &["closed", "no login within 2 s"]),
    (
        "stalled to the client",
        Proxy::stall_to_client,
        &["silent for", "Nothing came from the server for 8 s", "no login within 2 s"],
    ),
    ("half closed", Proxy::half_close, &["closed the"]),
    ("abandoned", Proxy::abandon, &["The source is reconnecting"]),
];

#[tokio::test]
async fn whatever_the_network_does_is_told_and_survived() {
    let (server, proxy, config) = through_a_proxy("wal_sender_timeout = 4s").await;
    let (directory, client) = (Directory::new(), sql(&server).await);
    let mut capture = Capture::start(config, directory.path()).await;
    for (number, (name, break_it, words)) in CASES.iter().enumerate() {
        let (row, before) = (number * 2, capture.report().source.reconnects);
        run(&client, &format!("insert into t values ({row})")).await;
        capture.wait(row + 1).await;
        let start = Instant::now();
        break_it(&proxy);
        run(&client, &format!("insert into t values ({})", row + 1)).await;
        for words in *words {
            until(&format!("{name}: {words}"), async || {
                let report = capture.report();
                !report.healthy && report.reasons.iter().any(|reason| reason.contains(words))
            })
            .await;
            println!("{name}: {words:?} after {:?}", start.elapsed());
        }
        proxy.mend();
        capture.wait(row + 2).await;
        capture.streams().await;
        until("health", async || capture.report().healthy).await;
        println!("{name}: well again after {:?}", start.elapsed());
        assert!(capture.report().source.reconnects > before, "{name}");
    }
    let rows: Vec<String> = capture.events().into_iter().map(|event| event.new).collect();
    let expected: Vec<String> = (0..CASES.len() * 2).map(|row| format!("{row},NULL")).collect();
    assert_eq!(rows, expected);
    capture.stop().await;
}

/// What breaks the connection comes again with each new one. Connecting is not progress.
#[tokio::test]
async fn a_poisonous_message_makes_no_hot_loop() {
    const LASTS: Duration = Duration::from_secs(12);
    let (server, proxy, config) = through_a_proxy("").await;
    let (directory, client) = (Directory::new(), sql(&server).await);
    let capture = Capture::start(config, directory.path()).await;
    run(&client, "insert into t values (1, 'wholesome')").await;
    capture.wait(1).await;
    proxy.poison(b"poisonous");
    let before = proxy.connections();
    run(&client, "insert into t values (2, 'poisonous')").await;
    tokio::time::sleep(LASTS).await;
    let (lost, connections) = (capture.report().source.reconnects, proxy.connections() - before);
    println!("{lost} connections lost in {LASTS:?}, {connections} sessions in all");
    // Waits of up to 0.5, 1, 2, 4, 8, 16 seconds, each drawn from zero on.
    assert!((3..=14).contains(&lost), "{lost} connections lost in {LASTS:?}");
    assert!(!capture.report().healthy);

    proxy.mend();
    capture.wait(2).await;
    // That was progress: the next wait is short again.
    until("the confirmation", async || capture.report().source.state == "streaming").await;
    let start = Instant::now();
    proxy.cut();
    until("the notice", async || capture.report().source.state == "reconnecting").await;
    proxy.mend();
    until("the stream", async || capture.report().source.state == "streaming").await;
    println!("Streams again after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    capture.stop().await;
}

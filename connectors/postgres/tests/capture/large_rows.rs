//! Rows that are larger than all that may wait of a transaction.

use rowcast_postgres::{Config, Streaming};

use super::harness::{Capture, Directory, config, run, sql};
use crate::support::Server;

/// The last one of its transaction, the only one, between small ones, and twice in one event.
const LARGE: &str = "
    insert into t values (1, repeat('a', 40000000));
    begin; insert into t values (2, 'small'); insert into t values (3, repeat('b', 40000000)); commit;
    begin; insert into t values (4, repeat('c', 40000000)), (5, repeat('d', 40000000)); insert into t values (6, 'small'); commit;
    update t set v = repeat('e', 20000000) where id = 4;
    update t set v = 'small' where id = 5;
    insert into t values (7, 'small')";

async fn arrive(streaming: Streaming) {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int, v text); alter table t replica identity full").await;
    let config = Config { streaming, ..config(&server) };
    let capture = Capture::start(config, directory.path()).await;
    for part in LARGE.split(';').filter(|part| !part.trim().is_empty()) {
        run(&client, part).await;
    }
    let told = capture.wait(9).await;
    let seen: Vec<_> = told.iter().map(|event| (event.old.len(), event.new.len())).collect();
    let large = "1,".len() + 40_000_000;
    let small = "2,small".len();
    let expected = [
        (0, large),
        (0, small),
        (0, large),
        (0, large),
        (0, large),
        (0, small),
        ("O ".len() + large, large - 20_000_000),
        ("O ".len() + large, small),
        (0, small),
    ];
    assert_eq!(seen, expected);
    capture.stop().await;
}

#[tokio::test]
async fn they_arrive_one_by_one_and_among_others() {
    arrive(Streaming::Off).await;
}

#[tokio::test]
async fn they_arrive_when_they_are_sent_before_they_commit() {
    arrive(Streaming::On).await;
}

//! A replica identity that was lent, and a table that is in use when it could be given back.

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

/// Everybody who uses the table waits behind each try, so the second one comes later than the next look.
#[tokio::test]
async fn a_table_in_use_is_tried_rarer() {
    let (server, directory) = (Server::start("log_line_prefix = '%n '"), Directory::new());
    let (client, other, reader) = (sql(&server).await, sql(&server).await, sql(&server).await);
    run(&client, "create table t (id int primary key, v int); insert into t values (1, 1)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "alter table t drop constraint t_pkey; update t set v = 2").await;
    run(&reader, "begin; select * from t").await;
    run(&other, "commit").await;
    let tries = || -> Vec<f64> {
        let log = server.log();
        let vain = log.lines().filter(|line| line.contains("STATEMENT:  select rowcast.repay("));
        vain.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    until("two tries", async || tries().len() >= 2).await;
    // Five seconds of pause, and one of waiting.
    let between = tries()[1] - tries()[0];
    assert!(between >= 5.9, "{between}");
    let identity = "select relreplident::text from pg_class where relname = 't'";
    assert_eq!(value(&client, identity).await, "f");
    // Who asks for it has seen to it that it is free, perhaps.
    run(&reader, "commit").await;
    capture.status.look_again();
    until("it to be given back", async || value(&client, identity).await == "d").await;
    capture.stop().await;
}

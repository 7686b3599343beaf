//! What is left out of the stream is left out of snapshots.

use rowcast_postgres::Config;

use super::*;

/// Somebody else publishes everything, and partitions are tables of their own.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_tables_that_are_not_wanted_are_not_read() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table r (id int primary key) partition by range (id);
         create table r_1 partition of r for values from (0) to (10);
         create table r_old partition of r for values from (10) to (20); insert into r values (1), (11);
         create table other (id int primary key); insert into other values (1);
         create publication rowcast for all tables",
    )
    .await;
    let (tables, exclude) = (vec!["public.r".to_owned()], vec!["public.r_old".to_owned()]);
    let config = Config { via_partition_root: false, tables, exclude, ..initial(&server) };
    let capture = Capture::start(config, directory.path()).await;
    read_whole(&capture).await;
    run(&client, "insert into r values (2), (12); insert into other values (2)").await;
    caught_up(&client, &capture).await;
    let briefs: Vec<String> = capture.events().iter().map(Seen::brief).collect();
    assert_eq!(briefs, ["read public.r_1 1", "insert public.r_1 2"]);
    let report = capture.report();
    assert_eq!(report.source.tables.keys().collect::<Vec<_>>(), ["public.r_1"]);
    assert_eq!(capture.status.read_tables().keys().collect::<Vec<_>>(), ["public.r_1"]);
    capture.stop().await;
}

//! What version 14 does not see of partitions, where the publication is not ours: `check` and the log say what to run, and
//! that changes nothing of the publication.

use rowcast_postgres::{Config, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, value, version};
use super::partitions::ALONE;
use super::said::logged;
use crate::support::Server;

const SLOT: &str = "select pg_create_logical_replication_slot('rowcast', 'pgoutput')";

const WORDS: &str = "does not see that a partition is attached";

/// What `check` has behind ATTACH.
async fn said(config: &Config) -> Option<String> {
    let found = check(config).await.unwrap().into_iter().find(|found| found.name == "partitions")?;
    found.remedy.and_then(|remedy| remedy.split_once("transaction: ").map(|(_, sql)| sql.to_owned()))
}

async fn shows_roots(client: &Client) -> String {
    value(client, "select pubviaroot from pg_publication where pubname = 'rowcast'").await
}

/// Whoever made the publication chose how it shows partitions, whatever the configuration says.
#[tokio::test]
async fn a_publication_keeps_its_option() {
    for manage in [false, true] {
        let (server, directory) = (Server::start(""), Directory::new());
        let client = sql(&server).await;
        run(&client, &format!("{ALONE}; create publication rowcast for table p")).await;
        client.batch_execute(SLOT).await.unwrap();
        let blind = version(&client).await < 150_000;
        let config = Config { manage, tables: vec!["public.p".to_owned()], ..config(&server) };
        let capture = Capture::start(config.clone(), directory.path()).await;
        let sql = said(&config).await;
        assert_eq!((sql.is_some(), logged(directory.path(), WORDS).len()), (blind, usize::from(blind)));
        run(&client, "insert into p_late values ('no', 101); insert into p values (1, 'one')").await;
        assert_eq!(capture.briefs(1).await, ["insert public.p_first 1,one"]);
        let late = "alter table p attach partition p_late for values from (100) to (200)";
        run(&client, &format!("begin; {late}; {} commit", sql.unwrap_or_default())).await;
        run(&client, "insert into p values (102, 'two')").await;
        assert_eq!(capture.briefs(2).await[1], "insert public.p_late two,102");
        assert_eq!(shows_roots(&client).await, "false");
        capture.stop().await;
    }
}

#[tokio::test]
async fn a_publication_for_all_tables_has_trees_too() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, ALONE).await;
    let blind = version(&client).await < 150_000;
    let config = Config { manage: false, ..config(&server) };
    // Each leaf is told by its own name, whatever it is part of.
    run(&client, "create publication rowcast for all tables").await;
    assert_eq!(said(&config).await, None);
    run(&client, "alter publication rowcast set (publish_via_partition_root = true)").await;
    client.batch_execute(SLOT).await.unwrap();
    let capture = Capture::start(config.clone(), directory.path()).await;
    let sql = said(&config).await;
    assert_eq!((sql.is_some(), logged(directory.path(), WORDS).len()), (blind, usize::from(blind)));
    run(&client, "insert into p_late values ('alone', 101)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.p_late alone,101"]);
    let late = "alter table p attach partition p_late for values from (100) to (200)";
    run(&client, &format!("begin; {late}; {} commit", sql.unwrap_or_default())).await;
    run(&client, "insert into p values (102, 'two')").await;
    assert_eq!(capture.briefs(2).await[1], "insert public.p 102,two");
    assert_eq!(shows_roots(&client).await, "true");
    capture.stop().await;
}

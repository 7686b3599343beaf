//! A partition that `source.exclude` names is told as part of its root, unless partitions are told by their own names.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, Requirement, check};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::said::logged;
use crate::support::Server;

const TREE: &str = "
    create table ev (kind int, v text, primary key (kind, v)) partition by list (kind);
    create table ev_open partition of ev for values in (1)";

const SECRET: &str = "create table ev_secret partition of ev for values in (2)";

const ROWS: &str = "insert into ev values (2, 'secret'); insert into ev values (1, 'open')";

fn leaving_out(server: &Server) -> Config {
    Config { exclude: vec!["public.*_secret".to_owned()], ..config(server) }
}

async fn of_secret(config: &Config) -> Option<Requirement> {
    check(config).await.unwrap().into_iter().find(|found| found.name == "table public.ev_secret")
}

#[tokio::test]
async fn a_first_start_is_refused() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, &format!("{TREE}; {SECRET}")).await;
    let config = leaving_out(&server);
    let told = of_secret(&config).await.unwrap();
    assert!(!told.ok && told.found.contains("its rows are told as those of public.ev"), "{told:?}");
    let error = Capture::launch(config.clone(), directory.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("does not leave out public.ev_secret"), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("via_partition_root = false")), "{error:?}");
    let made = "select concat_ws(' ', to_regnamespace('rowcast'), (select count(*) from pg_publication))";
    assert_eq!(value(&client, made).await, "0", "before anything is made");

    // Each of the remedies leaves it out.
    let by_leaf = Config { via_partition_root: false, ..config.clone() };
    assert_eq!(of_secret(&by_leaf).await, None);
    let capture = Capture::start(by_leaf, directory.path()).await;
    run(&client, ROWS).await;
    assert_eq!(capture.briefs(1).await, ["insert public.ev_open 1,open"]);
    assert!(capture.report().source.exposed.is_empty());
    capture.stop().await;
    let (without, other) = (Directory::new(), "other".to_owned());
    let exclude = vec!["public.ev".to_owned(), "public.*_secret".to_owned()];
    let capture = Capture::start(Config { slot: other, exclude, ..config }, without.path()).await;
    run(&client, "insert into ev values (2, 'more'); insert into ev values (1, 'more')").await;
    assert_eq!(capture.briefs(1).await, ["insert public.ev_open 1,more"]);
    capture.stop().await;
}

/// What is captured does not stop being so since somebody attaches one.
#[tokio::test]
async fn one_that_comes_later_is_told() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, TREE).await;
    let capture = Capture::start(leaving_out(&server), directory.path()).await;
    assert!(capture.report().source.exposed.is_empty());
    run(&client, &format!("{SECRET}; {ROWS}")).await;
    assert_eq!(capture.briefs(2).await, ["insert public.ev 2,secret", "insert public.ev 1,open"]);
    capture.status.look_again();
    until("the status", async || {
        let report = capture.report();
        report.source.exposed.keys().eq(["public.ev_secret"])
            && report.reasons.iter().any(|reason| {
                reason.contains("public.ev_secret is to be left out, and its rows are captured")
                    && reason.contains("via_partition_root = false")
            })
    })
    .await;
    let words = "that source.exclude names are captured all the same";
    assert_eq!(logged(directory.path(), words).len(), 0, "of the first start");
    capture.stop().await;
    assert!(of_secret(&leaving_out(&server)).await.is_some_and(|told| !told.ok));
    let capture = Capture::start(leaving_out(&server), directory.path()).await;
    assert_eq!(logged(directory.path(), words).len(), 1, "of this one");
    assert_eq!(capture.report().source.exposed.len(), 1);
    run(&client, "alter table ev detach partition ev_secret").await;
    capture.status.look_again();
    until("it to be well", async || capture.report().source.exposed.is_empty()).await;
    capture.stop().await;
}

/// Somebody else's publication shows the tree, and the slot is there: what is told then is said as well.
#[tokio::test]
async fn a_publication_of_somebody_elses_is_looked_at() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, &format!("{TREE}; {SECRET}; create table t (id int primary key)")).await;
    run(&client, "create publication rowcast for table ev, t").await;
    client.batch_execute("select pg_create_logical_replication_slot('rowcast', 'pgoutput')").await.unwrap();
    let config = Config { manage: false, ..leaving_out(&server) };
    assert_eq!(of_secret(&config).await, None, "it shows each by its name");
    run(&client, "alter publication rowcast set (publish_via_partition_root = true)").await;
    let told = of_secret(&config).await.unwrap();
    assert!(told.remedy.is_some_and(|remedy| remedy.contains("of the publication")), "{}", told.found);
    let capture = Capture::start(config, directory.path()).await;
    until("the status", async || capture.report().source.exposed.len() == 1).await;
    capture.stop().await;
}

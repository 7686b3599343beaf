//! Columns and rows that somebody has left out of a publication of ours stay out, whatever becomes of the membership.

use rowcast_postgres::{Config, check};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::listed;
use crate::support::Server;

const TABLES: &str = "
    create table cust (id int primary key, region text, secret text);
    create table part (id int, region text, v text, primary key (id, region));
    create table open (id int primary key, region text)";

const CHOSEN: &str = "
    alter publication rowcast drop table cust, part;
    alter publication rowcast add table only cust (id, region), only part where (region = 'eu')";

/// What is remembered.
const KNOWN: &str =
    "select string_agg(relation::regclass::text, ' ' order by relation::regclass::text) from rowcast.chosen";

/// Looks until these are known to be not captured; gives why.
async fn left_out(capture: &Capture, tables: &[&str]) -> Vec<String> {
    until("the look", async || {
        capture.status.look_again();
        capture.report().source.uncaptured.keys().eq(tables)
    })
    .await;
    capture.report().source.uncaptured.into_values().collect()
}

#[tokio::test]
async fn a_table_that_lost_its_column_list_waits_for_a_person() {
    let Some(server) = Server::start_since(15, "") else { return };
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, TABLES).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, CHOSEN).await;
    until("it to be seen", async || {
        capture.status.look_again();
        value(&client, KNOWN).await == "cust part"
    })
    .await;
    // What is dropped takes both out. One without a choice comes back by itself.
    run(
        &client,
        "alter table cust drop column region cascade; alter table part drop column region cascade;
         alter publication rowcast drop table open; insert into cust values (1, 'hidden')",
    )
    .await;
    let why = left_out(&capture, &["public.cust", "public.part"]).await;
    let put_back =
        "ALTER PUBLICATION \"rowcast\" ADD TABLE ONLY \"public\".\"cust\" (\"id\");".replace("\"id\"", "id");
    assert!(why[0].contains(&put_back), "{why:?}");
    assert!(why[1].contains("\"rowcast_inserts\" ADD TABLE ONLY \"public\".\"part\" WHERE (…);"), "{why:?}");
    until("the third", async || listed(&client, "rowcast").await == "open").await;
    assert!(!capture.report().healthy);
    let checked = check(&config(&server)).await.unwrap();
    let cust: Vec<_> = checked.iter().filter(|line| line.name == "table public.cust").collect();
    assert!(
        cust.len() == 1 && !cust[0].ok && cust[0].remedy.as_ref().unwrap().contains(&put_back),
        "{cust:?}"
    );
    // A start does not, either, nor does one that has left the table out for a while.
    capture.stop().await;
    let without = Config { exclude: vec!["public.cust".to_owned()], ..config(&server) };
    Capture::start(without, directory.path()).await.stop().await;
    let capture = Capture::start(config(&server), directory.path()).await;
    assert!(capture.report().source.uncaptured.keys().eq(["public.cust", "public.part"]));
    assert_eq!(
        (listed(&client, "rowcast").await, value(&client, KNOWN).await),
        ("open".into(), "cust part".into())
    );

    // By a person, with a list and without a filter.
    run(&client, &format!("{put_back} alter publication rowcast_inserts add table only part")).await;
    left_out(&capture, &[]).await;
    run(&client, "insert into cust values (2, 'hidden'); insert into part values (3, 'all')").await;
    until("what is written", async || {
        let briefs: Vec<String> = capture.events().iter().map(|event| event.brief()).collect();
        ["insert public.cust 2", "insert public.part 3,all"]
            .iter()
            .all(|brief| briefs.iter().any(|b| b == brief))
    })
    .await;
    assert!(capture.events().iter().all(|event| !event.columns.contains("secret")));
    until("it to be seen", async || {
        capture.status.look_again();
        value(&client, KNOWN).await == "cust"
    })
    .await;
    // Of a table that is gone nothing is kept.
    run(&client, "drop table cust").await;
    until("it to be seen", async || {
        capture.status.look_again();
        value(&client, KNOWN).await == "NULL"
    })
    .await;
    capture.stop().await;
}

/// A table that is left out by the configuration leaves its publication, and its list with it.
#[tokio::test]
async fn a_table_that_was_not_wanted_for_a_while_waits_too() {
    let Some(server) = Server::start_since(15, "") else { return };
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, TABLES).await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    run(&client, CHOSEN).await;
    let without = Config { exclude: vec!["public.cust".to_owned()], ..config(&server) };
    Capture::start(without, directory.path()).await.stop().await;
    assert_eq!(listed(&client, "rowcast").await, "open part");
    let capture = Capture::start(config(&server), directory.path()).await;
    assert!(capture.report().source.uncaptured["public.cust"].contains("(id, region)"));
    assert_eq!(listed(&client, "rowcast").await, "open part");
    capture.stop().await;
}

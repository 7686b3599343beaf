//! A role with every setting turned against us captures what any other does.

use rowcast_postgres::Config;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;
use crate::wire::hostile::{VALUES, make};

#[tokio::test]
async fn the_same_rows_in_the_same_words() {
    let server = Server::start("");
    make(&server).await;
    let client = sql(&server).await;
    // Its timeout of the role is honoured, where the server's own is a minute.
    let names: Vec<String> = (1..=19).map(|number| format!("c{number}")).collect();
    run(
        &client,
        &format!(
            "create table t as select x.*, 1 as id from (select {VALUES}) x({}); truncate t; \
             alter table t add primary key (id)",
            names.join(", ")
        ),
    )
    .await;
    let (plain, hostile) = (Directory::new(), Directory::new());
    let slot = |slot: &str, url: String| Config { slot: slot.to_owned(), url, ..config(&server) };
    let plain = Capture::start(slot("plain", server.admin()), plain.path()).await;
    let url = server.admin().replace("user=postgres", "user=hostile options='-c bytea_output=escape'");
    let hostile = Capture::start(slot("hostile", url), hostile.path()).await;

    run(
        &client,
        &format!("insert into t select {VALUES}, 1; update t set c17 = 'ö' where id = 1; delete from t"),
    )
    .await;
    // Found by the one that looks, whatever it is not allowed to wait for.
    run(&client, "create table later (id int primary key)").await;
    for capture in [&plain, &hostile] {
        until("the new table", async || capture.report().source.tables.contains_key("public.later")).await;
    }
    let rows = |capture: &Capture| -> Vec<String> {
        let events = capture.events();
        let briefs = events.iter().map(|event| event.brief());
        briefs.filter(|brief| brief.contains("public.t ")).collect()
    };
    until("the rows", async || rows(&plain).len() == 3 && rows(&hostile).len() == 3).await;
    assert_eq!(rows(&plain), rows(&hostile));
    assert!(rows(&hostile)[0].contains("2020-03-01 12:00:00+00,2020-03-01 12:00:00,2020-03-01"));
    // Not pinned, and not needed: the role's own patience with us is the one that counts.
    let told = "select bool_and(reply_time > now() - interval '4 s') from pg_stat_replication where usename = 'hostile'";
    assert_eq!(value(&client, told).await, "true");
    assert_eq!((hostile.report().source.reconnects, plain.report().source.reconnects), (0, 0));
    plain.stop().await;
    hostile.stop().await;
}

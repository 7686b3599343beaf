//! A table of another role's, which a superuser has put into the publication: rowcast may take it out, and not put it into
//! the other one.

use rowcast_postgres::check;

use super::harness::{Capture, Directory, run, sql, until, value};
use super::trigger::{listed, plain};
use crate::support::Server;

#[tokio::test]
async fn a_table_of_somebody_elses_that_loses_its_key_stays_writable() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    let make = |name: &str| {
        format!(
            "create table {name} (id int primary key, v int); insert into {name} values (1, 1);
             alter publication rowcast add table only {name}"
        )
    };
    run(&client, &make("orders")).await;
    run(&client, "update orders set v = 2").await;
    assert_eq!(capture.briefs(1).await, ["update public.orders 1,2"]);
    capture.status.look_again();
    until("the board", async || capture.report().source.tables.len() == 1).await;

    // Found by the next look.
    run(&client, "alter table orders drop constraint orders_pkey").await;
    capture.status.look_again();
    until("it to be written", async || client.batch_execute("update public.orders set v = 3").await.is_ok())
        .await;
    until("it to be told", async || {
        let report = capture.report();
        report.source.uncaptured.keys().eq(["public.orders"])
            && report.reasons[0].contains("GRANT postgres TO plain")
    })
    .await;

    // Seen by the trigger, which has no more rights.
    let found = check(&config).await.unwrap();
    let trigger = found.iter().find(|found| found.name == "event trigger").unwrap();
    let remedy = trigger.remedy.as_deref().unwrap();
    run(&client, remedy.get(remedy.find("CREATE EVENT").unwrap()..).unwrap()).await;
    run(&client, &make("items")).await;
    let lost = "begin; alter table items drop constraint items_pkey; update items set v = 2; commit; update items set v = 3";
    run(&client, lost).await;
    let members = (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await);
    assert_eq!(members, ("NULL".to_owned(), "NULL".to_owned()));
    capture.status.look_again();
    let both = ["public.items", "public.orders"];
    until("both to be told", async || capture.report().source.uncaptured.keys().eq(both)).await;

    // What does not fail stays as it is.
    run(&client, &make("kept")).await;
    run(&client, "alter table kept add column w int; alter table kept replica identity full").await;
    run(&client, "alter table kept drop constraint kept_pkey; update kept set v = 5").await;
    assert_eq!(listed(&client, "rowcast").await, "kept");
    assert_eq!(value(&client, "select count(*) from rowcast.lent").await, "0");
    capture.stop().await;
}

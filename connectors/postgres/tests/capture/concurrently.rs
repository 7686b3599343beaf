//! An index that identifies a table's rows and is dropped while somebody reads the table.

use rowcast_postgres::check;

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::listed;
use crate::log::logged;
use crate::support::Server;

/// It is gone for the server before anybody hears of it, and nothing helps before the reader has ended: he is named, and
/// nobody is kept from the table for nothing.
#[tokio::test]
async fn the_reader_that_keeps_a_key_half_dropped_is_named() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, reader, owner) = (sql(&server).await, sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table half_dropped (id int not null, v int); create unique index half_id on half_dropped (id);
         insert into half_dropped values (1, 1);
         alter table half_dropped replica identity using index half_id;
         create table named (id int not null, constraint named_id unique (id));
         alter table named replica identity using index named_id",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let told = check(&config(&server)).await.unwrap();
    let told = told.iter().find(|found| found.name == "replica identities").unwrap();
    assert!(told.ok && told.found.ends_with(": public.half_dropped"), "{told:?}");
    assert!(told.remedy.as_deref().is_some_and(|said| said.contains("DROP INDEX CONCURRENTLY")), "{told:?}");

    run(&reader, "set application_name = 'a report'; begin; select * from half_dropped").await;
    let pid = value(&reader, "select pg_backend_pid()").await;
    let dropping =
        tokio::spawn(async move { owner.batch_execute("drop index concurrently public.half_id").await });
    until("the key to be gone", async || {
        client.batch_execute("update public.half_dropped set v = 2").await.is_err()
    })
    .await;
    let told = |words: &str| logged("table=\"public.half_dropped\"", words);
    until("it to be said", async || !told("Its UPDATE and DELETE fail").is_empty()).await;
    let why = told("in the way is process");
    let reader_named =
        format!("; which waits for process {pid} of postgres, application a report (idle in transaction)");
    assert!(why.iter().all(|line| line.contains(&reader_named) && !line.contains("select")), "{why:?}");
    assert!(!why.is_empty());
    assert!(!server.log().contains("rowcast.lend("), "it was tried to lend it FULL: {}", server.log());
    run(&reader, "commit").await;
    dropping.await.unwrap().unwrap();
    run(&client, "update half_dropped set v = 3").await;
    assert_eq!(
        (listed(&client, "rowcast").await, listed(&client, "rowcast_inserts").await),
        ("named".into(), "half_dropped".into())
    );
    capture.stop().await;
}

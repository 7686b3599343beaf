//! Whose what is in schema `rowcast` is, after it was brought up to date by somebody else.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, Requirement, check};
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, run, sql, value};
use super::said::logged;
use super::trigger::{listed, plain};
use crate::support::Server;

/// As the tenth migration leaves it.
const OLDER: &str =
    "delete from rowcast.migrations where version > 10; drop table rowcast.identifying, rowcast.chosen cascade;
    drop function rowcast.bereft, rowcast.tree, rowcast.identify, rowcast.hinders, rowcast.keep";

/// What is not plain's.
const OTHERS: &str = "select string_agg(name, ' ' order by name) from (
    select relname::text as name, relowner as owner from pg_class where relnamespace = 'rowcast'::regnamespace
    union all select proname::text, proowner from pg_proc where pronamespace = 'rowcast'::regnamespace) t
    where owner <> 'plain'::regrole";

async fn schema(config: &Config) -> Requirement {
    check(config).await.unwrap().into_iter().find(|found| found.name == "schema rowcast").unwrap()
}

/// What plain has made, as that version left it.
async fn made_by_plain(client: &Client, config: &Config, directory: &Directory) {
    run(
        client,
        "create role app; grant app to plain; create table t (id int primary key, v int); alter table t owner to app;
         insert into t values (1, 1)",
    )
    .await;
    Capture::start(config.clone(), directory.path()).await.stop().await;
    run(client, OLDER).await;
}

#[tokio::test]
async fn what_a_superuser_brings_up_to_date_stays_its_owners() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let plain = plain(&server, &client).await;
    made_by_plain(&client, &plain, &directory).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    assert_eq!(value(&client, OTHERS).await, "NULL");
    // The event triggers, which only the superuser could make, do their work with plain's rights.
    run(
        &client,
        "set role app; begin; alter table t drop constraint t_pkey; update t set v = 2; commit; update t set v = 3; reset role",
    )
    .await;
    assert_eq!(listed(&client, "rowcast_inserts").await, "t");
    capture.stop().await;
    assert!(schema(&plain).await.ok);
    Capture::start(plain, directory.path()).await.stop().await;
}

#[tokio::test]
async fn several_owners_are_told_and_made_one() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let plain = plain(&server, &client).await;
    Capture::start(plain.clone(), directory.path()).await.stop().await;
    assert!(schema(&config(&server)).await.ok);
    // A person's own is left alone.
    run(&client, "create view rowcast.mine as select 1 as one").await;
    let mixed = "alter function rowcast.tree(oid) owner to postgres;
        alter function rowcast.hinders(oid, text[]) owner to postgres";
    run(&client, mixed).await;
    for config in [&plain, &config(&server)] {
        let told = schema(config).await;
        assert!(!told.ok && told.found.contains("belongs to postgres, "), "{told:?}");
    }
    // By what it says.
    let remedy = schema(&config(&server)).await.remedy.unwrap();
    run(&client, remedy.strip_prefix("As superuser: ").unwrap()).await;
    assert_eq!(value(&client, OTHERS).await, "mine");
    for config in [&plain, &config(&server)] {
        assert!(schema(config).await.ok);
    }
    // By a start of somebody who may; anybody else's says so.
    run(&client, mixed).await;
    Capture::start(plain, directory.path()).await.stop().await;
    let told = logged(directory.path(), "belong to several roles");
    assert!(
        told.len() == 1 && told[0].contains("ALTER FUNCTION rowcast.tree(oid) OWNER TO plain;"),
        "{told:?}"
    );
    assert_eq!(value(&client, OTHERS).await, "hinders mine tree");
    Capture::start(config(&server), directory.path()).await.stop().await;
    assert_eq!(value(&client, OTHERS).await, "mine");
}

/// From version 16 on a member may have a role's rights, and not be it.
#[tokio::test]
async fn whoever_cannot_act_as_the_owner_is_turned_away() {
    let Some(server) = Server::start_since(16, "") else { return };
    let directory = Directory::new();
    let client = sql(&server).await;
    let plain = plain(&server, &client).await;
    made_by_plain(&client, &plain, &directory).await;
    run(&client, "create role two login replication; grant plain to two with inherit true, set false").await;
    let two = Config { url: server.admin().replace("user=postgres", "user=two"), ..config(&server) };
    let error = Capture::launch(two.clone(), directory.path()).fails().await;
    assert!(error.kind() == Kind::Refused && error.to_string().contains("belongs to plain"), "{error}");
    let remedy = error.remedy().unwrap();
    run(&client, remedy.get(..=remedy.find(';').unwrap()).unwrap()).await;
    Capture::start(two, directory.path()).await.stop().await;
    assert_eq!(value(&client, OTHERS).await, "NULL");
}

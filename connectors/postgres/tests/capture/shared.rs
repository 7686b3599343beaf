//! Two rowcasts that name one publication: each would take out what the other one puts in.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, check, uninstall};

use super::harness::{Capture, Directory, config, run, sql, value};
use super::trigger::listed;
use crate::support::Server;

#[tokio::test]
async fn a_publication_is_one_rowcasts() {
    let (server, one, two) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table a (id int primary key); create table b (id int primary key)").await;
    let first = Capture::start(config(&server), one.path()).await;
    let second = Config {
        slot: "second".to_owned(),
        publication: "rowcast".to_owned(),
        tables: vec!["public.a".to_owned()],
        ..config(&server)
    };
    let error = Capture::launch(second.clone(), two.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.to_string().contains("is kept by another rowcast, which reads the slot rowcast"),
        "{error}"
    );
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("source.publication")), "{error:?}");
    let named = async |config: &Config| {
        let found = check(config).await.unwrap();
        found.into_iter().find(|found| found.name == "other rowcast")
    };
    let told = named(&second).await.unwrap();
    assert!(
        !told.ok && told.found == error.to_string() && told.remedy.as_deref() == error.remedy(),
        "{told:?}"
    );
    assert_eq!(named(&config(&server)).await, None);
    let known = "select string_agg(slot, ' ') from rowcast.capture";
    assert_eq!(
        (listed(&client, "rowcast").await, value(&client, known).await),
        ("a b".into(), "rowcast".into())
    );

    // Two that have shared one since before: it stays as long as one of them is there, and the first one goes on.
    first.stop().await;
    run(
        &client,
        "insert into rowcast.capture select 'second', publication, inserts, via_root, kept, ddl from rowcast.capture;
         insert into rowcast.installation (slot, installation) values ('second', gen_random_uuid())",
    )
    .await;
    client.batch_execute("select pg_create_logical_replication_slot('second', 'pgoutput')").await.unwrap();
    let first = Capture::start(config(&server), one.path()).await;
    run(&client, "insert into b values (1)").await;
    assert_eq!(first.briefs(1).await, ["insert public.b 1"]);
    let removed = uninstall(&second, true).await.unwrap();
    let why =
        |name: &str| removed.iter().find(|one| one.name == name).unwrap().stays.clone().unwrap_or_default();
    for name in ["publication rowcast", "publication rowcast_inserts"] {
        assert_eq!(why(name), "another rowcast captures with it, on slot rowcast");
    }
    run(&client, "insert into b values (2)").await;
    assert_eq!(first.briefs(2).await[1], "insert public.b 2");
    first.stop().await;

    // Of one that is gone for good nothing is left in the way.
    client.batch_execute("select pg_drop_replication_slot('rowcast')").await.unwrap();
    Capture::start(second, two.path()).await.stop().await;
    assert_eq!(listed(&client, "rowcast").await, "a");
}

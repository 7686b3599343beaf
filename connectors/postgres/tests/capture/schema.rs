//! The schema `rowcast` and the publications where somebody else made them, and a dump by somebody else.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, Requirement, check};

use super::harness::{Capture, Directory, run, sql, value};
use super::trigger::plain;
use crate::support::Server;

async fn named(config: &Config, name: &str) -> Option<Requirement> {
    check(config).await.unwrap().into_iter().find(|found| found.name == name)
}

#[tokio::test]
async fn what_another_role_owns_is_named() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    let found = named(&config, "schema rowcast").await.unwrap();
    assert!(found.ok && found.found.contains("`rowcast run` makes it"), "{found:?}");
    Capture::start(config.clone(), directory.path()).await.stop().await;
    assert!(named(&config, "schema rowcast").await.unwrap().ok);
    run(
        &client,
        "create role other; alter schema rowcast owner to other; alter table rowcast.capture owner to other;
         alter function rowcast.say(text, bytea) owner to other; alter view rowcast.identity owner to other;
         alter publication rowcast_inserts owner to postgres",
    )
    .await;
    let schema = named(&config, "schema rowcast").await.unwrap();
    assert!(!schema.ok && schema.found.contains("belongs to other, not to plain"), "{schema:?}");
    let publication = named(&config, "publication rowcast_inserts").await.unwrap();
    assert!(!publication.ok && publication.found.contains("belongs to postgres"), "{publication:?}");
    for found in [schema, publication] {
        run(&client, found.remedy.unwrap().strip_prefix("As superuser: ").unwrap()).await;
    }
    assert!(named(&config, "schema rowcast").await.unwrap().ok);
    assert_eq!(named(&config, "publication rowcast_inserts").await, None);
    let owners = "select count(*) from (select relowner as o from pg_class where relnamespace = 'rowcast'::regnamespace
                  union all select proowner from pg_proc where pronamespace = 'rowcast'::regnamespace) a
                  where o <> 'plain'::regrole";
    assert_eq!(value(&client, owners).await, "0");
}

/// As `pg_dump --schema-only` leaves it in another database.
#[tokio::test]
async fn a_copy_without_its_history_is_named() {
    let (server, directory, again) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    let config = super::harness::config(&server);
    Capture::start(config.clone(), directory.path()).await.stop().await;
    client.batch_execute("select pg_drop_replication_slot('rowcast')").await.unwrap();
    run(&client, "truncate rowcast.migrations, rowcast.installation, rowcast.capture, rowcast.pattern").await;
    let schema = named(&config, "schema rowcast").await.unwrap();
    assert!(!schema.ok && schema.found.contains("history"), "{schema:?}");
    let error = Capture::launch(config.clone(), again.path()).fails().await;
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(error.remedy(), schema.remedy.as_deref());
    let remedy = schema.remedy.unwrap();
    let (from, to) = (remedy.find("DROP SCHEMA").unwrap(), remedy.find(';').unwrap());
    run(&client, remedy.get(from..to).unwrap()).await;
    Capture::start(config.clone(), again.path()).await.stop().await;
    assert!(named(&config, "schema rowcast").await.unwrap().ok);
}

/// It locks all tables, and may not lock those of the schema.
#[tokio::test]
async fn an_owner_without_rights_here_dumps_what_is_his() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    run(&client, "create role app login; create table t (id int primary key); alter table t owner to app; grant app to plain")
        .await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    let Some(dumped) = server.dump_by("app", &[]) else { return };
    assert!(!dumped.status.success(), "nothing would have to be said");
    let remedy = named(&config, "schema rowcast").await.unwrap().remedy.unwrap();
    let from = remedy.find("--exclude").unwrap();
    let option = remedy.get(from..from + remedy.get(from..).unwrap().find(')').unwrap()).unwrap();
    let dumped = server.dump_by("app", &[option]).unwrap();
    let (text, said) = (String::from_utf8_lossy(&dumped.stdout), String::from_utf8_lossy(&dumped.stderr));
    assert!(dumped.status.success() && text.contains("CREATE TABLE public.t"), "{said}");
    capture.stop().await;
}

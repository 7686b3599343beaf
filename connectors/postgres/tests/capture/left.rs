//! What `uninstall` cannot decide is left to a person, told as it is; and nothing of somebody else's goes unsaid.

use rowcast_postgres::{Config, Removal, check, uninstall};

use super::harness::{Capture, Directory, config, run, sql, value};
use super::said::logged;
use super::trigger::listed;
use crate::support::Server;

fn find<'a>(removals: &'a [Removal], name: &str) -> &'a Removal {
    removals.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} in {removals:?}"))
}

/// With the schema it is gone whose the slot is.
#[tokio::test]
async fn a_slot_that_nobody_knows_any_more() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    run(&client, "drop schema rowcast cascade").await;
    let removed = uninstall(&config(&server), true).await.unwrap();
    let slot = find(&removed, "replication slot rowcast");
    let why = slot.failed.as_deref().unwrap();
    assert!(slot.sql.is_none() && why.contains("cannot be known any more"), "{slot:?}");
    run(&client, why.get(why.find("SELECT").unwrap()..).unwrap()).await;
    assert_eq!(uninstall(&config(&server), true).await.unwrap(), []);
}

/// Two rowcasts, of which one has lost its slot: its publications go on being filled, and are told.
#[tokio::test]
async fn what_is_left_of_a_slot_that_is_gone() {
    let (server, one, two) = (Server::start(""), Directory::new(), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let second = Config { slot: "second".to_owned(), ..config(&server) };
    Capture::start(config(&server), one.path()).await.stop().await;
    Capture::start(second.clone(), two.path()).await.stop().await;
    let words = "Nothing reads the publication any more";
    assert_eq!(logged(two.path(), words).len(), 0);
    client.batch_execute("select pg_drop_replication_slot('rowcast')").await.unwrap();
    Capture::start(second.clone(), two.path()).await.stop().await;
    assert_eq!(logged(two.path(), words).len(), 2);
    run(&client, "create table more (id int primary key)").await;
    assert_eq!(listed(&client, "rowcast").await, "more t");
    let found = check(&second).await.unwrap();
    let told = found.iter().find(|one| one.name == "publication rowcast").unwrap();
    assert!(told.remedy.as_ref().unwrap().contains("--set source.slot=rowcast --yes"), "{told:?}");

    let removed = uninstall(&second, true).await.unwrap();
    for name in
        ["event trigger rowcast", "publication rowcast", "publication rowcast_inserts", "schema rowcast"]
    {
        let left = find(&removed, name);
        let why = left.failed.as_deref().unwrap();
        assert!(left.sql.is_none() && why.contains("slot rowcast, which is gone"), "{left:?}");
        assert!(why.contains("--set source.slot=rowcast --yes"), "{left:?}");
    }
    assert!(find(&removed, "publication second").failed.is_none());
    let removed = uninstall(&config(&server), true).await.unwrap();
    assert!(removed.iter().all(|one| one.sql.is_some() && one.failed.is_none()), "{removed:?}");
    let left = "select concat_ws(' ', to_regnamespace('rowcast'), (select count(*) from pg_publication),
                                 (select count(*) from pg_replication_slots), (select count(*) from pg_event_trigger))";
    assert_eq!(value(&client, left).await, "0 0 0");
}

/// The names of what depends on the schema, or is in it, may look like ours.
#[tokio::test]
async fn what_looks_like_ours_and_is_not() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    for (make, drop, words) in [
        (
            "create function who(i rowcast.installation) returns int language sql as 'select 1'",
            "drop function who",
            "function public.who(rowcast.installation)",
        ),
        (
            "create table public.rowcast (id int, at pg_lsn default rowcast.publish('x', '1'))",
            "drop table public.rowcast",
            "default value for public.rowcast.at",
        ),
        (
            "create function rowcast.publish(a text, b json) returns int language sql as 'select 1'",
            "drop function rowcast.publish(text, json)",
            "rowcast.publish(text,json)",
        ),
        (
            "create function f() returns trigger language plpgsql as 'begin return new; end';
             create trigger mine before insert on rowcast.lent for each row execute function f()",
            "drop function f() cascade",
            "trigger mine on rowcast.lent",
        ),
        ("create collation rowcast.mine from \"C\"", "drop collation rowcast.mine", "collation rowcast.mine"),
    ] {
        run(&client, make).await;
        let asked = uninstall(&config(&server), false).await.unwrap();
        let schema = find(&asked, "schema rowcast");
        assert!(schema.sql.is_none(), "{words}: {schema:?}");
        assert!(schema.stays.as_ref().is_some_and(|why| why.ends_with(&format!(": {words}"))), "{schema:?}");
        run(&client, drop).await;
    }
    let asked = uninstall(&config(&server), false).await.unwrap();
    assert!(asked.iter().all(|one| one.sql.is_some()), "{asked:?}");
}

/// The server does not know what a function calls.
#[tokio::test]
async fn functions_that_will_fail_are_named() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key);
         create function outbox() returns trigger language plpgsql as $$
         begin perform rowcast.publish('x', to_jsonb(new)); return new; end $$;
         create function other() returns int language sql as $$ select 1 -- my_rowcast.publish, rowcast.publisher $$",
    )
    .await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    for really in [false, true] {
        let plan = uninstall(&config(&server), really).await.unwrap();
        let staying: Vec<&Removal> = plan.iter().filter(|one| one.sql.is_none()).collect();
        assert_eq!(staying.len(), 1, "{plan:?}");
        assert_eq!(staying[0].name, "function public.outbox()");
        assert!(staying[0].stays.as_ref().unwrap().starts_with("it calls rowcast.publish, and fails"));
    }
    assert_eq!(value(&client, "select to_regnamespace('rowcast')").await, "NULL");
}

//! New tables that no event trigger takes in: they are found when they are looked for, and what was put into them before is
//! read.

use rowcast_postgres::Config;

use super::*;
use crate::capture::trigger::{listed, plain};

/// What comes to pass before a table is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Stopped,
    Killed,
    /// In the midst of the look.
    KilledWhileItLooks,
}

const NEW: &str = "begin; set local role plain; create table late (id int primary key, v text);
    insert into late values (1, 'a'), (2, 'b'); commit";

/// A look waits to take the table in.
const LOOKS: &str =
    "exists (select from pg_locks where not granted and relation = 'pg_publication_rel'::regclass)";

/// Makes the table, and ends the capture before it is found. Gives another one.
async fn not_found(
    server: &Server,
    first: Capture,
    config: Config,
    directory: &Directory,
    how: Meanwhile,
) -> Capture {
    let (client, holder) = (sql(server).await, sql(server).await);
    // Nobody can list a table meanwhile, however soon the next look is.
    run(&holder, "begin; lock table pg_publication_rel in share mode").await;
    run(&client, NEW).await;
    if how == Meanwhile::KilledWhileItLooks {
        first.status.look_again();
        until("a look", async || value(&client, LOOKS).await == "true").await;
    }
    if how == Meanwhile::Stopped {
        first.stop().await;
    } else {
        first.crash().await;
    }
    // The server may not have noticed yet that whoever looked is gone.
    run(&holder, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'plain'").await;
    until("the sessions to end", async || {
        value(&client, "not exists (select from pg_stat_activity where usename = 'plain')").await == "true"
    })
    .await;
    run(&holder, "rollback").await;
    assert_eq!(listed(&client, "rowcast").await, "t", "it was found before");
    Capture::start(config, directory.path()).await
}

async fn is_read(how: Meanwhile) {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = Config { snapshot: Some(SnapshotMode::Initial), ..plain(&server, &client).await };
    run(&client, "set role plain; create table t (id int primary key); insert into t values (1); reset role")
        .await;
    let mut capture = Capture::start(config.clone(), directory.path()).await;
    read_whole(&capture).await;
    assert_eq!(value(&client, "select count(*) from pg_event_trigger").await, "0");
    if how == Meanwhile::Nothing {
        run(&client, NEW).await;
    } else {
        capture = not_found(&server, capture, config, &directory, how).await;
    }
    until("the table to be read", async || capture.status.read_tables().contains_key("public.late")).await;
    read_whole(&capture).await;
    run(&client, "update late set v = 'c' where id = 1; insert into late values (3, 'd')").await;
    caught_up(&client, &capture).await;
    let told: Vec<String> = capture.events().iter().map(Seen::brief).collect();
    let expected = [
        "read public.t 1",
        "read public.late 1,a",
        "read public.late 2,b",
        "update public.late 1,c",
        "insert public.late 3,d",
    ];
    assert_eq!(told, expected, "{how:?}");
    assert_eq!(
        rebuilt(&capture.events(), "public.late", 2),
        actual(&client, "late", &["id", "v"]).await,
        "{how:?}"
    );
    capture.stop().await;
}

#[tokio::test]
async fn the_next_look_reads_it() {
    is_read(Meanwhile::Nothing).await;
}

#[tokio::test]
async fn the_next_start_reads_it() {
    for how in [Meanwhile::Stopped, Meanwhile::Killed, Meanwhile::KilledWhileItLooks] {
        is_read(how).await;
    }
}

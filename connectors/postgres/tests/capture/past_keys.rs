//! Keys of changes that are read when their table is no longer what it was.

use rowcast_engine::schema::{Identity, Schema};

use super::harness::{Capture, Directory, config, run, sql};
use crate::support::Server;

/// The columns of a key, in its order.
fn named(schema: &Schema, key: &[u16]) -> Vec<String> {
    key.iter().map(|index| schema.columns[usize::from(*index)].name.clone()).collect()
}

/// Primary key and key of the newest version of a table.
fn keys(capture: &Capture, table: &str) -> [Vec<String>; 2] {
    let schema = capture.schema(&format!("public.{table}"));
    [named(&schema, &schema.primary_key), named(&schema, &schema.key)]
}

#[tokio::test]
async fn in_the_order_that_they_had() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    for table in ["dropped", "renamed", "rekeyed"] {
        run(&client, &format!("create table {table} (a int, b int, v text, primary key (b, a))")).await;
    }
    run(
        &client,
        "create table indexed (a int not null, b int not null, v text, primary key (a), unique (b, a))",
    )
    .await;
    run(&client, "alter table indexed replica identity using index indexed_b_a_key").await;
    let tables = ["dropped", "renamed", "rekeyed", "indexed"];
    let capture = Capture::start(config(&server), directory.path()).await;
    for table in tables {
        run(&client, &format!("insert into {table} values (1, 2, 'x')")).await;
    }
    capture.wait(tables.len()).await;
    let before = tables.map(|table| keys(&capture, table));
    assert_eq!(before[0], [["b", "a"], ["b", "a"]]);
    assert_eq!(before[3], [vec!["a"], vec!["b", "a"]]);
    capture.stop().await;

    for table in tables {
        run(&client, &format!("delete from {table}")).await;
    }
    run(&client, "drop table dropped; drop table indexed; alter table renamed rename column b to c").await;
    run(&client, "alter table rekeyed drop constraint rekeyed_pkey, add primary key (a)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let events = capture.wait(2 * tables.len()).await;
    assert_eq!(events[4].brief(), "delete public.dropped K:1,2,NULL");
    assert_eq!(tables.map(|table| keys(&capture, table)), before);

    // From then on it is what it is by then.
    run(&client, "insert into renamed values (1, 2, 'x'); insert into rekeyed values (1, 2, 'x')").await;
    capture.wait(2 * tables.len() + 2).await;
    assert_eq!(keys(&capture, "renamed"), [["c", "a"], ["c", "a"]]);
    assert_eq!(keys(&capture, "rekeyed"), [["a"], ["a"]]);
    capture.stop().await;
}

/// Where the whole old row comes, the stream tells of no key at all.
#[tokio::test]
async fn of_a_dropped_table_with_replica_identity_full() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(
        &client,
        "create table t (a int, b int, v text, primary key (b, a)); alter table t replica identity full;
         create table keyless (a int not null, b int not null, unique (b, a));
         alter table keyless replica identity full",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "insert into t values (1, 2, 'x'); insert into keyless values (1, 2)").await;
    capture.wait(2).await;
    let versions = capture.journal.schemas().len();
    capture.stop().await;

    run(&client, "delete from t; delete from keyless").await;
    run(&client, "drop table t, keyless").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let events = capture.wait(4).await;
    assert_eq!(events[2].brief(), "delete public.t O:1,2,x");
    assert_eq!(capture.journal.schemas().len(), versions + 2);
    assert_eq!(capture.schema("public.t").identity, Identity::Full);
    assert_eq!(keys(&capture, "t"), [["b", "a"], ["b", "a"]]);
    let keyless = capture.schema("public.keyless");
    assert_eq!((named(&keyless, &keyless.unique_key), &keyless.key), (vec!["b".into(), "a".into()], &vec![]));
    capture.stop().await;
}

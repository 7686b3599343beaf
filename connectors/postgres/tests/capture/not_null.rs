//! From version 18 on NOT NULL may hold for new rows only: until it is validated the column has nulls.

use super::harness::{Capture, Directory, config, run, sql, until};
use crate::support::Server;

#[tokio::test]
async fn a_column_may_be_null_until_that_is_validated() {
    let Some(server) = Server::start_since(18, "") else { return };
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key, v int); insert into t values (0, null);
         create table p (id int primary key, v int) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 (id int primary key, v int not null); alter table p attach partition p2 for values from (10) to (20)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let mut told = 0;
    for (change, nullable) in [
        ("alter table t add constraint there not null v not valid", "t p"),
        ("alter table p add constraint there not null v not valid", "t p"),
        ("update t set v = 0; alter table t validate constraint there", "p"),
        // Of one partition: what is told is its root.
        ("alter table p1 validate constraint there", "p"),
        // The server describes the root again when a partition has changed.
        ("alter table p drop constraint there, add constraint there not null v not valid", "p"),
        ("alter table p validate constraint there", ""),
    ] {
        run(&client, change).await;
        run(
            &client,
            "delete from t; delete from p; insert into t values (1, 1); insert into p values (1, 1)",
        )
        .await;
        until("the rows", async || {
            let inserts = capture.events().iter().filter(|event| event.brief().starts_with("insert")).count();
            inserts == told + 2
        })
        .await;
        told += 2;
        for table in ["t", "p"] {
            let schema = capture.schema(&format!("public.{table}"));
            let expected = !nullable.split(' ').any(|name| name == table);
            assert!(schema.columns[0].not_null, "{change}: {schema:?}");
            assert_eq!(schema.columns[1].not_null, expected, "{change}: {schema:?}");
        }
    }
    capture.stop().await;
}

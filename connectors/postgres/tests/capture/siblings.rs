//! A change of one partition is nothing to the others.

use super::harness::{Capture, Directory, config, run, sql, value};
use crate::support::Server;

const LOCKS: &str =
    "select count(*) from pg_locks where pid = pg_backend_pid() and relation = 'public.p2'::regclass";

#[tokio::test]
async fn a_change_of_one_partition_locks_no_other() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    run(
        &client,
        "create table p (id int primary key, v int) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20); insert into p values (1, 1), (11, 1)",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    for change in [
        "alter table p1 alter column v set statistics 7",
        "create table p3 partition of p for values from (20) to (30)",
    ] {
        run(&client, &format!("begin; {change}")).await;
        assert_eq!(value(&client, LOCKS).await, "0", "{change}");
        run(&other, "set lock_timeout = '5s'; alter table p2 alter column v set statistics 8; truncate p2")
            .await;
        run(&client, "commit").await;
    }
    // What is lent to one, neither.
    run(&other, "begin; create table m (id int primary key)").await;
    run(&client, "begin; alter table p1 replica identity nothing").await;
    assert_eq!(value(&client, "select relreplident from pg_class where relname = 'p1'").await, "f");
    assert_eq!(value(&client, LOCKS).await, "0");
    run(&client, "commit; update p set v = 2").await;
    run(&other, "rollback").await;
    capture.stop().await;
}

//! A replica identity that the owner of a table chooses while it is lent him.

use super::harness::{Capture, Directory, config, run, sql, until, value};
use super::trigger::listed;
use crate::support::Server;

#[tokio::test]
async fn an_owners_own_full_is_not_taken_back() {
    let (server, directory) = (Server::start(""), Directory::new());
    let (client, other) = (sql(&server).await, sql(&server).await);
    let names = ["t", "u", "v", "\"W (1)\""];
    for name in names {
        run(&client, &format!("create table {name} (id int primary key, v int)")).await;
    }
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&other, "begin; create table m (id int primary key)").await;
    for (name, key) in names.iter().zip(["t_pkey", "u_pkey", "v_pkey", "\"W (1)_pkey\""]) {
        run(&client, &format!("alter table {name} drop constraint {key}")).await;
    }
    let lent = "select string_agg(relation::regclass::text, ' ' order by relation::regclass::text collate \"C\") from rowcast.lent";
    assert_eq!(value(&client, lent).await, "\"W (1)\" t u v");
    // In the text of a migration beside others, and alone. What is said of another table counts for none.
    let migration = "alter table u add column w int; ALTER TABLE public.t REPLICA\nIDENTITY FULL";
    run(&client, migration).await;
    run(&client, "alter table \"W (1)\" add column w int, replica identity full").await;
    run(&client, "alter table v add column w int /* replica identity as it was */").await;
    assert_eq!(value(&client, lent).await, "u v");
    run(&other, "commit").await;
    capture.status.look_again();
    until("all to be given back", async || value(&client, lent).await == "NULL").await;
    let identities = "select string_agg(relname || relreplident::text, ' ' order by relname) from pg_class
                      where relname in ('t', 'u', 'v', 'W (1)')";
    assert_eq!(value(&client, identities).await, "W (1)f tf ud vd");
    assert_eq!(listed(&client, "rowcast").await, "W (1) m t");
    assert_eq!(listed(&client, "rowcast_inserts").await, "u v");
    capture.stop().await;
}

//! Values that Postgres keeps apart from their rows, and does not send where an update leaves them as they are: `check`
//! says of which tables, in one line for all.

use rowcast_postgres::{Config, Requirement, check};

use super::harness::{Capture, Directory, config, run, sql};
use crate::support::Server;

async fn told(config: &Config) -> Option<Requirement> {
    let found = check(config).await.unwrap();
    let mut lines = found.into_iter().filter(|one| one.name == "large values");
    let line = lines.next();
    assert!(lines.next().is_none(), "more than a line");
    line
}

/// None of these has them all: no value of theirs is large, the old row comes along, or updates are not captured.
const OTHERS: &str = "
    create table narrow (id int primary key, v varchar(10));
    create table inline (id int primary key, v text); alter table inline alter v set storage plain;
    create table whole (id int primary key, v text); alter table whole replica identity full;
    create table keyless (id int, v text); create table unwanted (id int primary key, v text);
    create table lost (id int primary key, v text); alter table lost drop v";

#[tokio::test]
async fn tables_with_large_values_are_named_together() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let wanted = Config { exclude: vec!["public.unwanted".to_owned()], ..config(&server) };
    run(&client, OTHERS).await;
    assert_eq!(told(&wanted).await, None);
    run(
        &client,
        "create table a (id int primary key, v text);
         create table p (id int, v jsonb, primary key (id)) partition by range (id);
         create table p_one partition of p for values from (0) to (10) partition by range (id);
         create table p_leaf partition of p_one for values from (0) to (10)",
    )
    .await;
    let line = told(&wanted).await.unwrap();
    assert!(line.ok && line.found.starts_with("public.a, public.p: "), "{line:?}");
    let remedy = line.remedy.unwrap();
    assert!(line.found.contains("`unchanged`") && remedy.contains("REPLICA IDENTITY FULL"), "{remedy}");

    // What it says is so, and its remedy helps.
    let capture = Capture::start(wanted.clone(), directory.path()).await;
    run(&client, "alter table a alter v set storage external; insert into a values (1, repeat('x', 9000))")
        .await;
    run(&client, "update a set id = 2").await;
    run(&client, "alter table a replica identity full").await;
    run(&client, "update a set id = 3").await;
    let briefs = capture.briefs(3).await;
    let large = "x".repeat(9000);
    assert_eq!(briefs[1], "update public.a K:1,NULL 2,UNCHANGED");
    assert_eq!(briefs[2], format!("update public.a O:2,{large} 3,UNCHANGED"));
    capture.stop().await;
    assert!(told(&wanted).await.unwrap().found.starts_with("public.p: "));

    // An index for an identity brings no more along than a key does.
    let many: String = (1..=6)
        .map(|at| {
            format!(
                "create table t{at} (id int not null, v text); create unique index t{at}_id on t{at} (id);
                 alter table t{at} replica identity using index t{at}_id;"
            )
        })
        .collect();
    run(&client, &many).await;
    let found = told(&wanted).await.unwrap().found;
    assert!(
        found.starts_with("public.p, public.t1, public.t2, public.t3, public.t4 and 2 more tables: "),
        "{found}"
    );
}

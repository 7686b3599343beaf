//! Messages that claim to be rowcast's own, and conditions that are more than a condition.

use rowcast_engine::Kind;

use super::*;

const NOBODY: &str = "create role nobody login; grant usage on schema public to nobody";

#[tokio::test]
async fn what_every_role_may_say_makes_rowcast_do_nothing() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); insert into t values (1, 'a')").await;
    run(&client, NOBODY).await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let wish = r#"{"schema": "public", "table": "t", "condition": "v = ''4111-secret''"}"#.to_owned();
    let digits = "0".repeat(64);
    let mut expected = Vec::new();
    for prefix in [
        "rowcast.snapshot",
        "rowcast.snapshot.rowcast",
        "rowcast.gap.new_table.rowcast",
        "rowcast.ddl.rowcast",
    ] {
        for content in [wish.clone(), format!("{digits}{wish}")] {
            run(&client, &format!("begin; set local role nobody; select pg_logical_emit_message(true, '{prefix}', '{content}'); commit")).await;
            expected.push("rowcast.rejected");
        }
    }
    run(&client, &format!("begin; set local role nobody; select pg_logical_emit_message(false, 'rowcast.snapshot', '{wish}'); commit")).await;
    expected.push("rowcast.rejected");
    let events = capture.wait(expected.len()).await;
    assert_eq!(events.iter().map(|event| event.channel.as_str()).collect::<Vec<_>>(), expected);
    for event in &events {
        let told = &event.new;
        assert!(
            !told.contains("4111") && (told.contains("sign") || told.contains("of no transaction")),
            "{told}"
        );
    }
    assert!(capture.report().snapshots.is_empty() && capture.status.dropped_tables().is_empty());
    for forbidden in [
        "select key from rowcast.secret",
        "select rowcast.say('a', '')",
        "select rowcast.mac('', '')",
        "select rowcast.snapshot('t')",
    ] {
        let tried = client.batch_execute(&format!("begin; set local role nobody; {forbidden}")).await;
        assert_eq!(tried.unwrap_err().code().unwrap().code(), "42501", "{forbidden}");
        client.batch_execute("rollback").await.unwrap();
    }
    // Whoever is granted it may ask, without a right on the key.
    run(&client, "grant execute on function rowcast.snapshot(regclass, text, text) to nobody; begin; set local role nobody; select rowcast.snapshot('t'); commit").await;
    let events = capture.wait(expected.len() + 1).await;
    assert_eq!(events.last().unwrap().brief(), "read public.t 1,a");
    read_whole(&capture).await;
    capture.stop().await;
}

#[tokio::test]
async fn a_condition_is_one_expression() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); insert into t select i, 'a' from generate_series(1, 10) i").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let file = directory.path().join("made");
    let conditions = [
        "true) or (true".to_owned(),
        "true)::text = ('true".to_owned(),
        "true) union all select id, v from t where (true".to_owned(),
        "true) group by (id".to_owned(),
        "true), more as (select 1".to_owned(),
        "true) select from t where (true".to_owned(),
        format!("true)) to program 'touch {}' --", file.display()),
        "true); select (1".to_owned(),
        "true /*".to_owned(),
        "id > $1".to_owned(),
        "(true".to_owned(),
        "true) --".to_owned(),
        "$$".to_owned(),
        "true order by 1".to_owned(),
        String::new(),
    ];
    for condition in conditions {
        let wanted = rows_of_t(Some(&condition));
        let refused = capture.status.ask_for_snapshot(wanted).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Usage, "{condition}: {refused}");
        capture.status.note_wanted("public.t");
        client.execute("select rowcast.snapshot('public.t', $1)", &[&condition]).await.unwrap();
        until("it to be dropped", async || capture.status.dropped_tables().contains_key("public.t")).await;
        let why = &capture.status.dropped_tables()["public.t"];
        assert!(why.contains("cannot be read with that condition"), "{condition}: {why}");
    }
    assert!(!file.exists() && capture.events().is_empty());
    for condition in
        ["id > 3 -- the rest", "(id > 3) and (v = 'a')", "v = ')' or id > 3 or id in (select 4 where (true))"]
    {
        let wanted = rows_of_t(Some(condition));
        let before = capture.events().len();
        capture.status.ask_for_snapshot(wanted).await.unwrap();
        until("the rows", async || capture.status.read_tables().get("public.t") == Some(&7)).await;
        read_whole(&capture).await;
        assert_eq!(capture.events().len(), before + 7, "{condition}");
    }
    capture.stop().await;
}

#[tokio::test]
async fn values_of_rows_are_in_no_reason() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key, v text); insert into t values (1, '4111-secret');
                  create function public.loud(t text) returns bool language plpgsql as $$ begin raise exception 'seen: %', t; end $$").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    for (condition, state) in [("v::int > 5", "22P02"), ("public.loud(v)", "P0001")] {
        let wanted = rows_of_t(Some(condition));
        capture.status.ask_for_snapshot(wanted).await.unwrap();
        until("it to be dropped", async || capture.status.dropped_tables().contains_key("public.t")).await;
        let why = &capture.status.dropped_tables()["public.t"];
        assert!(why.contains(state) && why.contains("condition") && !why.contains("4111"), "{why}");
        read_whole(&capture).await;
    }
    capture.stop().await;
}

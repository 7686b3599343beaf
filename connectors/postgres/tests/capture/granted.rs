//! Default privileges of rowcast's role, which would give others what is the owner's alone.

use rowcast_postgres::check;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, run, sql, value};
use super::trigger::plain;
use crate::support::Server;

/// What a role may do in the schema, beside using it.
async fn rights(client: &Client, role: &str) -> String {
    let sql = format!(
        "select concat_ws(' ',
            (select string_agg(relname, ' ' order by relname) from pg_class
             where relnamespace = 'rowcast'::regnamespace and relkind in ('r', 'v')
               and (has_table_privilege('{role}', oid, 'SELECT') or has_table_privilege('{role}', oid, 'INSERT')
                    or has_table_privilege('{role}', oid, 'DELETE'))),
            (select string_agg(proname, ' ' order by proname) from pg_proc
             where pronamespace = 'rowcast'::regnamespace and has_function_privilege('{role}', oid, 'EXECUTE')),
            case when has_schema_privilege('{role}', 'rowcast', 'CREATE') then 'creates' end)"
    );
    value(client, &sql).await
}

#[tokio::test]
async fn nobody_is_given_by_default_what_is_the_owners() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    let config = plain(&server, &client).await;
    run(
        &client,
        "create role readonly login; create role \"The app\" login;
         alter default privileges for role plain grant select on tables to readonly;
         alter default privileges for role plain grant all on tables to \"The app\" with grant option;
         alter default privileges for role plain grant execute on functions to readonly, \"The app\";
         alter default privileges for role plain grant all on schemas to \"The app\";
         alter default privileges for role plain grant select on tables to public",
    )
    .await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    for role in ["readonly", "\"The app\"", "pg_monitor"] {
        assert_eq!(rights(&client, role.trim_matches('"')).await, "emit publish", "{role}");
    }
    run(&client, "set role \"The app\"; select rowcast.publish('x', '1'); reset role").await;
    assert_eq!(capture.briefs(1).await, ["message x 1"]);
    // Their own tables are as they were.
    run(&client, "set role plain; create table public.t (id int primary key); reset role").await;
    assert_eq!(value(&client, "select has_table_privilege('readonly', 'public.t', 'SELECT')").await, "true");

    // What somebody has granted since may be meant.
    let named = async || {
        let found = check(&config).await.unwrap();
        found.into_iter().find(|found| found.name == "rights in schema rowcast")
    };
    assert_eq!(named().await, None);
    run(
        &client,
        "grant select on rowcast.secret to readonly;
         grant execute on function rowcast.snapshot(regclass, text, text) to \"The app\"",
    )
    .await;
    let told = named().await.unwrap();
    assert!(told.ok && told.found.contains("readonly may SELECT rowcast.secret"), "{told:?}");
    assert!(told.found.contains("\"The app\" may EXECUTE rowcast.snapshot("), "{told:?}");
    let remedy = told.remedy.unwrap();
    run(&client, remedy.get(remedy.find("REVOKE").unwrap()..).unwrap()).await;
    assert_eq!(named().await, None);
    capture.stop().await;
}

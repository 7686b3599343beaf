//! A database of the test's own, and what its tables hold as rowcast is to tell it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use super::postgres::connect;

/// A database of the test's own. Dropping it drops the database and its replication slots.
pub(crate) struct Database {
    admin: String,
    url: String,
    socket_url: Option<String>,
    name: String,
}

/// A table as the catalog has it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// `schema.table`, quoted where SQL needs it: also the channel's name.
    pub(crate) channel: String,
    /// Column names with their types' names as `format_type` prints them.
    pub(crate) columns: Vec<(String, String)>,
    /// The primary key's columns, in its order; empty without one.
    pub(crate) key: Vec<String>,
}

impl Database {
    pub(super) fn new(admin: String, url: String, socket_url: Option<String>, name: String) -> Self {
        Self { admin, url, socket_url, name }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its URL over TCP.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its URL over the Unix socket, where the server is the tests' own.
    pub(crate) fn socket_url(&self) -> Option<&str> {
        self.socket_url.as_deref()
    }

    /// A session.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url).await.unwrap_or_else(|error| panic!("Cannot connect to {}: {error}", self.url))
    }

    /// As `server_version_num` has it.
    pub(crate) async fn version(&self) -> i32 {
        let version = "select current_setting('server_version_num')::int";
        self.client().await.query_one(version, &[]).await.expect("a number").get(0)
    }

    /// Runs SQL statements in a session of their own.
    pub(crate) async fn execute(&self, sql: &str) {
        let result = self.client().await.batch_execute(sql).await;
        result.unwrap_or_else(|error| panic!("{error:?}\nin: {sql}"));
    }

    /// The tables of the schemas that are not Postgres' nor rowcast's own.
    pub(crate) async fn tables(&self) -> Vec<Table> {
        let rows = self.client().await.query(TABLES, &[]).await.expect("the catalog");
        let mut tables = BTreeMap::<String, Table>::new();
        for row in rows {
            let channel: String = row.get("channel");
            let table = tables.entry(channel.clone()).or_insert(Table {
                channel,
                columns: Vec::new(),
                key: row.get("key"),
            });
            table.columns.push((row.get("column"), row.get("type")));
        }
        tables.into_values().collect()
    }

    /// A table's rows as `to_jsonb` prints them in UTC and ISO 8601 intervals, with numeric (at every depth) as a
    /// string and money as a plain decimal string, in no order.
    pub(crate) async fn rows(&self, table: &str) -> Vec<Value> {
        let client = self.client().await;
        client.batch_execute(RENDERING).await.expect("settings");
        let row = client.query_one(ROW_EXPRESSION, &[&table]).await;
        let expression: String = row.unwrap_or_else(|error| panic!("{table}: {error:?}")).get(0);
        self.query_json(&client, &format!("select ({expression})::text from {table} t")).await
    }

    /// One row, one JSON text: what a query of one text column gives.
    pub(super) async fn query_json(&self, client: &Client, sql: &str) -> Vec<Value> {
        let rows = client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{error:?}\nin: {sql}"));
        rows.iter().map(|row| serde_json::from_str(row.get(0)).expect("JSON")).collect()
    }
}

/// The session settings under which Postgres prints values as rowcast does.
pub(super) const RENDERING: &str = "
    set timezone to 'UTC'; set intervalstyle to iso_8601; set datestyle to 'ISO'; set bytea_output to hex;
    create or replace function pg_temp.shape(type oid, value text) returns text language plpgsql as $$
    declare
        t pg_type := (select t from pg_type t where t.oid = type);
        i text := 'i' || length(value); -- longer the deeper
    begin
        if t.typtype = 'd' then
            return pg_temp.shape(t.typbasetype, format('(%s)::%s', value, format_type(t.typbasetype, null)));
        elsif type = 'numeric'::regtype then
            return format('to_jsonb((%s)::text)', value);
        elsif type = 'money'::regtype then
            return format('to_jsonb((%s)::numeric::text)', value);
        elsif type = 'numeric[]'::regtype then
            return format('to_jsonb((%s)::text[])', value);
        elsif type = 'money[]'::regtype then
            return format('to_jsonb((%s)::numeric[]::text[])', value);
        elsif t.typtype = 'c' then
            return format('case when (%s) is not distinct from null then null else jsonb_build_object(%s) end', value, (
                select string_agg(format('%L, %s', attname, pg_temp.shape(atttypid, format('(%s).%I', value, attname))), ', '
                    order by attnum)
                from pg_attribute where attrelid = t.typrelid and attnum > 0 and not attisdropped));
        elsif t.typcategory = 'A' and (select typtype from pg_type where oid = t.typelem) in ('c', 'd') then
            return format('case when (%s) is null then null else (select coalesce(jsonb_agg(%s order by %4$s), ''[]'')
                from generate_subscripts(%1$s, 1) %4$s) end', value,
                pg_temp.shape(t.typelem, format('((%s)[%s])', value, i)), value, i);
        end if;
        return format('to_jsonb(%s)', value);
    end $$;
";

/// A row of table `t` as one expression.
const ROW_EXPRESSION: &str = "
    select string_agg(
        format('jsonb_build_object(%L, %s)', attname, pg_temp.shape(atttypid, format('t.%I', attname))), ' || ' order by attnum)
    from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped";

const TABLES: &str = r#"
    select format('%I.%I', n.nspname, c.relname) as channel, a.attname as "column",
        format_type(a.atttypid, a.atttypmod) as "type",
        coalesce((select array_agg(k.attname order by array_position(i.indkey::int2[], k.attnum))
            from pg_index i join pg_attribute k on k.attrelid = i.indrelid and k.attnum = any(i.indkey)
            where i.indrelid = c.oid and i.indisprimary), '{}')::text[] as key
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'rowcast')
    order by 1, a.attnum"#;

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        // In a thread with a runtime of its own: the test's may be ending. A server that is gone took it all.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(10), remove(&admin, &name)).await.is_ok()
            });
        });
        let _ = thread.join();
    }
}

async fn remove(admin: &str, name: &str) -> Result<(), tokio_postgres::Error> {
    let client = connect(admin).await?;
    let active =
        "select count(pg_terminate_backend(active_pid)) from pg_replication_slots where database = $1";
    client.execute(active, &[&name]).await?;
    for _ in 0..50 {
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1";
        if client.execute(drop, &[&name]).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.batch_execute(&format!("drop database if exists \"{name}\" with (force)")).await
}

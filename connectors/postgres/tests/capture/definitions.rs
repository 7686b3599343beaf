//! What a database and its server are defined to be, as the catalog has it: a dump that needs no program of the server's
//! version, with roles and what they may, which `pg_dump` leaves to others.

use tokio_postgres::Client;

/// Each sort of definition, with a query for its lines. What is numbered is named; what the server has of its own is there
/// only as far as somebody may change it.
const SORTS: &[(&str, &str)] = &[
    ("schema", "select concat_ws(' ', nspname, nspowner::regrole, nspacl) from pg_namespace where nspname !~ '^pg_t'"),
    (
        "relation",
        "select concat_ws(' ', c.oid::regclass, relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity,
                relowner::regrole, relacl, reloptions, am.amname, pg_get_partkeydef(c.oid), pg_get_expr(relpartbound, c.oid),
                (select string_agg(inhparent::regclass::text, ',' order by inhseqno) from pg_inherits where inhrelid = c.oid),
                case when relkind in ('v', 'm') then pg_get_viewdef(c.oid) end)
         from pg_class c join named on named.oid = c.relnamespace left join pg_am am on am.oid = c.relam",
    ),
    (
        "column",
        "select concat_ws(' ', attrelid::regclass, row_number() over (partition by attrelid order by attnum), attname,
                format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attstorage, attcompression,
                attstattarget, attcollation::regcollation, attacl, attoptions, pg_get_expr(adbin, adrelid))
         from pg_attribute join pg_class c on c.oid = attrelid join named on named.oid = c.relnamespace
         left join pg_attrdef on adrelid = attrelid and adnum = attnum
         where attnum > 0 and not attisdropped",
    ),
    (
        "constraint",
        "select concat_ws(' ', conrelid::regclass, contypid::regtype, conname, convalidated, pg_get_constraintdef(o.oid))
         from pg_constraint o join named on named.oid = connamespace",
    ),
    (
        "index",
        "select concat_ws(' ', pg_get_indexdef(indexrelid), indisprimary, indisreplident, indisclustered, indisvalid)
         from pg_index join pg_class c on c.oid = indexrelid join named on named.oid = c.relnamespace",
    ),
    ("sequence", "select to_jsonb(s)::text from pg_sequences s"),
    ("trigger", "select concat_ws(' ', pg_get_triggerdef(oid), tgenabled) from pg_trigger where not tgisinternal"),
    (
        "rule",
        "select concat_ws(' ', pg_get_ruledef(r.oid), ev_enabled)
         from pg_rewrite r join pg_class c on c.oid = ev_class join named on named.oid = c.relnamespace",
    ),
    ("policy", "select to_jsonb(p)::text from pg_policies p"),
    (
        "function",
        "select concat_ws(' ', p.oid::regprocedure, prokind, proowner::regrole, proacl, proconfig,
                case when prokind in ('f', 'p') then pg_get_functiondef(p.oid) end)
         from pg_proc p join named on named.oid = pronamespace",
    ),
    (
        "type",
        "select concat_ws(' ', t.oid::regtype, typtype, typowner::regrole, typacl, typbasetype::regtype, typnotnull, typdefault,
                (select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum where enumtypid = t.oid))
         from pg_type t join named on named.oid = typnamespace",
    ),
    (
        "right",
        "select format('%s %s', kind, acl) from (
             select p.oid::regprocedure::text, proacl from pg_proc p union all select oid::regclass::text, relacl from pg_class
             union all select oid::regtype::text, typacl from pg_type
             union all select lanname, lanacl from pg_language union all select fdwname, fdwacl from pg_foreign_data_wrapper
             union all select srvname, srvacl from pg_foreign_server union all select datname, datacl from pg_database
             union all select spcname, spcacl from pg_tablespace union all select oid::text, lomacl from pg_largeobject_metadata
             union all select concat(defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype), defaclacl
                       from pg_default_acl) rights (kind, acl)
         where acl is not null",
    ),
    (
        "publication",
        "select concat_ws(' ', p.pubname, to_jsonb(p) - 'oid' - 'pubname',
                (select string_agg(concat_ws(' ', prrelid::regclass, (to_jsonb(r) ->> 'prattrs'),
                                             pg_get_expr((to_jsonb(r) ->> 'prqual')::pg_node_tree, prrelid)), ','
                                   order by prrelid::regclass::text) from pg_publication_rel r where prpubid = p.oid),
                (select string_agg(concat_ws('.', schemaname, tablename), ',' order by schemaname, tablename)
                 from pg_publication_tables t where t.pubname = p.pubname))
         from pg_publication p",
    ),
    (
        "event trigger",
        "select concat_ws(' ', evtname, evtevent, evtenabled, evttags, evtowner::regrole, evtfoid::regprocedure)
         from pg_event_trigger",
    ),
    (
        "comment",
        "select concat_ws(' ', pg_describe_object(classoid, objoid, objsubid), description) from pg_description
         where objoid >= 16384 or classoid <> all(array['pg_proc', 'pg_type', 'pg_operator', 'pg_cast']::regclass[])
         union all
         select concat_ws(' ', pg_describe_object(classoid, objoid, 0), description) from pg_shdescription",
    ),
    ("extension", "select concat_ws(' ', extname, extversion, extnamespace::regnamespace) from pg_extension"),
    ("role", "select (to_jsonb(r) - 'oid' - 'rolpassword')::text from pg_roles r"),
    (
        "member",
        "select concat_ws(' ', roleid::regrole, member::regrole, grantor::regrole, admin_option) from pg_auth_members",
    ),
    (
        "setting",
        "select concat_ws(' ', (select datname from pg_database d where d.oid = setdatabase), setrole::regrole, setconfig)
         from pg_db_role_setting",
    ),
    (
        "slot",
        "select concat_ws(' ', slot_name, plugin, slot_type, database, temporary, two_phase) from pg_replication_slots",
    ),
];

/// Schemas that are not the server's own.
const NAMED: &str = "with named as (
    select oid from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema') ";

/// A line for each definition, in an order of its own.
pub(super) async fn definitions(client: &Client) -> Vec<String> {
    client.batch_execute("set search_path = pg_catalog").await.unwrap();
    let mut all = Vec::new();
    for (sort, sql) in SORTS {
        let rows = client.query(&format!("{NAMED} {sql}"), &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sort}: {error:?}"));
        all.extend(rows.iter().map(|row| format!("{sort} {}", row.get::<_, &str>(0))));
    }
    all.sort();
    all
}

/// Lines that only one of two has.
pub(super) fn differing(before: &[String], now: &[String]) -> Vec<String> {
    let gone = before.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
    let new = now.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}

//! The schema `rowcast`: what in it is ours, who else needs it, and what outside does.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::Removal;
use crate::config::Source;
use crate::setup::former;
use crate::tables::literal;
use crate::wire::sql_error;

/// With all that is in it; before, it was made sure that this is ours and that nothing else depends on it.
const DROP_SCHEMA: &str = "DROP SCHEMA rowcast CASCADE;";

/// Tables and views of the migrations, and their history. A schema that holds more is not only ours.
const RELATIONS: [&str; 9] = [
    "capture",
    "chosen",
    "identifying",
    "identity",
    "installation",
    "lent",
    "migrations",
    "pattern",
    "secret",
];

/// And their functions, with the types of what they are given. One of the same name for something else is somebody's own.
const FUNCTIONS: [&str; 33] = [
    "bereft(rowcast.capture)",
    "channel(text,text)",
    "emit(text,text)",
    "held()",
    "hinders(oid,_text)",
    "identify(text,text)",
    "is_alone(text,text)",
    "is_identified(oid,bool,_text,_text)",
    "is_keyless(oid)",
    "is_new_key(rowcast.capture,oid)",
    "is_shown(rowcast.capture,oid)",
    "keep(oid)",
    "key(oid)",
    "lacks(oid)",
    "lend(rowcast.capture,oid)",
    "listed(text,oid)",
    "mac(bytea,bytea)",
    "member(text,oid)",
    "move(rowcast.capture,oid,bool)",
    "narrowing(text,oid)",
    "on_ddl()",
    "on_drop()",
    "on_types()",
    "publish(text,jsonb)",
    "refresh(rowcast.capture,oid)",
    "relieve(rowcast.capture,oid)",
    "repay(oid)",
    "say(text,bytea)",
    "settle(rowcast.capture,oid,bool)",
    "snapshot(regclass,text,text)",
    "tell(text,text,text,text)",
    "tree(oid)",
    "wants(text,text,text)",
];

/// What in the schema is not ours, and what outside depends on something in it. An event trigger of ours goes before.
/// Where something belongs that has no schema of its own (a rule, a default) its table says.
const FOREIGN: &str = "
select format('%I.%I', 'rowcast', relname) from pg_class
where relnamespace = to_regnamespace('rowcast') and relkind not in ('i', 'I', 't') and relname <> all($1::text[])
union
select p.oid::regprocedure::text from pg_proc p
where p.pronamespace = to_regnamespace('rowcast')
  and format('%s(%s)', p.proname, (
          select string_agg(case when n.nspname = 'pg_catalog' then t.typname else n.nspname || '.' || t.typname end, ','
                            order by a.place)
          from unnest(p.proargtypes) with ordinality a(type, place)
          join pg_type t on t.oid = a.type join pg_namespace n on n.oid = t.typnamespace)) <> all($2::text[])
union
select format('%I.%I', 'rowcast', t.typname) from pg_type t
where t.typnamespace = to_regnamespace('rowcast') and t.typtype in ('d', 'e', 'r')
union
select format('trigger %I on %s', t.tgname, t.tgrelid::regclass) from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = to_regnamespace('rowcast') and not t.tgisinternal
union
select format('%s %s', o.type, o.identity)
from pg_depend d, lateral pg_identify_object(d.classid, d.objid, d.objsubid) o
where d.deptype = 'n' and d.refclassid = 'pg_namespace'::regclass and d.refobjid = to_regnamespace('rowcast')
  and d.classid not in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass)
union
select format('%s %s', o.type, o.identity)
from pg_depend d, lateral pg_identify_object(d.classid, d.objid, d.objsubid) o,
     lateral pg_identify_object_as_address(d.classid, d.objid, d.objsubid) a
where d.deptype = 'n' and o.type <> 'event trigger'
  and coalesce(o.schema, quote_ident(a.object_names[1])) is distinct from 'rowcast'
  and (d.refclassid = 'pg_class'::regclass
           and d.refobjid in (select oid from pg_class where relnamespace = to_regnamespace('rowcast'))
    or d.refclassid = 'pg_proc'::regclass
           and d.refobjid in (select oid from pg_proc where pronamespace = to_regnamespace('rowcast'))
    or d.refclassid = 'pg_type'::regclass
           and d.refobjid in (select oid from pg_type where typnamespace = to_regnamespace('rowcast')))
order by 1";

/// Functions that call what is for everybody, as far as their text says so: the server knows of no dependence.
const CALLERS: &str = r#"
select format('%s %s', o.type, o.identity), (regexp_match(p.prosrc, CALLS, 'i'))[1]
from pg_proc p, lateral pg_identify_object('pg_proc'::regclass, p.oid, 0) o
where p.pronamespace not in (to_regnamespace('rowcast'), 'pg_catalog'::regnamespace) and p.prosrc ~* CALLS
order by 1"#;

const CALLS: &str = r#"'\mrowcast"?\s*[.]\s*"?(publish|snapshot|emit)\M'"#;

/// Slots of installations, and whether each is there; one of another database captures nothing here.
const SLOTS: &str = "
select i.slot, exists (select from pg_replication_slots s where s.slot_name = i.slot and s.database = current_database())
from rowcast.installation i order by 1";

/// Tables from which a slot's rows go; last the one that says that the slot is ours.
const BY_SLOT: &str = "
select t from unnest(array['chosen', 'capture', 'installation']) with ordinality x(t, place)
where to_regclass('rowcast.' || t) is not null order by place";

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Schema {
    pub(super) exists: bool,
    /// It has the list of slots.
    pub(super) is_known: bool,
    /// This slot is in the list.
    pub(super) ours: bool,
    /// Slots of other installations.
    others: Vec<String>,
    /// Of others that are gone.
    gone: Vec<String>,
    /// What is in it or depends on it and is not ours.
    foreign: Vec<String>,
    /// Tables of it with rows of a slot; an older one has fewer.
    by_slot: Vec<String>,
}

impl Schema {
    pub(super) async fn read(client: &Client, slot: &str) -> Result<Self> {
        let failed = |error| sql_error("Cannot read who uses the schema rowcast", error);
        let sql =
            "select to_regnamespace('rowcast') is not null, to_regclass('rowcast.installation') is not null";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        let foreign =
            client.query(FOREIGN, &[&RELATIONS.as_slice(), &FUNCTIONS.as_slice()]).await.map_err(failed)?;
        let foreign = foreign.iter().map(|row| row.get(0)).collect();
        let mut schema = Self { exists: row.get(0), is_known: row.get(1), foreign, ..Self::default() };
        if !schema.is_known {
            return Ok(schema);
        }
        for row in client.query(SLOTS, &[]).await.map_err(failed)? {
            match (row.get::<_, String>(0), row.get(1)) {
                (name, _) if name == slot => schema.ours = true,
                (name, true) => schema.others.push(name),
                (name, false) => schema.gone.push(name),
            }
        }
        let by_slot = client.query(BY_SLOT, &[]).await.map_err(failed)?;
        schema.by_slot = by_slot.iter().map(|row| row.get(0)).collect();
        Ok(schema)
    }

    /// All that is in it is ours, and nobody else's.
    pub(super) fn goes(&self) -> bool {
        self.exists && !self.is_shared() && self.foreign.is_empty()
    }

    /// Others have rows in it.
    pub(super) fn is_shared(&self) -> bool {
        !self.others.is_empty() || !self.gone.is_empty()
    }

    /// What stays with it, and why.
    pub(super) fn keeps(&self, title: String) -> Removal {
        if !self.others.is_empty() {
            let why = format!("another rowcast uses it, on slot {}", self.others.join(", "));
            return Removal::stays(title, why);
        }
        if let Some(slot) = self.gone.first() {
            return Removal::left(title, of_gone(slot));
        }
        let why = format!("not ours in it, or dependent on it: {}", self.foreign.join(", "));
        Removal::stays(title, why)
    }

    /// What becomes of it; `triggers` go with it.
    pub(super) fn removals(&self, source: &Source, triggers: &[String]) -> Vec<Removal> {
        let title = "schema rowcast".to_owned();
        if self.goes() {
            let with = if triggers.is_empty() {
                String::new()
            } else {
                format!(", and with it the event triggers {}", triggers.join(", "))
            };
            return vec![Removal::goes(format!("{title}{with}"), DROP_SCHEMA.to_owned())];
        }
        if !self.exists {
            return Vec::new();
        }
        let slot = literal(&source.slot);
        let tables = self.by_slot.iter();
        let rows: Vec<String> =
            tables.map(|table| format!("DELETE FROM rowcast.{table} WHERE slot = {slot};")).collect();
        let rows = rows.join(" ");
        let rows = self.ours.then(|| Removal::goes(format!("the rows of slot {}", source.slot), rows));
        rows.into_iter().chain([self.keeps(title)]).collect()
    }
}

/// Why what a rowcast has made stays when its slot is gone: it may wait for a person to be adopted.
pub(super) fn of_gone(slot: &str) -> String {
    format!("it is of the rowcast on slot {slot}, which is gone. {}", former::remedy(slot))
}

/// Functions of other people's that fail once the schema is gone, a trigger's with whoever writes to its table.
pub(super) async fn callers(client: &Client) -> Result<Vec<Removal>> {
    let rows = client.query(&CALLERS.replace("CALLS", CALLS), &[]).await;
    let rows = rows.map_err(|error| sql_error("Cannot look for functions that call rowcast's", error))?;
    let told = rows.iter().map(|row| {
        let (name, called): (String, &str) = (row.get(0), row.get(1));
        Removal::stays(
            name,
            format!("it calls rowcast.{called}, and fails without the schema: change or drop it"),
        )
    });
    Ok(told.collect())
}

//! Whether values of `money` are told as what they are: Postgres stores a count of the smallest coins, and what those are is
//! said by `lc_monetary` of whoever writes and reads.

use rowcast_engine::Result;
use tokio_postgres::Client;

use super::{NAMED_TABLES, Requirement, requirement};
use crate::conninfo::Conninfo;
use crate::setup::candidates::Table;
use crate::wire::{Connection, Purpose, sql_error};

/// As all of our sessions have them (`wire/session.rs`).
const DECIMALS: &str = "2";

/// Columns that have money in them, somewhere.
const COLUMNS: &str = "
with recursive parts (of, part) as (
    select oid, typelem from pg_type where typelem <> 0
    union all select oid, typbasetype from pg_type where typbasetype <> 0
    union all select c.reltype, a.atttypid from pg_class c join pg_attribute a on a.attrelid = c.oid
              where c.reltype <> 0 and a.attnum > 0 and not a.attisdropped
), types (oid) as (
    select 'money'::regtype::oid union select p.of from types join parts p on p.part = types.oid
)
select n.nspname::text, c.relname::text, a.attname::text
from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped and a.atttypid in (select oid from types)
order by 1, 2, a.attnum";

/// How many decimals money has for others, and by which locale.
const OF_OTHERS: &str = "select scale('1'::money::numeric), current_setting('lc_monetary')";

/// Names what is told with another number of decimals than it has.
pub(super) async fn of_decimals(
    client: &Client,
    here: &Conninfo,
    wanted: &[&Table],
) -> Result<Option<Requirement>> {
    let oids: Vec<u32> = wanted.iter().map(|table| table.oid).collect();
    let rows = client.query(COLUMNS, &[&oids]).await;
    let rows = rows.map_err(|error| sql_error("Cannot see which columns have money", error))?;
    if rows.is_empty() {
        return Ok(None);
    }
    let name = |row: &tokio_postgres::Row| {
        let channel = rowcast_engine::schema::Schema::channel_of(row.get(0), row.get(1));
        format!("{channel} ({})", row.get::<_, &str>(2))
    };
    let columns: Vec<String> = rows.iter().map(name).collect();
    // Whatever is wrong with a further session is no reason to say nothing of all else.
    let answer = match ask(here).await {
        Ok(answer) => answer,
        Err(error) => {
            let found = format!("cannot be compared: {error}");
            return Ok(Some(requirement("money", true, found, error.remedy().map(str::to_owned))));
        }
    };
    let Some([Some(decimals), Some(locale)]) = answer.first().map(Vec::as_slice) else { return Ok(None) };
    Ok(of(decimals, locale, &columns))
}

async fn ask(here: &Conninfo) -> Result<Vec<Vec<Option<String>>>> {
    Connection::connect(here, Purpose::Locale).await?.simple_query(OF_OTHERS).await
}

fn of(decimals: &str, locale: &str, columns: &[String]) -> Option<Requirement> {
    if decimals == DECIMALS {
        return None;
    }
    let more = match columns.len().saturating_sub(NAMED_TABLES) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let named = columns.iter().take(NAMED_TABLES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let found = format!(
        "with lc_monetary = {locale} it has {decimals} decimals, and rowcast tells it with {DECIMALS}, by the same digits: \
         {named}{more}"
    );
    let remedy = "Whoever reads the events has to move the point; or, in a session with that lc_monetary, ALTER TABLE … ALTER \
                  COLUMN … TYPE numeric USING …::numeric;";
    Some(requirement("money", true, found, remedy.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_decimals_are_told() {
        assert_eq!(of("2", "en_US.UTF-8", &["public.t (m)".to_owned()]), None);
        let columns: Vec<String> = (0..=NAMED_TABLES).map(|at| format!("public.t{at} (m)")).collect();
        let told = of("0", "ja_JP.UTF-8", &columns).unwrap();
        assert!(told.ok && told.found.contains("ja_JP.UTF-8 it has 0 decimals"), "{told:?}");
        assert!(told.found.ends_with("public.t19 (m), and 1 more"), "{told:?}");
    }
}

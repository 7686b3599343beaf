//! How many rows a table is thought to have.

use rowcast_engine::Result;
use tokio_postgres::{SimpleQueryMessage, Transaction};

use super::{all_of, source};
use crate::catalog::Shown;
use crate::snapshot::job::Job;
use crate::wire::row_error;

/// What statistics say; where there are none yet, or conditions leave rows out, what the planner makes of it. Asked once:
/// of a table that is read by its chunks it costs no more than its first.
pub(super) async fn of(transaction: &Transaction<'_>, job: &Job, shown: &Shown) -> Result<u64> {
    let filters = [shown.filter.as_ref(), job.condition.as_ref()];
    let is_all = filters.iter().all(Option::is_none);
    let known = if shown.estimate > 0 && is_all { shown.estimate } else { job.progress.estimate };
    if known > 0 {
        return Ok(known);
    }
    let conditions: Vec<String> = filters.into_iter().flatten().map(|sql| format!("({sql}\n)")).collect();
    let sql = format!("explain (format json) select from {}{}", source(job, shown), all_of(&conditions));
    let failed = |error| row_error("Cannot ask how many rows the table may have", error);
    let answer = transaction.simple_query(&sql).await.map_err(failed)?;
    let plan = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(plan.and_then(rows_of).unwrap_or(0))
}

fn rows_of(plan: &str) -> Option<u64> {
    let plan: serde_json::Value = serde_json::from_str(plan).ok()?;
    plan.get(0)?.get("Plan")?.get("Plan Rows")?.as_u64()
}

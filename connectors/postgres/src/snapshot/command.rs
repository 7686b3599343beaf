//! What somebody wants of snapshots, as changes of the journal's notes.

use rowcast_engine::snapshots::{Command, Ordered};
use rowcast_engine::{Error, Result};
use tokio_postgres::Client;

use super::condition::try_out;
use super::job::{Job, Jobs, Since};
use super::keyless;
use super::rowless::rows_last;
use super::task::{Surroundings, tables};
use super::unread;
use crate::capture::now;
use crate::tables::{Tables, qualified};
use crate::wire::{answering_client, sql_error};

/// The notes that carry it out, and what it is about.
pub(super) async fn carry_out(around: &Surroundings, jobs: Jobs, command: Command) -> Result<Changed> {
    match command {
        Command::Start { tables, condition } => start(around, &jobs, &tables, condition).await,
        Command::Pause(tables) => change(jobs, &tables, |job| {
            job.paused = true;
            job.json().map(Some)
        }),
        Command::Resume(tables) => change(jobs, &tables, resumed),
        Command::Cancel(tables) => change(jobs, &tables, |_| Ok(Some(Vec::new()))),
    }
}

/// What is being read is nobody's to write: its reader has come further than the notes say.
fn resumed(job: &mut Job) -> Result<Option<Vec<u8>>> {
    std::mem::take(&mut job.paused).then(|| job.json()).transpose()
}

type Changed = (Vec<(String, Vec<u8>)>, Ordered);

async fn start(
    around: &Surroundings,
    jobs: &Jobs,
    patterns: &[String],
    condition: Option<String>,
) -> Result<Changed> {
    let wanted = Tables::parse(patterns, &[])?;
    let client = answering_client(&around.source.info).await?;
    hurry(&client).await?;
    let captured = tables(&client, &around.source, around.version).await?;
    let chosen: Vec<_> =
        captured.into_iter().filter(|(schema, table)| wanted.matches(schema, table)).collect();
    if chosen.is_empty() {
        return Err(Error::usage(format!("No captured table matches {}", patterns.join(", ")))
            .hint("`rowcast status --json` lists the captured tables: source.tables"));
    }
    if condition.is_some() && chosen.len() > 1 {
        return Err(Error::usage("A condition is for one table, and several match"));
    }
    if let (Some(condition), Some((schema, table))) = (&condition, chosen.first()) {
        // One that cannot be is told to whoever gave it.
        try_out(&client, &qualified(schema, table), condition, sql_error).await?;
    }
    let snapshot = u64::try_from(now()).unwrap_or(0);
    let newest = around.journal.newest();
    let since = Since::Event(newest);
    let mut changed = Changed::default();
    for job in rows_last(&client, chosen, around.history, around.source.publications()).await? {
        let job = Job { snapshot, since, ad_hoc: true, condition: condition.clone(), ..job };
        let is_same = |other: &Job| (&other.schema, &other.table) == (&job.schema, &job.table);
        if jobs.tables.values().any(|other| other.sinks.is_empty() && is_same(other)) {
            return Err(Error::refused(format!("A snapshot of {} is under way already", job.channel()))
                .hint("`rowcast snapshot --status` shows it, `--cancel` ends it"));
        }
        if job.keyless && job.condition.is_some() {
            return Err(Error::refused(format!(
                "{} has no key, and {}",
                job.channel(),
                keyless::NO_CONDITION
            ))
            .hint("Read it without a condition, or give it a key"));
        }
        changed.0.push((job.note(), job.json()?));
        changed.0.extend(unread::for_everybody(&around.journal, &job));
        if job.keyless {
            changed.1.since.insert(job.channel(), newest);
        }
        changed.1.tables.push(job.channel());
    }
    Ok(changed)
}

/// From 16 on the list of the publications' tables waits for whoever has one of them for itself; meanwhile no other
/// command would be heard.
pub(super) async fn hurry(client: &Client) -> Result<()> {
    let failed = |error| sql_error("Cannot limit the wait for locks", error);
    client.batch_execute("set lock_timeout = '2s'").await.map_err(failed)
}

/// `to` gives what is to be noted, where that is another thing.
fn change(
    jobs: Jobs,
    patterns: &[String],
    to: impl Fn(&mut Job) -> Result<Option<Vec<u8>>>,
) -> Result<Changed> {
    let wanted = Tables::parse(patterns, &[])?;
    let mut changed = Changed::default();
    for (note, mut job) in jobs.tables.into_iter().filter(|(_, job)| wanted.matches(&job.schema, &job.table))
    {
        changed.1.tables.push(job.channel());
        changed.0.extend(to(&mut job)?.map(|json| (note, json)));
    }
    if changed.1.tables.is_empty() {
        return Err(Error::usage(format!("No unfinished snapshot matches {}", patterns.join(", "))));
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_paused_goes_on_and_is_noted() {
        let job = |table: &str, paused| {
            let job = Job { schema: "public".to_owned(), table: table.to_owned(), paused, ..Job::default() };
            (job.note(), job)
        };
        let jobs = |all: [(String, Job); 2]| Jobs { tables: all.into(), ..Jobs::default() };
        let (notes, ordered) =
            change(jobs([job("read", false), job("held", true)]), &["*".to_owned()], resumed).unwrap();
        assert_eq!(ordered.tables, ["public.held", "public.read"]);
        assert_eq!(notes, [(job("held", false).0, job("held", false).1.json().unwrap())]);
        // Nothing to do is no error.
        let (notes, _) =
            change(jobs([job("a", false), job("b", false)]), &["*".to_owned()], resumed).unwrap();
        assert!(notes.is_empty());
    }
}

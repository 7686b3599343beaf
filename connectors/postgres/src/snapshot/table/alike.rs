//! Those who have wished for the very rows that are going to be read.

use rowcast_engine::Result;

use super::Reading;
use crate::snapshot::job::{Job, Jobs, Since};

impl Reading {
    /// Looks, before the reading's first window is opened, who waits for the same rows: a row that gives way does so to an
    /// event behind all of their places. Whoever comes later may have begun behind such an event, and lack the row.
    pub(super) fn look_for_alike(&mut self) -> Result<()> {
        if self.job.wish.is_none() || self.job.progress.cursor.is_some() || self.window.is_some() {
            return Ok(());
        }
        let jobs = Jobs::read(&self.around.journal.notes())?.tables;
        let alike = jobs.into_iter().filter(|(_, other)| is_alike(&self.job, other));
        self.alike = alike.map(|(note, _)| note).collect();
        Ok(())
    }

    /// The table has a key, and who has all of its rows behind his place ends with it, wherever that is. So their wishes are
    /// this one from here on, in one batch of the journal: a crash leaves all of them or this one, none of it read.
    pub(super) async fn answer_alike(&mut self) -> Result<()> {
        let alike = std::mem::take(&mut self.alike);
        if alike.is_empty() {
            return Ok(());
        }
        // Should it lose its key before the end, nobody could say what each of them lacks: then it is given up.
        let job = Job { since: Since::Unknown, ..self.job.clone() };
        let mut notes = vec![(job.note(), job.json()?)];
        notes.extend(alike.into_iter().map(|note| (note, Vec::new())));
        // Where there is no room each is read for itself, when there is.
        if self.around.note(&notes).await.is_ok() {
            self.job = job;
        }
        Ok(())
    }
}

/// Whether another wish is for the same rows, and waits. One whose place is being looked up may be noted with it any moment.
fn is_alike(job: &Job, other: &Job) -> bool {
    let of = |job: &Job| (job.schema.clone(), job.table.clone(), job.condition.clone());
    let placed = !matches!(other.since, Since::Commit(_));
    let waits = placed && !other.paused && other.progress.cursor.is_none();
    other.wish.is_some() && other.wish != job.wish && waits && of(other) == of(job)
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Lsn;

    use super::*;
    use crate::snapshot::job::{Progress, Wish};

    #[test]
    fn only_wishes_that_wait_for_the_same_rows_are_alike() {
        let job = |at: u64| Job {
            table: "t".to_owned(),
            condition: Some("a".to_owned()),
            wish: Some(Wish { at: Lsn(at), number: 0 }),
            ..Job::default()
        };
        assert!(is_alike(&job(1), &job(2)));
        for other in [
            job(1),
            Job { wish: None, ..job(2) },
            Job { condition: None, ..job(2) },
            Job { table: "u".to_owned(), ..job(2) },
            Job { paused: true, ..job(2) },
            Job { since: Since::Commit(Lsn(2)), ..job(2) },
            Job { progress: Progress { cursor: Some(Vec::new()), ..Progress::default() }, ..job(2) },
        ] {
            assert!(!is_alike(&job(1), &other), "{other:?}");
        }
    }
}

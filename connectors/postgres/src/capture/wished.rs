//! Tables whose rows a transaction asks for.

use rowcast_engine::status::Status;

use crate::snapshot::job::Job;

/// Conditions that one transaction may name, and wishes for a table that may wait to be read: each stands in a note, and
/// every segment of the journal begins with all notes.
const WISHES_MAX: usize = 1_000;

/// Bytes of the conditions of one transaction, and of all that wait. Each has 64 kB at most, and few have a hundred bytes.
const CONDITIONS_MAX: usize = 4 << 20;

/// Why one more is not taken.
const TOO_MANY: &str = "a transaction may ask for 1,000 snapshots with conditions of 4 MB together at most: ask for \
                        fewer, with wider ones";
const MANY_WAIT: &str = "1,000 snapshots of the table wait already, or conditions of 4 MB together: ask again when they \
                         are done (rowcast snapshot --status)";

/// Those of one transaction, each with what came before it: a savepoint that is rolled back may take it along.
#[derive(Debug, Default)]
pub(super) struct Wished(Vec<(u32, Job)>);

impl Wished {
    /// Takes one in, unless what was asked for before has its rows. Or gives the reason why it is not taken.
    pub(super) fn take_in(&mut self, at: u32, job: Job, status: &Status) -> Result<(), &'static str> {
        if self.0.iter().any(|(_, before)| has_rows_of(before, &job)) {
            return Ok(());
        }
        let conditions = self.0.iter().filter(|(_, job)| job.condition.is_some()).count();
        let (own, bytes) = (self.bytes(), job.condition_bytes());
        if job.condition.is_some() && (conditions >= WISHES_MAX || own + bytes > CONDITIONS_MAX) {
            return Err(TOO_MANY);
        }
        let (channel, mut waiting, mut of_all) = (job.channel(), 0, 0);
        status.snapshots(|board| {
            waiting = board.values().filter(|shown| shown.channel == channel).count();
            of_all = board.values().map(|shown| shown.condition_bytes).sum();
        });
        if waiting >= WISHES_MAX || (bytes > 0 && of_all + own + bytes > CONDITIONS_MAX) {
            return Err(MANY_WAIT);
        }
        self.0.push((at, job));
        Ok(())
    }

    /// Bytes of their conditions.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, job)| job.condition_bytes()).sum()
    }

    /// Forgets those behind an event.
    pub(super) fn undo(&mut self, from: u32) {
        self.0.retain(|(at, _)| *at <= from);
    }

    /// All of them, in their order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Job> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(_, job)| job)
    }
}

/// Whether whoever gets the rows of one has those of another: both are read behind the same commit.
fn has_rows_of(one: &Job, other: &Job) -> bool {
    (&one.schema, &one.table) == (&other.schema, &other.table)
        && (one.condition.is_none() || one.condition == other.condition)
}

#[cfg(test)]
mod tests {
    use rowcast_engine::snapshots::Shown;

    use super::*;

    fn job(table: &str, condition: Option<String>) -> Job {
        Job { schema: "public".to_owned(), table: table.to_owned(), condition, ..Job::default() }
    }

    fn asked(wishes: &mut Wished) -> Vec<(String, Option<String>)> {
        wishes.take().map(|job| (job.table, job.condition)).collect()
    }

    #[test]
    fn what_has_been_asked_for_is_not_asked_for_again() {
        let (mut wishes, status) = (Wished::default(), Status::default());
        let some = |condition: &str| Some(condition.to_owned());
        for (at, table, condition) in [
            (0, "a", some("1")),
            (1, "a", some("1")),
            (2, "a", some("2")),
            (3, "a", None),
            (4, "a", some("3")),
            (4, "b", None),
        ] {
            wishes.take_in(at, job(table, condition), &status).unwrap();
        }
        wishes.undo(3);
        let expected = [("a", some("1")), ("a", some("2")), ("a", None)];
        assert_eq!(asked(&mut wishes), expected.map(|(table, condition)| (table.to_owned(), condition)));
        assert_eq!(asked(&mut wishes), []);
    }

    #[test]
    fn too_many_are_refused() {
        let (mut wishes, status) = (Wished::default(), Status::default());
        for number in 0..WISHES_MAX {
            wishes.take_in(0, job("a", Some(number.to_string())), &status).unwrap();
        }
        assert_eq!(wishes.take_in(0, job("a", Some("more".to_owned())), &status), Err(TOO_MANY));
        assert_eq!(
            wishes.take_in(0, job("a", None), &status),
            Ok(()),
            "with all rows it is one more and the last"
        );
        status.snapshots(|board| {
            for number in 0..WISHES_MAX {
                board
                    .insert(number.to_string(), Shown { channel: "public.b".to_owned(), ..Shown::default() });
            }
        });
        assert_eq!(wishes.take_in(0, job("b", None), &status), Err(MANY_WAIT));
        assert_eq!(wishes.take_in(0, job("c", None), &status), Ok(()));
    }

    #[test]
    fn conditions_are_bounded_in_bytes() {
        let (mut wishes, status) = (Wished::default(), Status::default());
        let mut quarter =
            (b'a'..).map(|letter| Some(char::from(letter).to_string().repeat(CONDITIONS_MAX / 4)));
        let mut next = || job("a", quarter.next().unwrap());
        for _ in 0..4 {
            wishes.take_in(0, next(), &status).unwrap();
        }
        assert_eq!(wishes.bytes(), CONDITIONS_MAX);
        assert_eq!(wishes.take_in(0, next(), &status), Err(TOO_MANY));
        // Those of others that wait.
        wishes.take().for_each(drop);
        status.snapshots(|board| {
            let waiting = Shown { condition_bytes: CONDITIONS_MAX / 2, ..Shown::default() };
            board.insert("elsewhere".to_owned(), waiting);
        });
        wishes.take_in(0, next(), &status).unwrap();
        wishes.take_in(0, next(), &status).unwrap();
        assert_eq!(wishes.take_in(0, next(), &status), Err(MANY_WAIT));
        assert_eq!(wishes.take_in(0, job("a", None), &status), Ok(()), "all of a table says less");
    }
}

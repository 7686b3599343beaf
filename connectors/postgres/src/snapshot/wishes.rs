//! Sinks that begin with the rows that are there: what they wish for is read for them alone.
//!
//! A sink has stored where it begins before it says its wish, so all that is read later comes behind that place. Which
//! wish has been taken up stands in a note, stored together with the jobs: a crash before reads nothing twice, a crash
//! behind forgets nothing.

use std::collections::{BTreeMap, BTreeSet};

use rowcast_engine::Result;
use rowcast_engine::cursor::Started;

use super::job::{self, Job, Jobs, Since, TakenUp, taken_up_note};
use super::task::{Surroundings, jobs_of, notes_of};
use crate::capture::now;

/// The push doors, each with how it began, if it did with a wish.
pub(super) type Wishes = BTreeMap<String, Option<Started>>;

/// Makes jobs of wishes that are new, one reading for all of them, and gives up those of sinks that there are no more.
/// Gives whether there was anything to do.
pub(super) async fn take_up(around: &Surroundings, jobs: &Jobs, wishes: &Wishes) -> Result<bool> {
    let mut notes = if around.status.knows_sinks() { given_up(jobs, wishes) } else { Vec::new() };
    let new = places(jobs, wishes);
    let names: Vec<&str> = new.iter().map(|(sink, _)| sink.as_str()).collect();
    if !new.is_empty() {
        let snapshot = u64::try_from(now()).unwrap_or(0);
        let listed = jobs_of(around, &Job { snapshot, ..Job::default() }, &new).await?;
        tracing::info!(
            sinks = names.join(" "),
            tables = listed.len(),
            "The rows of all captured tables are read for {} alone (start = \"snapshot\")",
            names.join(" and ")
        );
        notes.extend(notes_of(listed)?);
        notes.extend(marks(jobs, wishes)?);
    }
    if !notes.is_empty() {
        around.note(&notes).await?;
    }
    Ok(!notes.is_empty())
}

/// The notes that say that every wish is taken up by a snapshot for everybody, which begins: what was to be read for
/// some alone need not be.
pub(super) fn answered(jobs: &Jobs, wishes: &Wishes) -> Result<Vec<(String, Vec<u8>)>> {
    let mut notes = marks(jobs, wishes)?;
    notes.extend(jobs.tables.iter().filter(|(_, job)| !job.sinks.is_empty()).map(|(note, _)| gone(note)));
    Ok(notes)
}

fn new<'a>(jobs: &'a Jobs, wishes: &'a Wishes) -> impl Iterator<Item = (&'a String, Started)> {
    let wished = wishes.iter().filter_map(|(sink, wish)| Some((sink, (*wish)?)));
    wished.filter(move |(sink, wish)| jobs.taken_up.get(*sink) != Some(&wish.at))
}

/// The sinks whose wishes are new, each with the event behind which it began.
pub(super) fn places(jobs: &Jobs, wishes: &Wishes) -> Vec<(String, u64)> {
    new(jobs, wishes).map(|(sink, wish)| (sink.clone(), wish.id)).collect()
}

/// The jobs that read a table for sinks alone, of which one is like this: one for all of them, since whoever has a key
/// loses nothing by rows that he has. Of a table without one each place needs a reading of its own. With no sinks: for
/// everybody.
pub(super) fn shared_by(job: Job, sinks: &[(String, u64)]) -> Vec<Job> {
    let mut places: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (sink, place) in sinks {
        places.entry(*place).or_default().push(sink.clone());
    }
    if sinks.is_empty() {
        return vec![job];
    }
    if places.len() > 1 && !job.keyless {
        let sinks = sinks.iter().map(|(sink, _)| sink.clone()).collect();
        return vec![Job { sinks, since: Since::Unknown, ..job }];
    }
    let at = |(place, sinks)| Job { sinks, since: Since::Event(place), ..job.clone() };
    places.into_iter().map(at).collect()
}

/// Of tables without a key that are wanted more than once: the job that goes before the others, by the table's channel.
/// It is the one that began first. Who began later gets its rows, too, and they are reckoned with; the other way round he
/// would have them twice.
pub(super) fn before_others(jobs: &Jobs) -> BTreeMap<String, String> {
    let mut first: BTreeMap<String, (Since, String)> = BTreeMap::new();
    // Of one table all: one that was wished for by an earlier version of rowcast does not say it.
    let keyless: BTreeSet<String> =
        jobs.tables.values().filter(|job| job.keyless).map(Job::channel).collect();
    for (note, job) in jobs.tables.iter().filter(|(_, job)| keyless.contains(&job.channel())) {
        let mine = (job.since, note.clone());
        let held = first.entry(job.channel()).or_insert_with(|| mine.clone());
        if mine < *held {
            *held = mine;
        }
    }
    first.into_iter().map(|(channel, (_, note))| (channel, note)).collect()
}

fn marks(jobs: &Jobs, wishes: &Wishes) -> Result<Vec<(String, Vec<u8>)>> {
    let mark = |(sink, wish): (&String, Started)| -> Result<(String, Vec<u8>)> {
        Ok((taken_up_note(sink), job::json(&TakenUp { wish: wish.at })?))
    };
    new(jobs, wishes).map(mark).collect()
}

/// What is not read, since nobody is there whom it is for. A sink that comes back with its position wishes anew.
fn given_up(jobs: &Jobs, wishes: &Wishes) -> Vec<(String, Vec<u8>)> {
    let mut notes = Vec::new();
    for (note, job) in jobs.tables.iter().filter(|(_, job)| !job.sinks.is_empty()) {
        let away = job.sinks.iter().filter(|sink| !wishes.contains_key(*sink));
        notes.extend(
            away.filter(|sink| jobs.taken_up.contains_key(*sink)).map(|sink| gone(&taken_up_note(sink))),
        );
        if job.sinks.iter().all(|sink| !wishes.contains_key(sink)) {
            tracing::warn!(
                table = job.channel(),
                "No more rows are read for {}, which is not configured any more",
                job.sinks.join(" and ")
            );
            notes.push(gone(note));
        }
    }
    notes
}

fn gone(note: &str) -> (String, Vec<u8>) {
    (note.to_owned(), Vec::new())
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Lsn;
    use rowcast_engine::event::Micros;
    use rowcast_engine::sink::Start;

    use super::*;
    use crate::snapshot::job::Wish;

    fn jobs(sinks: &[&str], taken_up: &[(&str, Micros)]) -> Jobs {
        let sinks = sinks.iter().map(ToString::to_string).collect();
        let job = Job { sinks, schema: "public".to_owned(), table: "t".to_owned(), ..Job::default() };
        let taken_up = taken_up.iter().map(|(sink, wish)| ((*sink).to_owned(), *wish)).collect();
        Jobs { all: None, tables: BTreeMap::from([(job.note(), job)]), taken_up }
    }

    fn wishes(all: &[(&str, Option<Micros>)]) -> Wishes {
        let began = |at| Started { how: Start::Snapshot, id: 100, at };
        all.iter().map(|(sink, wish)| ((*sink).to_owned(), wish.map(began))).collect()
    }

    fn names(notes: &[(String, Vec<u8>)]) -> Vec<(&str, bool)> {
        notes.iter().map(|(name, json)| (name.as_str(), json.is_empty())).collect()
    }

    #[test]
    fn a_wish_is_taken_up_once_and_a_new_one_of_the_same_sink_again() {
        let jobs = jobs(&["a"], &[("a", 5)]);
        assert_eq!(new(&jobs, &wishes(&[("a", Some(5)), ("b", None)])).count(), 0);
        let again = wishes(&[("a", Some(6)), ("b", Some(7))]);
        assert_eq!(names(&marks(&jobs, &again).unwrap()), [("rows for a", false), ("rows for b", false)]);
    }

    #[test]
    fn a_snapshot_for_everybody_answers_all_wishes() {
        let jobs = jobs(&["a"], &[("a", 5)]);
        let answered = answered(&jobs, &wishes(&[("a", Some(5)), ("b", Some(7))])).unwrap();
        assert_eq!(names(&answered), [("rows for b", false), ("snapshot public.t for a", true)]);
    }

    #[test]
    fn a_table_without_a_key_is_read_once_for_each_place_and_the_first_place_goes_first() {
        let began = |sinks: &[(&str, u64)]| -> Vec<(String, u64)> {
            sinks.iter().map(|(sink, id)| ((*sink).to_owned(), *id)).collect()
        };
        let job = |keyless| Job { keyless, since: Since::Event(3), ..Job::default() };
        let of = |keyless, sinks: &[(&str, u64)]| -> Vec<(String, Since)> {
            let jobs = shared_by(job(keyless), &began(sinks)).into_iter();
            jobs.map(|job| (job.sinks.join(" "), job.since)).collect()
        };
        let places = [("a", 5), ("b", 9), ("c", 5)];
        assert_eq!(of(false, &places), [("a b c".to_owned(), Since::Unknown)]);
        assert_eq!(of(false, &[("a", 5)]), [("a".to_owned(), Since::Event(5))]);
        let two = [("a c".to_owned(), Since::Event(5)), ("b".to_owned(), Since::Event(9))];
        assert_eq!(of(true, &places), two);
        assert_eq!(of(true, &[]), [(String::new(), Since::Event(3))]);

        let mut all = Jobs::default();
        for job in shared_by(job(true), &began(&places)).into_iter().chain([job(true)]) {
            all.tables.insert(job.note(), job);
        }
        let everybody = job(true);
        assert_eq!(before_others(&all), BTreeMap::from([(everybody.channel(), everybody.note())]));
        all.tables.remove(&everybody.note());
        assert!(before_others(&all).values().next().unwrap().ends_with("for a c"));
        // As an earlier version noted it, which did not look whether the table has a key.
        let wish = Wish { at: Lsn(7), number: 0 };
        let wished = Job { keyless: false, wish: Some(wish), since: Since::Event(3), ..job(false) };
        all.tables.insert(wished.note(), wished.clone());
        assert_eq!(before_others(&all), BTreeMap::from([(wished.channel(), wished.note())]));
        let wishes = wishes(&[("a", Some(5)), ("b", None)]);
        assert_eq!(super::places(&Jobs::default(), &wishes), [("a".to_owned(), 100)]);
    }

    #[test]
    fn what_is_for_nobody_is_not_read_and_is_wished_for_anew() {
        let both = jobs(&["a", "b"], &[("a", 5), ("b", 5)]);
        assert!(given_up(&both, &wishes(&[("a", Some(5)), ("b", Some(5))])).is_empty());
        assert_eq!(names(&given_up(&both, &wishes(&[("a", Some(5))]))), [("rows for b", true)]);
        let none = given_up(&both, &wishes(&[]));
        let all = [("rows for a", true), ("rows for b", true), ("snapshot public.t for a b", true)];
        assert_eq!(names(&none), all);
    }
}

//! What the publications published when it was last looked, as a note of the journal. A table that left them and came back,
//! or whose operations, columns or rows were others for a while, lacks what came between: that is owed to its readers as a
//! gap, which is noted before anything is set right again, and told once the stream is behind it.

use std::collections::{BTreeMap, BTreeSet};

use rowcast_engine::journal::{ChannelGap, Journal};
use rowcast_engine::{Error, Lsn, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::connect::now;
use crate::config::Source;
use crate::setup::contents::{self, Contents, Membership, Options, Place};
use crate::snapshot::job::{Job, Since, Wish};
use crate::snapshot::rows_last;

/// Its name in the journal.
pub(super) const NOTE: &str = "contents";

/// Of its form.
const VERSION: u32 = 1;

/// The reason of the gaps.
const REASON: &str = "not_published";

/// What brings the rows as they are.
const REMEDY: &str = "`rowcast snapshot TABLE` reads its rows as they are now";

/// So many tables are named in the log; each has a gap.
const NAMED: usize = 5;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    version: u32,
    publications: BTreeMap<String, Options>,
    /// By their OID.
    tables: BTreeMap<u32, Vec<Membership>>,
    /// Likewise.
    owed: BTreeMap<u32, Owed>,
}

/// A gap that is still to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    why: Why,
    /// When the stream has come here; never while the table is not captured.
    due: Option<Lsn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    /// It was captured, and for a while it was not.
    Left,
    /// It is in its publication by another membership.
    Anew,
    /// The publication's operations are others, or were.
    Altered,
    /// It is in a publication that was made beside the stream, and read later.
    Late,
}

impl Why {
    fn detail(self) -> &'static str {
        match self {
            Self::Left => {
                "The table had left what is captured, and is captured again: what changed meanwhile is in no event"
            }
            Self::Anew => {
                "The table was taken into its publication anew: what changed between is in no event, and where its columns \
                 or rows were chosen otherwise, events of before lack what is published now, or have what is not"
            }
            Self::Altered => {
                "The publication of the table was altered, maybe for a while only: operations that it did not publish then are \
                 in no event"
            }
            Self::Late => {
                "The publication of the table was made while the stream ran: what changed in the table before the stream read \
                 that publication is in no event"
            }
        }
    }
}

/// Looks after the note.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    journal: Journal,
}

impl Keeper {
    pub(super) fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone() }
    }

    /// Whether anything has been noted of this history.
    pub(super) fn is_kept(&self) -> bool {
        self.journal.note_named(NOTE).is_some_and(|json| !json.is_empty())
    }

    /// Compares what is published with what was, and notes durably both what is now and what is owed for it. `ours`: the
    /// options of the publications were altered by rowcast since the look before.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked, or the journal does not take the note.
    pub(super) async fn look(
        &self,
        client: &mut Client,
        source: &Source,
        version: u32,
        ours: bool,
    ) -> Result<Contents> {
        let seen = contents::read(client, source, version).await?;
        let before = self.noted()?;
        let next = match &before {
            None => compare(&Noted::default(), &seen, true),
            Some(before) => {
                let mut next = compare(before, &seen, ours);
                let absent: Vec<u32> = next.absent().collect();
                if !absent.is_empty() {
                    let there = contents::existing(client, &absent).await?;
                    next.owed.retain(|table, owed| owed.due.is_some() || there.contains_key(table));
                    tell_left(before, &next, &there);
                }
                next
            }
        };
        if before.as_ref() != Some(&next) {
            self.journal.note_if_room(&[(NOTE, &next.json()?)]).await?;
        }
        Ok(seen)
    }

    /// Tables that were captured and are not.
    pub(super) fn left(&self) -> Result<BTreeSet<u32>> {
        Ok(self.noted()?.map(|noted| noted.absent().collect()).unwrap_or_default())
    }

    /// The lowest position at which something that is owed can be told.
    pub(super) fn due(&self) -> Result<Option<Lsn>> {
        Ok(self.noted()?.and_then(|noted| noted.owed.values().filter_map(|owed| owed.due).min()))
    }

    /// Tells what is due: all that the journal takes later is of later, too. So readers who look at the table when they are
    /// told are not given anything older behind it.
    ///
    /// # Errors
    ///
    /// When the journal does not take it.
    pub(super) async fn tell(&self, client: &Client, seen: &Contents, source: &Source) -> Result<()> {
        let Some(mut noted) = self.noted()? else { return Ok(()) };
        let reached = *self.journal.durable().borrow();
        let is_due = |_: &u32, owed: &mut Owed| owed.due.is_some_and(|due| due <= reached);
        let due: Vec<(u32, Owed)> = noted.owed.extract_if(.., is_due).collect();
        let (mut gaps, mut read) = (Vec::new(), Vec::new());
        for (table, owed) in &due {
            // Seen by another look since: the next one tells it.
            let Some(place) = seen.tables.get(table) else { return Ok(()) };
            gaps.push(ChannelGap { channel: place.channel(), reason: REASON, detail: owed.why.detail() });
            if source.reads_after_gap()
                || (matches!(owed.why, Why::Left | Why::Late) && source.snapshot.is_on())
            {
                read.push((place.schema.clone(), place.name.clone()));
            }
        }
        if gaps.is_empty() {
            return Ok(());
        }
        let mut notes = self.jobs((client, source), read, seen.at).await?;
        notes.push((NOTE.to_owned(), noted.json()?));
        self.journal.record_gaps(&gaps, &notes, now()).await?;
        metrics::counter!("rowcast_source_gaps_total", "reason" => REASON).increment(gaps.len() as u64);
        let named: Vec<&str> = gaps.iter().take(NAMED).map(|gap| gap.channel.as_str()).collect();
        let (tables, count) = (named.join(", "), gaps.len());
        tracing::warn!(
            tables,
            count,
            hint = REMEDY,
            "Recorded gaps of tables: for a while they may not have been published as they are"
        );
        Ok(())
    }

    /// That the rows of these tables are read behind their gaps: one snapshot, each with a note of its own, which takes the
    /// place of nothing that is being read. Whoever follows a table without a key would have its rows twice: a person decides.
    async fn jobs(
        &self,
        (client, source): (&Client, &Source),
        tables: Vec<(String, String)>,
        at: Lsn,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let snapshot = u64::try_from(now()).unwrap_or(0);
        let since = Since::Event(self.journal.newest());
        let history = self.journal.position().slot_birth;
        let found = if tables.is_empty() {
            Vec::new()
        } else {
            rows_last(client, tables, history, source.publications()).await?
        };
        let of = |(number, job): (u32, Job)| {
            let job = Job { snapshot, since, wish: Some(Wish { at, number }), ..job };
            Ok((job.note(), job.json()?))
        };
        (0..).zip(found.into_iter().filter(|job| !job.keyless)).map(of).collect()
    }

    fn noted(&self) -> Result<Option<Noted>> {
        self.journal.note_named(NOTE).filter(|json| !json.is_empty()).map(|json| read(&json)).transpose()
    }
}

impl Noted {
    fn json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::failed("Cannot write what is published").because(error))
    }

    /// Tables that are owed something and not captured.
    fn absent(&self) -> impl Iterator<Item = u32> {
        self.owed.iter().filter(|(_, owed)| owed.due.is_none()).map(|(table, _)| *table)
    }
}

fn read(json: &[u8]) -> Result<Noted> {
    let unread = || {
        Error::journal(
            "The journal's note of what is published cannot be read, it is of another version of rowcast",
        )
    };
    let noted: Noted = serde_json::from_slice(json).map_err(|error| unread().because(error))?;
    if noted.version == VERSION { Ok(noted) } else { Err(unread()) }
}

/// What is to be noted now.
fn compare(before: &Noted, now: &Contents, ours: bool) -> Noted {
    let altered = if ours { BTreeSet::new() } else { altered(&before.publications, &now.publications) };
    let owed =
        |table: &u32, why| (*table, Owed { why, due: now.tables.contains_key(table).then_some(now.at) });
    let mut next = Noted { version: VERSION, publications: now.publications.clone(), ..Noted::default() };
    for (table, members) in &before.tables {
        let why = match now.tables.get(table) {
            None => Why::Left,
            Some(place) if is_interrupted(members, &place.members) => Why::Anew,
            Some(_) if members.iter().any(|(name, _)| altered.contains(name.as_str())) => Why::Altered,
            Some(_) => continue,
        };
        next.owed.extend([owed(table, why)]);
    }
    next.owed.extend(late(before, now).map(|table| owed(table, Why::Late)));
    for (table, before) in &before.owed {
        // What is new counts from now, what is told of it is the first reason.
        let mut kept = owed(table, before.why).1;
        if let (Some(due), false, Some(_)) = (before.due, next.owed.contains_key(table), kept.due) {
            kept.due = Some(due);
        }
        next.owed.insert(*table, kept);
    }
    next.tables = now.tables.iter().map(|(table, place)| (*table, place.members.clone())).collect();
    next
}

/// Tables that are in nothing but publications that the stream reads since now, beside one that it has read before.
fn late<'a>(before: &'a Noted, now: &'a Contents) -> impl Iterator<Item = &'a u32> {
    let known = |name: &String| Some(before.publications.get(name)?.oid);
    let goes_on = now.publications.iter().any(|(name, options)| known(name) == Some(options.oid));
    let is_new = move |name: &String| now.publications.contains_key(name) && known(name).is_none();
    let is_late =
        move |place: &Place| !place.members.is_empty() && place.members.iter().all(|(name, _)| is_new(name));
    now.tables.iter().filter(move |(_, place)| goes_on && is_late(place)).map(|(table, _)| table)
}

/// Publications whose options are others, or were for a while. Another owner alters nothing of them.
fn altered<'a>(before: &BTreeMap<String, Options>, now: &'a BTreeMap<String, Options>) -> BTreeSet<&'a str> {
    let is_altered = |before: &Options, now: &Options| {
        let touched = before.altered.is_some() && now.altered.is_some() && before.altered != now.altered;
        before.operations != now.operations || (touched && before.owner == now.owner)
    };
    let both = now.iter().filter_map(|(name, now)| Some((name.as_str(), before.get(name)?, now)));
    both.filter(|(_, before, now)| before.oid == now.oid && is_altered(before, now))
        .map(|(name, ..)| name)
        .collect()
}

/// None of the memberships has lasted. One that moves from the one publication to the other does that in one step.
fn is_interrupted(before: &[Membership], now: &[Membership]) -> bool {
    let lasts = before.iter().any(|member| now.contains(member));
    !lasts && before.iter().any(|(name, _)| now.iter().any(|(there, _)| there == name))
}

/// Says it of those that are not captured since this look.
fn tell_left(before: &Noted, next: &Noted, there: &BTreeMap<u32, String>) {
    let new = next.absent().filter(|table| before.tables.contains_key(table));
    for table in new.filter_map(|table| there.get(&table)) {
        tracing::warn!(
            table,
            hint = "If it is to be: ALTER PUBLICATION … ADD TABLE …, with source.manage = true that is done by itself \
                    where source.tables says so and it had neither column list nor row filter",
            "The table is not captured any more: what changes in it is in no event. If it comes back, a gap says so"
        );
    }
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Lsn;

    use super::*;

    fn at(lsn: u64, altered: &str, tables: &[(u32, &[(&str, u32)])]) -> Contents {
        let operations = vec!["insert".to_owned(), "update".to_owned()];
        let options = Options { oid: 1, owner: 10, operations, altered: Some(altered.to_owned()) };
        let place = |members: &[(&str, u32)]| Place {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            members: members.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect(),
        };
        Contents {
            publications: BTreeMap::from([("a".to_owned(), options)]),
            tables: tables.iter().map(|(table, members)| (*table, place(members))).collect(),
            at: Lsn(lsn),
            ..Contents::default()
        }
    }

    fn owed(noted: &Noted) -> Vec<(u32, Why, Option<u64>)> {
        noted.owed.iter().map(|(table, owed)| (*table, owed.why, owed.due.map(|due| due.0))).collect()
    }

    #[test]
    fn only_what_was_interrupted_is_owed() {
        let first = compare(&Noted::default(), &at(1, "x", &[(1, &[("a", 5)]), (2, &[("a", 6)])]), true);
        assert_eq!(owed(&first), []);
        assert_eq!(read(&first.json().unwrap()).unwrap(), first);
        let after = |now: &Contents| owed(&compare(&first, now, false));
        // Moved to the other publication; also in another one by now; new.
        let moved = at(2, "x", &[(1, &[("b", 7)]), (2, &[("a", 6), ("a", 8)]), (3, &[("a", 9)])]);
        assert_eq!(after(&moved), []);
        let anew = at(2, "x", &[(1, &[("a", 7)])]);
        assert_eq!(after(&anew), [(1, Why::Anew, Some(2)), (2, Why::Left, None)]);
        // Altered and altered back; by us; given to somebody else.
        let mut back = at(3, "y", &[(1, &[("a", 5)]), (2, &[("a", 6)])]);
        assert_eq!(after(&back), [(1, Why::Altered, Some(3)), (2, Why::Altered, Some(3))]);
        assert_eq!(owed(&compare(&first, &back, true)), []);
        back.publications.get_mut("a").unwrap().owner = 11;
        assert_eq!(after(&back), []);
    }

    #[test]
    fn tables_of_a_publication_that_is_read_later_are_owed() {
        let first = compare(&Noted::default(), &at(1, "x", &[(1, &[("a", 5)]), (2, &[("a", 6)])]), true);
        let tables: &[(u32, &[(&str, u32)])] =
            &[(1, &[("a", 5), ("b", 7)]), (2, &[("b", 8)]), (3, &[("b", 9)])];
        let mut both = at(2, "x", tables);
        both.publications.insert("b".to_owned(), Options { oid: 2, ..Options::default() });
        let next = compare(&first, &both, false);
        assert_eq!(owed(&next), [(2, Why::Late, Some(2)), (3, Why::Late, Some(2))]);
        assert_eq!(compare(&Noted::default(), &both, true).owed, BTreeMap::new());
        // Others altogether: that is no stream that goes on.
        both.publications.remove("a");
        assert_eq!(
            owed(&compare(&first, &at(3, "x", &[]), false)),
            [(1, Why::Left, None), (2, Why::Left, None)]
        );
        assert!(compare(&first, &both, false).owed.values().all(|owed| owed.why != Why::Late));
    }

    #[test]
    fn what_is_owed_waits_until_the_table_is_captured_again() {
        let both = at(1, "x", &[(1, &[("a", 5)]), (2, &[("a", 6)])]);
        let first = compare(&Noted::default(), &both, true);
        let left = compare(&first, &at(2, "x", &[(2, &[("a", 6)])]), false);
        assert_eq!((owed(&left), left.absent().collect()), (vec![(1, Why::Left, None)], vec![1]));
        let back = compare(&left, &at(3, "x", &[(1, &[("a", 9)]), (2, &[("a", 6)])]), false);
        assert_eq!(owed(&back), [(1, Why::Left, Some(3))]);
        let later = compare(&back, &at(4, "x", &[(1, &[("a", 9)]), (2, &[("a", 6)])]), false);
        assert_eq!(owed(&later), [(1, Why::Left, Some(3))]);
        let gone = compare(&later, &at(5, "x", &[(2, &[("a", 6)])]), false);
        assert_eq!(owed(&gone), [(1, Why::Left, None)]);
    }
}

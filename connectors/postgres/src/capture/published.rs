//! The publications that the journal's stream reads, with their OIDs, as a note of the journal: one that was dropped and
//! made again lacks what came between, also when that was while rowcast did not run. A server from version 18 on says
//! nothing of it.

use rowcast_engine::journal::Journal;
use rowcast_engine::{Error, Lsn, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::broken::Break;
use super::connect::{Link, Situation};
use crate::config::Source;
use crate::setup::slot;
use crate::wire::sql_error;

/// Its name in the journal.
pub(super) const NOTE: &str = "publications";

/// Of its form.
const VERSION: u32 = 1;

/// Names with OIDs.
pub(super) type Publications = Vec<(String, u32)>;

#[derive(Serialize, Deserialize)]
struct Noted {
    version: u32,
    publications: Publications,
}

/// The note.
pub(super) fn note(publications: &[(String, u32)]) -> Result<(&'static str, Vec<u8>)> {
    let noted = Noted { version: VERSION, publications: publications.to_vec() };
    let json = serde_json::to_vec(&noted)
        .map_err(|error| Error::failed("Cannot write which publications are read").because(error))?;
    Ok((NOTE, json))
}

/// What was noted; `None` in a journal that is older than the note, or has never streamed.
///
/// # Errors
///
/// When it is of another version.
pub(super) fn noted(journal: &Journal) -> Result<Option<Publications>> {
    let notes = journal.notes();
    notes.get(NOTE).map(|json| read(json)).transpose()
}

fn read(json: &[u8]) -> Result<Publications> {
    let unread = || {
        Error::journal(
            "The journal's note of the publications that its stream reads cannot be read, it is of another version \
             of rowcast",
        )
    };
    let noted: Noted = serde_json::from_slice(json).map_err(|error| unread().because(error))?;
    if noted.version != VERSION {
        return Err(unread());
    }
    Ok(noted.publications)
}

/// One of those before that is not there any more, or is another one by now.
pub(super) fn missing<'a>(before: &'a [(String, u32)], now: &[(String, u32)]) -> Option<&'a str> {
    before.iter().find(|publication| !now.contains(publication)).map(|(name, _)| name.as_str())
}

/// Whether the stream goes on with the publication of all operations, `all`, that was noted.
fn goes_on(all: &str, noted: &[(String, u32)], existing: &[(String, u32)]) -> bool {
    existing.iter().any(|there| there.0 == all && noted.contains(there))
}

/// A stream that goes on does not take in one of which it is not sure that it is old enough (`is_ripe`).
fn readable(
    all: &str,
    noted: &[(String, u32)],
    mut existing: Publications,
    is_ripe: impl Fn(&(String, u32)) -> bool,
) -> Publications {
    if goes_on(all, noted, &existing) {
        existing.retain(|there| noted.contains(there) || is_ripe(there));
    }
    existing
}

/// Whether a stream that goes on reads one more than before.
pub(super) fn adds(all: &str, noted: &[(String, u32)], now: &[(String, u32)]) -> bool {
    goes_on(all, noted, now) && now.iter().any(|publication| !noted.contains(publication))
}

/// Those of our publications that the slot shows wherever it reads: they are older than all that the server keeps of its
/// catalog for it. Of others it is not known.
pub(super) async fn shown(client: &Client, source: &Source) -> Result<Publications> {
    let failed =
        |error| sql_error("Cannot look which publications are older than the replication slot", error);
    let sql = "
        select p.pubname::text, p.oid from pg_publication p, pg_replication_slots s
        where s.slot_name = $1 and p.pubname in ($2, $3) and age(p.xmin) > age(s.catalog_xmin)
        order by p.oid";
    let rows = client.query(sql, &[&source.slot, &source.publication, &source.inserts]).await;
    Ok(rows.map_err(failed)?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

impl Link {
    /// A publication that the journal's stream reads, and that is gone or another one now.
    ///
    /// # Errors
    ///
    /// When the one that is configured does not exist and never was the stream's: nothing is lost by a wrong name, and
    /// nothing is to be remembered of it.
    pub(super) fn unpublished(&self, situation: &Situation) -> Result<Option<Break>> {
        if situation.stored.slot.is_empty() {
            return Ok(None);
        }
        let named = |list: &[(String, u32)], name: &str| list.iter().any(|(there, _)| there == name);
        let stream = noted(self.ingest.journal())?.unwrap_or_default();
        let all = &self.source.publication;
        if !named(&situation.published, all) && !named(&stream, all) {
            if self.source.adopt {
                return Ok(Some(Break::another_publication(all)));
            }
            return Err(never_read(all, &stream));
        }
        self.replaced(situation)
    }

    /// One of those that the journal's stream reads, and that are still configured, which is gone or another one now.
    pub(super) fn replaced(&self, situation: &Situation) -> Result<Option<Break>> {
        let ours = self.source.publications();
        let mut stream = noted(self.ingest.journal())?.unwrap_or_default();
        stream.retain(|(name, _)| ours.contains(&name.as_str()));
        Ok(missing(&stream, &situation.published).map(Break::unpublished))
    }

    /// Those of the publications that exist that a stream from `position` on is to read.
    ///
    /// # Errors
    ///
    /// When the journal's note cannot be read.
    pub(super) fn readable(&self, existing: Publications, position: Lsn) -> Result<Publications> {
        let noted = noted(self.ingest.journal())?.unwrap_or_default();
        let is_ripe = |younger: &(String, u32)| self.reading.is_readable(younger, position);
        Ok(readable(&self.source.publication, &noted, existing, is_ripe))
    }

    /// The publications that the stream is going to read from `position` on, if those of before are still there.
    pub(super) async fn publications(
        &self,
        client: &Client,
        before: &[(String, u32)],
        position: Lsn,
    ) -> Result<Publications> {
        let now = slot::observe(client, &self.source).await?.publications;
        match missing(before, &now) {
            None => self.readable(now, position),
            // The next connection compares with what is noted.
            Some(name) => Err(Error::transient(format!("The publication {name} was dropped just now"))),
        }
    }
}

/// A wrong name is not a lost history.
fn never_read(name: &str, noted: &[(String, u32)]) -> Error {
    let reads: Vec<&str> = noted.iter().map(|(name, _)| name.as_str()).collect();
    let what = if reads.is_empty() {
        format!(
            "The publication {name} does not exist, and is not known to be the one that the journal's stream reads"
        )
    } else {
        format!("The publication {name} does not exist; the journal's stream reads {}", reads.join(" and "))
    };
    Error::refused(what).hint(
        "Set source.publication as it was before. To read another publication, which has to be older than the slot's \
         position, make it anew behind a gap: `rowcast adopt`, while rowcast does not run",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(publications: &[(&str, u32)]) -> Publications {
        publications.iter().map(|(name, oid)| ((*name).to_owned(), *oid)).collect()
    }

    #[test]
    fn read_back_as_it_was_noted() {
        let publications = of(&[("rowcast", 16_390), ("rowcast_inserts", 16_391)]);
        assert_eq!(read(&note(&publications).unwrap().1).unwrap(), publications);
        for other in [r#"{"version":2,"publications":[]}"#, "[]"] {
            assert_eq!(read(other.as_bytes()).unwrap_err().kind(), rowcast_engine::Kind::Journal);
        }
    }

    #[test]
    fn one_that_appears_is_read_when_it_is_old_enough() {
        let (noted, now) = (of(&[("a", 1)]), of(&[("a", 1), ("a_inserts", 2)]));
        let read = |noted: &[(String, u32)], ripe| readable("a", noted, now.clone(), |_| ripe);
        assert_eq!(read(&noted, false), noted);
        assert_eq!(read(&noted, true), now);
        assert!(adds("a", &noted, &now) && !adds("a", &noted, &noted) && !adds("a", &now, &now));
        // Nothing is known, or it is another stream.
        for other in [&[][..], &of(&[("b", 1)]), &of(&[("a", 9)])] {
            assert_eq!(read(other, false), now);
            assert!(!adds("a", other, &now));
        }
    }

    #[test]
    fn one_that_was_made_anew_is_missing() {
        let before = of(&[("a", 1), ("b", 2)]);
        assert_eq!(missing(&before, &of(&[("b", 2), ("a", 1), ("c", 3)])), None);
        assert_eq!(missing(&before, &of(&[("a", 1), ("b", 3)])), Some("b"));
        assert_eq!(missing(&before, &[]), Some("a"));
    }
}

//! Whether the journal's history goes on in this server's slot.

use rowcast_engine::journal::StreamPosition;
use rowcast_engine::{Error, Lsn};
use uuid::Uuid;

use super::broken::{Break, Reason};
use crate::setup::installation::Owner;
use crate::setup::slot::Slot;

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct System {
    /// Which cluster.
    pub(super) id: u64,
    pub(super) timeline: u32,
    /// Where its log ends now.
    pub(super) end: Lsn,
}

/// All that the decision needs.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) system: &'a System,
    /// Where the journal's timeline ended, when the server is on another one; `None` when it never was on ours.
    pub(super) switched: Option<Lsn>,
    pub(super) slot_name: &'a str,
    pub(super) slot: Option<&'a Slot>,
    /// The slot of that name cannot be read at all.
    pub(super) unfit: Option<&'a Error>,
    pub(super) owner: Option<&'a Owner>,
    /// Of the journal.
    pub(super) installation: Uuid,
    /// End of the newest transaction that the journal holds of this history.
    pub(super) newest: Lsn,
}

/// How capture starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Where the journal ends.
    Continue,
    /// A fresh journal begins at the position of a slot that is there.
    Begin(Lsn),
    /// A fresh journal begins with a new slot.
    Create,
}

/// Compares where the journal stands with what the server says.
pub(super) fn judge(stored: &StreamPosition, facts: &Facts<'_>) -> Result<Verdict, Break> {
    let confirmed = facts.slot.and_then(|slot| slot.confirmed_flush_lsn).unwrap_or_default();
    if stored.slot.is_empty() {
        return fresh(facts, confirmed);
    }
    same_server(stored, facts, confirmed)?;
    same_slot(stored, facts)?;
    Ok(Verdict::Continue)
}

fn not_lost(facts: &Facts<'_>) -> Result<(), Break> {
    let Some(lost) = facts.slot.and_then(Slot::lost) else { return Ok(()) };
    let what = format!("The replication slot {} is lost: {}", facts.slot_name, lost.why);
    Err(Break { remedy: Some(lost.remedy.to_owned()), ..Break::new(Reason::SourceLost, what) })
}

/// The journal holds nothing of any source.
fn fresh(facts: &Facts<'_>, confirmed: Lsn) -> Result<Verdict, Break> {
    if facts.slot.is_none() {
        return Ok(Verdict::Create);
    }
    let name = facts.slot_name;
    if let Some(owner) = facts.owner.filter(|owner| owner.installation != facts.installation) {
        return Err(Break { foreign: true, ..Break::new(Reason::TakenOver, owner.belongs(name)) });
    }
    not_lost(facts)?;
    match facts.owner {
        Some(Owner { slot_birth: Some(birth), .. }) if confirmed > *birth => Err(Break::new(
            Reason::JournalLost,
            format!(
                "The replication slot {name} has been read up to {confirmed}, but the journal is empty: the data \
                 directory was lost"
            ),
        )),
        _ => Ok(Verdict::Begin(confirmed)),
    }
}

fn same_server(stored: &StreamPosition, facts: &Facts<'_>, confirmed: Lsn) -> Result<(), Break> {
    let system = facts.system;
    if stored.system != system.id {
        let what = format!(
            "The journal holds the history of another database cluster ({}, this one is {})",
            stored.system, system.id
        );
        return Err(Break::new(Reason::AnotherCluster, what));
    }
    // A standby that was promoted while it was read from: the stream went on across, and the slot there is beyond.
    // No copy of it could be, since a standby has nothing beyond; one that was made there by hand has not decoded what the
    // journal holds.
    let decoded = facts.slot.and_then(|slot| slot.decoded);
    let made_anew = decoded == Some(0) && facts.newest > stored.slot_birth;
    let across = |switched| stored.lsn <= switched || (confirmed > switched && !made_anew);
    if stored.timeline != system.timeline && !facts.switched.is_some_and(across) {
        let (now, then, at) = (system.timeline, stored.timeline, stored.lsn);
        let way = match facts.switched {
            Some(switched) => {
                format!("which left timeline {then} at {switched}, before the journal's position {at}")
            }
            None => format!("which did not come of timeline {then}, the journal's"),
        };
        let what = format!(
            "The server is on timeline {now}, {way}: changes that the journal holds do not exist there"
        );
        return Err(Break::new(Reason::Timeline, what));
    }
    if system.end < stored.lsn {
        let what = format!(
            "The server's log ends at {}, before the journal's position {}: the server was restored from a backup",
            system.end, stored.lsn
        );
        return Err(Break::new(Reason::SourceRestored, what));
    }
    Ok(())
}

fn same_slot(stored: &StreamPosition, facts: &Facts<'_>) -> Result<(), Break> {
    let name = facts.slot_name;
    if stored.slot != name {
        let what = format!("The journal follows the replication slot {}, not {name}", stored.slot);
        return Err(Break::new(Reason::SourceLost, what));
    }
    if facts.slot.is_none() {
        let given_up = stored.broken().filter(|broken| broken.reason == Reason::SourceLost.name());
        return Err(given_up.map_or_else(|| gone(stored, name), Break::again));
    }
    if let Some(unfit) = facts.unfit {
        let what = format!("The journal's replication slot is gone, another one has its name. {unfit}");
        let remedy = unfit.remedy().map(str::to_owned);
        return Err(Break { remedy, ..Break::new(Reason::SourceLost, what) });
    }
    if let Some(owner) = facts.owner.filter(|_| !stored.unclaimed) {
        if owner.installation != facts.installation {
            let what = format!(
                "The replication slot {name} was taken over by another installation at {}",
                owner.since
            );
            return Err(Break { foreign: true, ..Break::new(Reason::TakenOver, what) });
        }
        // Without a birth: the making of a new one was cut off.
        if owner.slot_birth != Some(stored.slot_birth) {
            let what = format!("The replication slot {name} has been created anew");
            return Err(Break::new(Reason::SlotRecreated, what));
        }
    }
    not_lost(facts)?;
    not_ahead(stored, name, facts.slot)
}

fn gone(stored: &StreamPosition, name: &str) -> Break {
    let what =
        format!("The replication slot {name} is gone: changes since {} are lost to the journal", stored.lsn);
    Break::new(Reason::SourceLost, what)
}

/// What the slot has confirmed it does not send again.
pub(super) fn not_ahead(stored: &StreamPosition, name: &str, slot: Option<&Slot>) -> Result<(), Break> {
    let Some((slot, confirmed)) = slot.and_then(|slot| Some((slot, slot.confirmed_flush_lsn?))) else {
        return Ok(());
    };
    if confirmed <= stored.lsn {
        return Ok(());
    }
    let stands = format!(
        "The replication slot {name} stands at {confirmed}, beyond the journal's position {}",
        stored.lsn
    );
    // The journal's slot has decoded what the journal holds.
    if slot.decoded == Some(0) {
        let what = format!("{stands}, and has decoded nothing yet: it was probably dropped and created anew");
        return Err(Break::new(Reason::SlotRecreated, what));
    }
    let what = format!(
        "{stands}: it was moved by hand (pg_replication_slot_advance), something else has read from it, or the \
         journal was restored from a backup"
    );
    Err(Break::new(Reason::JournalBehind, what))
}

/// Where `timeline` ended, by a timeline history file: lines of `timeline switchpoint reason`.
pub(super) fn switch_point(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next()?.parse::<u32>().ok()? == timeline;
        words.next()?.parse().ok().filter(|_| found)
    })
}

#[cfg(test)]
mod tests {
    use rowcast_engine::journal::Broken;

    use super::*;

    const OURS: Uuid = Uuid::from_u128(1);

    struct Case {
        stored: StreamPosition,
        system: System,
        switched: Option<Lsn>,
        slot: Option<Slot>,
        owner: Option<Owner>,
        newest: Lsn,
    }

    fn usual() -> Case {
        Case {
            stored: StreamPosition {
                lsn: Lsn(100),
                system: 7,
                timeline: 1,
                slot: "rowcast".to_owned(),
                slot_birth: Lsn(50),
                installation: OURS,
                ..StreamPosition::default()
            },
            system: System { id: 7, timeline: 1, end: Lsn(200) },
            switched: None,
            slot: Some(Slot { confirmed_flush_lsn: Some(Lsn(90)), ..Slot::default() }),
            owner: Some(Owner { installation: OURS, since: "then".to_owned(), slot_birth: Some(Lsn(50)) }),
            newest: Lsn(60),
        }
    }

    fn judged(case: &Case) -> Result<Verdict, String> {
        let facts = Facts {
            system: &case.system,
            switched: case.switched,
            slot_name: "rowcast",
            slot: case.slot.as_ref(),
            unfit: None,
            owner: case.owner.as_ref(),
            installation: OURS,
            newest: case.newest,
        };
        judge(&case.stored, &facts).map_err(|broken| format!("{} {broken}", broken.reason))
    }

    fn fresh_journal() -> StreamPosition {
        StreamPosition { installation: OURS, ..StreamPosition::default() }
    }

    fn slot_at(lsn: u64) -> Option<Slot> {
        Some(Slot { confirmed_flush_lsn: Some(Lsn(lsn)), ..Slot::default() })
    }

    fn decoded(lsn: u64, count: i64) -> Option<Slot> {
        slot_at(lsn).map(|slot| Slot { decoded: Some(count), ..slot })
    }

    #[test]
    fn goes_on_where_nothing_has_happened() {
        assert_eq!(judged(&usual()), Ok(Verdict::Continue));
        assert_eq!(judged(&Case { slot: slot_at(100), owner: None, ..usual() }), Ok(Verdict::Continue));
        // Statistics that were lost are no sign by themselves.
        assert_eq!(judged(&Case { slot: decoded(100, 0), ..usual() }), Ok(Verdict::Continue));
        let promoted =
            || Case { system: System { timeline: 2, ..usual().system }, switched: Some(Lsn(100)), ..usual() };
        assert_eq!(judged(&promoted()), Ok(Verdict::Continue));
        let across = || Case { switched: Some(Lsn(89)), ..promoted() };
        assert_eq!(judged(&across()), Ok(Verdict::Continue));
        // One that was made by hand after the promotion, of the same name: what was between is in neither.
        let by_hand = Case { slot: decoded(90, 0), ..across() };
        assert!(judged(&by_hand).unwrap_err().starts_with("timeline "), "{:?}", judged(&by_hand));
        assert_eq!(
            judged(&Case { newest: Lsn::ZERO, ..by_hand }),
            Ok(Verdict::Continue),
            "nothing to decode"
        );
    }

    #[test]
    fn names_each_break() {
        let system = usual().system;
        let other = Owner { installation: Uuid::from_u128(2), since: "noon".to_owned(), slot_birth: None };
        let anew = Owner { installation: OURS, since: "noon".to_owned(), slot_birth: Some(Lsn(60)) };
        let lost = Slot { wal_status: Some("lost".to_owned()), ..Slot::default() };
        let cut_off = Owner { slot_birth: None, ..anew.clone() };
        let cases = [
            (Case { system: System { id: 8, ..system.clone() }, ..usual() }, "another_cluster"),
            (Case { system: System { end: Lsn(99), ..system.clone() }, ..usual() }, "source_restored"),
            (
                Case { system: System { timeline: 2, ..system.clone() }, ..usual() },
                "did not come of timeline 1",
            ),
            (
                Case { system: System { timeline: 2, ..system }, switched: Some(Lsn(99)), ..usual() },
                "timeline The server is on timeline 2, which left timeline 1 at 0/63",
            ),
            (Case { slot: None, ..usual() }, "source_lost The replication slot rowcast is gone"),
            (Case { slot: slot_at(101), ..usual() }, "journal_behind"),
            (Case { slot: decoded(101, 1), ..usual() }, "it was moved by hand"),
            (
                Case { slot: decoded(101, 0), ..usual() },
                "slot_recreated The replication slot rowcast stands at 0/65",
            ),
            (
                Case { slot: Some(lost.clone()), ..usual() },
                "source_lost The replication slot rowcast is lost",
            ),
            (Case { owner: Some(other.clone()), ..usual() }, "taken_over"),
            (Case { owner: Some(other.clone()), slot: Some(lost), ..usual() }, "taken_over"),
            (Case { owner: Some(anew), ..usual() }, "slot_recreated"),
            (Case { owner: Some(cut_off), ..usual() }, "slot_recreated"),
            (
                Case { stored: StreamPosition { slot: "x".to_owned(), ..usual().stored }, ..usual() },
                "follows the replication slot x",
            ),
            (
                Case { stored: fresh_journal(), owner: Some(other), ..usual() },
                "taken_over The replication slot rowcast belongs to another installation",
            ),
            (Case { stored: fresh_journal(), ..usual() }, "journal_lost"),
        ];
        for (case, words) in cases {
            let text = judged(&case).unwrap_err();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_slot_that_was_given_up_is_told_as_such() {
        let broken = Broken { reason: "source_lost".to_owned(), detail: "given up".to_owned(), at: Lsn(100) };
        let stored = StreamPosition { broken: Some(broken), ..usual().stored };
        let case = Case { stored, slot: None, ..usual() };
        assert_eq!(judged(&case), Err("source_lost given up".to_owned()));
    }

    #[test]
    fn an_adoption_that_was_cut_off_goes_on() {
        let stored = StreamPosition { unclaimed: true, ..usual().stored };
        let other = Owner { installation: Uuid::from_u128(2), since: "noon".to_owned(), slot_birth: None };
        let case = Case { stored, owner: Some(other), ..usual() };
        assert_eq!(judged(&case), Ok(Verdict::Continue));
        assert!(judged(&Case { slot: slot_at(101), ..case }).unwrap_err().contains("journal_behind"));
    }

    #[test]
    fn a_fresh_journal() {
        let fresh = || Case { stored: fresh_journal(), owner: None, ..usual() };
        assert_eq!(judged(&Case { slot: None, ..fresh() }), Ok(Verdict::Create));
        assert_eq!(judged(&fresh()), Ok(Verdict::Begin(Lsn(90))));
        let cut_off = Owner { installation: OURS, since: String::new(), slot_birth: Some(Lsn(90)) };
        assert_eq!(judged(&Case { owner: Some(cut_off), ..fresh() }), Ok(Verdict::Begin(Lsn(90))));
    }

    #[test]
    fn reads_timeline_histories() {
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore x\n";
        assert_eq!(switch_point(history, 2), Some(Lsn(0x500_0000)));
        assert_eq!(switch_point(history, 3), None);
    }
}

//! What there is to worry about of the log that the server keeps for the slot.

use rowcast_engine::units::{BYTES, show_size};

use crate::config::Source;
use crate::setup::slot::Observed;

/// People are told when the budget is used up to one part in so many,
const BUDGET_SHARE: u64 = 2;

/// and when of the server's own limit no more than one part in so many is left.
const LIMIT_SHARE: u64 = 4;

/// What there is to worry about: a name for it, and the words.
pub(super) fn concern(observed: &Observed, source: &Source) -> Option<(&'static str, String)> {
    let slot = observed.slot.as_ref()?;
    let (name, retained) = (&source.slot, observed.retained()?);
    let keeps = format!("The server keeps {} of its log for the replication slot {name}", rounded(retained));
    let left = slot.safe_wal_size.and_then(|left| u64::try_from(left).ok()).unwrap_or(0);
    let limit = observed.keep.filter(|keep| left < keep / LIMIT_SHARE);
    if slot.wal_status.as_deref() == Some("unreserved") {
        return Some((
            "unreserved",
            format!(
                "{keeps}, more than max_slot_wal_keep_size: the slot is lost at the server's next checkpoint. Let \
                 rowcast catch up, or raise that limit"
            ),
        ));
    }
    if limit.is_some() && slot.safe_wal_size.is_some() {
        let what =
            format!("{keeps}, and after {} more the slot is lost (max_slot_wal_keep_size)", rounded(left));
        return Some(("limit", what));
    }
    if let Some(budget) = source.wal_budget.filter(|budget| retained > budget / BUDGET_SHARE) {
        let what = format!(
            "{keeps}; above {} and standing still, or not becoming less for ten minutes, it is given up \
             (source.wal_budget)",
            show_size(budget)
        );
        return Some(("budget", what));
    }
    (retained > source.wal_warning).then(|| {
        let others = retained.saturating_sub(observed.behind());
        let what = format!(
            "{keeps}, {} of it because of transactions that are still running there; rowcast is {} behind. What is \
             kept fills the server's disk (source.wal_warning = {}; source.wal_budget gives the slot up in time)",
            rounded(others),
            rounded(observed.behind()),
            show_size(source.wal_warning)
        );
        ("warning", what)
    })
}

/// Bytes for people, in whole units of which there are at least ten.
pub(super) fn rounded(bytes: u64) -> String {
    let unit = BYTES.iter().find(|(_, unit)| bytes >= unit * 10);
    unit.map_or_else(|| format!("{bytes} B"), |(name, unit)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use rowcast_engine::Lsn;

    use super::*;
    use crate::config::Config;
    use crate::setup::slot::Slot;

    fn observed(retained: u64, behind: u64) -> Observed {
        let end = Lsn(1 << 40);
        let slot = Slot {
            restart_lsn: Some(Lsn(end.0 - retained)),
            confirmed_flush_lsn: Some(Lsn(end.0 - behind)),
            ..Slot::default()
        };
        Observed { slot: Some(slot), end, ..Observed::default() }
    }

    fn source(wal_budget: Option<u64>) -> Source {
        let url = "postgres://me@h/db".to_owned();
        Source::new(&Config { url, wal_budget, ..Config::default() }).unwrap()
    }

    #[test]
    fn each_concern_has_its_words() {
        let kind = |observed: &Observed, budget| concern(observed, &source(budget));
        assert_eq!(kind(&observed(1 << 30, 1 << 20), None), None);
        assert_eq!(kind(&Observed::default(), Some(1)), None);
        let (name, text) = kind(&observed(9 << 30, 1 << 30), None).unwrap();
        assert_eq!(name, "warning");
        assert!(text.contains("8192 MB of it because of transactions"), "{text}");
        let (name, text) = kind(&observed(3 << 30, 3 << 30), Some(5 << 30)).unwrap();
        assert!(name == "budget" && text.contains("3072 MB") && text.contains("above 5GB"), "{text}");
        let mut limited = Observed { keep: Some(4 << 30), ..observed(3 << 30, 3 << 30) };
        let slot = limited.slot.as_mut().unwrap();
        slot.safe_wal_size = Some(2 << 30);
        assert_eq!(kind(&limited, None), None);
        limited.slot.as_mut().unwrap().safe_wal_size = Some(500 << 20);
        let (name, text) = kind(&limited, None).unwrap();
        assert!(name == "limit" && text.contains("after 500 MB more the slot is lost"), "{text}");
        limited.slot.as_mut().unwrap().wal_status = Some("unreserved".to_owned());
        assert_eq!(kind(&limited, None).unwrap().0, "unreserved");
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 10_239, 10_240, 20 << 20, 9 << 30].map(rounded),
            ["0 B", "10239 B", "10 kB", "20 MB", "9216 MB"]
        );
    }
}

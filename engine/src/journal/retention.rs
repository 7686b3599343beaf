//! What may go: whole segments, the oldest first, in the order of yielding.
//!
//! 1. What is older than `retention` and no push door needs.
//! 2. When the journal has reached `max_size`: what no push door needs; then what only doors need that stand still.
//!    Such a door loses its hold on it, is told, and stops.
//! 3. What a door that is moving needs stays: capture pauses until the door has come by it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::abort::{self, Point};
use crate::journal::holds::{Claim, Loss};
use crate::journal::refusal::{FEWER_FILES, is_out_of_files};
use crate::journal::segment::Segment;
use crate::journal::{Shared, removed};

/// Appends wait while segments are removed, each with a sync of the directory. What is left after this time goes at the
/// next look, a second or a megabyte later, or at once when nothing is to be written.
const AT_ONCE: Duration = Duration::from_millis(20);

const MORE_TIME: &str = "It goes on by itself. To have more time: raise journal.max_size";
const REMOVABLE: &str = "The user who runs rowcast must be able to write to the directory, and the file must not be \
                         protected (lsattr, chattr -i). It goes on by itself then";

/// What a look has come to.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// What keeps the journal above its `max_size`, if anything does, and what can be done about it.
    pub(crate) kept: Option<(String, &'static str)>,
    /// The time was up: more of it may go.
    pub(crate) more: bool,
}

/// Removes segments that are too old or too many. The one being written always stays.
pub(crate) fn apply(shared: &Shared) -> Applied {
    let segments = shared.segments.load_full();
    let mut size: u64 = segments.iter().map(|segment| segment.stored()).sum();
    // To what is open, which may come to nothing, only that gives way which nobody needs.
    let open = shared.spilled.load(Ordering::Acquire);
    let max_size = max_size(shared);
    shared.holds.note_newest(*shared.head.borrow());
    let mut losses = BTreeMap::new();
    let mut applied = Applied::default();
    let begun = Instant::now();
    // Whoever reads at the end has what was shown a moment ago whole, however large it is.
    let newest = segments.iter().rposition(|segment| segment.events() > 0);
    for (at, segment) in segments.iter().take(segments.len().saturating_sub(1)).enumerate() {
        applied.more = begun.elapsed() > AT_ONCE;
        if applied.more || shared.release.is_behind() {
            break;
        }
        let old = segment.age().is_some_and(|age| age > shared.options.retention);
        let too_much = |size| size > max_size && newest != Some(at);
        let (reason, losers) = match shared.holds.claim_on(segment.last()) {
            Claim::Free if old => ("age", Vec::new()),
            Claim::Free if too_much(size + open) => ("size", Vec::new()),
            Claim::Stalled(doors) if too_much(size) => ("stalled_sink", doors),
            Claim::Moving(doors) if too_much(size) => {
                applied.kept = Some((in_the_way(max_size, &doors, segment), MORE_TIME));
                break;
            }
            Claim::Free | Claim::Stalled(_) | Claim::Moving(_) => break,
        };
        let stored = segment.stored();
        if let Err(error) = remove(shared, segment, reason) {
            // It stays in the list, and those after it stay: the history must have no hole.
            let kept = cannot_remove(shared, segment, &error);
            applied.kept = (too_much(size) && is_forbidden(&error)).then_some(kept);
            break;
        }
        shared.stays.store(0, Ordering::Release);
        lose(shared, &losers, segment, &mut losses);
        size = size.saturating_sub(stored);
    }
    losses.iter().for_each(|(door, loss)| tell(door, loss));
    gauge!("rowcast_journal_size_bytes").set(size as f64);
    applied
}

fn lose(shared: &Shared, doors: &[String], segment: &Segment, losses: &mut BTreeMap<String, Loss>) {
    for door in doors {
        let Some(loss) = shared.holds.lose(door, segment) else { continue };
        let before = losses.get(door).map_or(0, |loss| loss.events);
        losses.insert(door.clone(), Loss { events: before + loss.events, ..loss });
    }
}

fn tell(door: &str, loss: &Loss) {
    let why = if loss.idle { "was stopped or paused" } else { "stood still for journal.stalled_after" };
    tracing::error!(
        sink = door,
        from = loss.gone.from,
        to = loss.gone.to,
        events = loss.events,
        hint =
            "`rowcast sink list` says how it stands; more room before this happens again: journal.max_size",
        "The sink {door} has lost events {} to {}: the journal has reached its max_size, and the sink {why}",
        loss.gone.from,
        loss.gone.to
    );
    counter!("rowcast_sink_hold_lost_total", "sink" => door.to_owned()).increment(1);
    counter!("rowcast_sink_lost_events_total", "sink" => door.to_owned()).increment(loss.events);
}

/// Whether a person can do something about it; a disk that is ill says so at the next write.
fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Said once for each segment that stays.
fn cannot_remove(shared: &Shared, segment: &Segment, error: &io::Error) -> (String, &'static str) {
    let path = segment.path.display();
    if shared.stays.swap(segment.header.base, Ordering::AcqRel) != segment.header.base {
        let hint = if is_out_of_files(error) { FEWER_FILES } else { REMOVABLE };
        tracing::error!(%error, %path, hint, "Cannot remove an old segment: the journal grows");
        counter!("rowcast_journal_remove_failures_total").increment(1);
    }
    (format!("the journal is at its max_size, and {path} cannot be removed ({error})"), REMOVABLE)
}

/// The same words for as long as the same segment is in the way.
fn in_the_way(max_size: u64, doors: &[String], segment: &Segment) -> String {
    let (sinks, need) = if doors.len() == 1 { ("sink", "needs") } else { ("sinks", "need") };
    format!(
        "the journal is at its max_size ({} MB), and {sinks} {} still {need} what lies up to event {}",
        max_size.div_ceil(1 << 20),
        doors.join(" and "),
        segment.last()
    )
}

fn remove(shared: &Shared, segment: &Arc<Segment>, reason: &'static str) -> io::Result<()> {
    shared.holds.settle(&*shared.disk, segment.last())?;
    removed::note(&shared.options.dir, &*shared.disk, segment.last())?;
    abort::point(Point::RetentionNoted);
    // The one removed before this one must not come back alone after a power cut.
    shared.disk.sync_dir(&shared.options.dir)?;
    // Both at once for a reader that finds no file: one that cannot be removed is there for everybody all the while.
    let names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
    match shared.release.remove(&*shared.disk, &segment.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    abort::point(Point::RetentionRemoved);
    shared.segments.rcu(|segments| segments.iter().skip(1).cloned().collect::<Vec<_>>());
    drop(names);
    abort::point(Point::RetentionListed);
    // The index of a segment that is gone is removed at the next opening if it cannot be now.
    let _ = shared.disk.remove(&segment.path.with_extension("idx"));
    tracing::info!(
        reason,
        first = segment.header.base,
        last = segment.last(),
        "Removed a segment of the journal"
    );
    counter!("rowcast_journal_segments_removed_total", "reason" => reason).increment(1);
    Ok(())
}

impl Shared {
    /// Whether retention has removed a segment whose file is not there; where it is between name and list, it is waited for.
    pub(super) fn has_removed(&self, segment: &Segment) -> bool {
        let is_gone = || self.segments.load().iter().all(|held| held.header.base != segment.header.base);
        if is_gone() {
            return true;
        }
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        is_gone()
    }
}

pub(super) fn max_size(shared: &Shared) -> u64 {
    shared
        .options
        .max_size
        .unwrap_or_else(|| shared.disk.space(&shared.options.dir).map_or(u64::MAX, |(_, all)| all / 2))
}

/// Why capture has to pause before it writes `coming` bytes, if it has to.
pub(crate) fn short_of_room(shared: &Shared, coming: u64) -> Option<String> {
    let (free, all) = shared.disk.space(&shared.options.dir).ok()?;
    let floor = shared.options.min_free.min(all / 10);
    (free.saturating_sub(coming) < floor)
        .then(|| format!("only {} MB of the file system are free", free >> 20))
}

//! Looks after the slot, whatever capture does meanwhile: whether it is there, and how much of its log the server keeps
//! for it. Before that fills the server's disk, people are told, and then the slot is given up.

use std::fmt;
use std::time::{Duration, Instant};

use rowcast_engine::adoption::WAITING;
use rowcast_engine::journal::{Journal, State};
use rowcast_engine::status::Status;
use rowcast_engine::units::{BYTES, show_size};
use rowcast_engine::{Error, Lsn, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

use super::connect::Link;
use super::reading::Reading;
use crate::config::Source;
use crate::conninfo::Conninfo;
use crate::setup::server::Server;
use crate::setup::slot::{self, Observed};
use crate::wire::answering_client;

/// Between two looks: a server that writes 200 MB a second writes a GB meanwhile.
const EVERY: Duration = Duration::from_secs(5);

/// A look takes moments; longer means a lost connection.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// Where it is known that capture cannot go on (it waits for a person, or the journal for room), one look more.
const STILL_FOR_SURE: Duration = Duration::from_secs(8);

/// Elsewhere it may be connecting again, or the server may be reading its log from far back, which can take minutes
/// before anything is sent.
const STILL_PERHAPS: Duration = Duration::from_secs(600);

/// A capture that moves keeps its slot above the budget for so many looks, ten minutes, in which what is kept does not
/// become less: then it is too slow for what is written. The server's log goes in steps, the largest of them a checkpoint
/// apart, so fewer would be a guess.
const LOOKS_ABOVE: u32 = 120;

/// Less is not behind: what an idle server has not told us of.
const BEHIND: u64 = 16 << 20;

/// People are told when the budget is used up to one part in so many,
const BUDGET_SHARE: u64 = 2;

/// and when of the server's own limit no more than one part in so many is left.
const LIMIT_SHARE: u64 = 4;

/// What capture has to leave its stream for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The slot keeps too much of the server's log, and capture does not go on.
    OverBudget,
    /// A publication that the stream shows is gone; the server need not say so.
    Unpublished,
}

impl Call {
    /// As the end of a stream.
    pub(super) fn error(self) -> Error {
        Error::transient("The stream was left").because(self)
    }

    /// The call that an error is, if it is one.
    pub(super) fn of(error: &Error) -> Option<Self> {
        std::error::Error::source(error)?.downcast_ref().copied()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OverBudget => "the slot keeps too much of the server's log",
            Self::Unpublished => "a publication is gone",
        })
    }
}

impl std::error::Error for Call {}

/// Ends with its owner.
#[derive(Debug)]
pub(super) struct Guard {
    task: JoinHandle<()>,
    /// One call is enough: whoever takes it looks for himself.
    calls: Receiver<Call>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guard {
    /// Starts looking.
    pub(super) fn start(link: &Link) -> Self {
        let (sender, calls) = channel(1);
        let look = Look {
            source: link.source.clone(),
            status: link.status.clone(),
            journal: link.ingest.journal().clone(),
            reading: link.reading.clone(),
            here: None,
            calls: sender,
            still: Still::new(),
            above: Above::default(),
            concern: None,
        };
        Self { task: tokio::spawn(look.forever()), calls }
    }

    /// Waits until capture has to leave its stream. Cancel safe.
    pub(super) async fn calls(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }
}

/// Since when capture stands where it is, as far as that was seen in one go.
#[derive(Debug)]
struct Still {
    at: (Lsn, Lsn),
    since: Instant,
}

impl Still {
    fn new() -> Self {
        Self { at: Default::default(), since: Instant::now() }
    }

    /// For how long.
    fn note(&mut self, confirmed: Lsn, received: Lsn) -> Duration {
        if self.at != (confirmed, received) {
            *self = Self { at: (confirmed, received), since: Instant::now() };
        }
        self.since.elapsed()
    }
}

/// How often in a row what is kept was above the budget and did not become less.
#[derive(Debug, Default)]
struct Above {
    looks: u32,
    least: u64,
}

impl Above {
    /// Takes in what is kept, if that is above the budget. Gives whether it has been so for too long.
    fn note(&mut self, kept: Option<u64>) -> bool {
        *self = match kept {
            None => Self::default(),
            Some(kept) if self.looks == 0 || kept < self.least => Self { looks: 1, least: kept },
            Some(_) => Self { looks: self.looks + 1, ..*self },
        };
        self.looks >= LOOKS_ABOVE
    }
}

struct Look {
    source: Source,
    status: Status,
    journal: Journal,
    reading: Reading,
    /// The server that is looked at; `None` before capture has found one.
    here: Option<Conninfo>,
    calls: Sender<Call>,
    still: Still,
    above: Above,
    /// What was said last, without its figures.
    concern: Option<&'static str>,
}

impl Look {
    async fn forever(mut self) {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut client = None;
        loop {
            rounds.tick().await;
            let done = timeout(ROUND_TIMEOUT, self.round(&mut client)).await;
            if matches!(done, Ok(Ok(()))) {
                continue;
            }
            // Capture itself says that the server is away. What could not be seen did not stand still.
            match done {
                Ok(Err(error)) => tracing::debug!("Cannot look after the replication slot: {error}"),
                _ => tracing::debug!(
                    "Cannot look after the replication slot: the server has not answered for {} s",
                    ROUND_TIMEOUT.as_secs()
                ),
            }
            client = None;
            self.still = Still::new();
        }
    }

    async fn round(&mut self, client: &mut Option<Client>) -> Result<()> {
        // The server of the stream and no other, which may have a slot of the same name: a copy, or an old one.
        let here = self.reading.here();
        if self.here != here {
            (self.here, self.still, *client) = (here, Still::new(), None);
        }
        if client.as_ref().is_none_or(Client::is_closed) {
            let info = self.here.as_ref().unwrap_or(&self.source.info);
            *client = Some(answering_client(info).await?);
        }
        let Some(client) = client else { return Ok(()) };
        // A standby that is promoted keeps its connections.
        let server = &Server::read(client).await?;
        let observed = slot::observe(client, &self.source).await?;
        self.show(&observed, server);
        slot::show_decoding(client, &self.source.slot).await?;
        if let Some(wait) = observed.commits_wait {
            self.tell_of_commits(wait);
        }
        self.tell(&observed);
        self.warn_of(&observed);
        Ok(())
    }

    /// Brings board and gauges up to date.
    fn show(&self, observed: &Observed, server: &Server) {
        let state = slot::state(observed.slot.as_ref(), server, self.reading.pid());
        for known in slot::STATES {
            let yes = if known == state { 1.0 } else { 0.0 };
            metrics::gauge!("rowcast_source_slot_state", "state" => known).set(yes);
        }
        let safe = observed.slot.as_ref().and_then(|slot| slot.safe_wal_size);
        self.status.source(|source| {
            source.slot_state = state;
            source.wal_status = observed.slot.as_ref().and_then(|slot| slot.wal_status.clone());
            source.wal_retained_bytes = observed.retained();
            source.wal_safe_bytes = safe.map(|left| left.try_into().unwrap_or(0));
            source.slot_inactive_seconds = observed.inactive;
        });
    }

    /// Has what commits wait for confirmed at once, in place of once a second.
    fn tell_of_commits(&self, wait: bool) {
        if self.reading.note_commits_wait(wait) {
            if wait {
                tracing::info!(
                    "Commits wait for rowcast (synchronous_standby_names): each is confirmed at once"
                );
            } else {
                tracing::info!("Commits do not wait for rowcast any more");
            }
        }
        self.status.source(|source| source.commits_wait = wait);
    }

    /// Tells capture what it cannot see while it streams, or waits.
    fn tell(&mut self, observed: &Observed) {
        let (mut received, mut state) = (Lsn::ZERO, "");
        self.status.source(|source| (received, state) = (source.received_lsn, source.state));
        let confirmed = observed.slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn);
        let for_sure = matches!(state, WAITING | "stopped")
            || matches!(&*self.journal.state().borrow(), State::Full(_) | State::Failed(_));
        // What the server says of its position while nothing can be stored is no movement of ours.
        let received = if for_sure { Lsn::ZERO } else { received };
        let still = self.still.note(confirmed.unwrap_or_default(), received);
        let kept =
            observed.retained().filter(|kept| self.source.wal_budget.is_some_and(|budget| *kept > budget));
        let over = kept.is_some();
        // What is kept for other people's transactions is no slowness of ours.
        let ours = kept.filter(|kept| observed.behind() >= kept / 2);
        let too_slow = self.above.note(ours);
        let stands = if for_sure { still >= STILL_FOR_SURE } else { still >= STILL_PERHAPS };
        let idle = state == "streaming" && !for_sure && observed.behind() < BEHIND;
        let call = if over && (stands || too_slow) && !idle {
            // The next call is due after as long again.
            (self.still, self.above) = (Still::new(), Above::default());
            Call::OverBudget
        } else if state == "streaming" && self.reading.missing(&observed.publications).is_some() {
            Call::Unpublished
        } else {
            return;
        };
        // A call that has not been taken says the same.
        let _ = self.calls.try_send(call);
    }

    /// Says what will come to harm if nothing is done: once in the log, and on the board for as long as it is so.
    fn warn_of(&mut self, observed: &Observed) {
        let concern = concern(observed, &self.source);
        let (kind, text) = concern.unzip();
        match &text {
            Some(text) if kind != self.concern => tracing::warn!("{text}"),
            None if self.concern.is_some() => {
                tracing::info!("The server keeps less of its log for the slot again")
            }
            _ => {}
        }
        self.concern = kind;
        self.status.source(|source| source.concern = text);
    }
}

/// What there is to worry about: a name for it, and the words.
fn concern(observed: &Observed, source: &Source) -> Option<(&'static str, String)> {
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
    fn any_movement_starts_over() {
        let mut still = Still::new();
        still.note(Lsn(1), Lsn(2));
        still.since = Instant::now().checked_sub(STILL_PERHAPS).unwrap();
        assert!(still.note(Lsn(1), Lsn(2)) >= STILL_PERHAPS);
        assert!(still.note(Lsn(1), Lsn(3)) < STILL_FOR_SURE);
    }

    #[test]
    fn what_does_not_become_less_is_too_slow() {
        let looks = |kept: &mut dyn FnMut(u32) -> Option<u64>| {
            let mut above = Above::default();
            (1..=LOOKS_ABOVE * 3).find(|look| above.note(kept(*look)))
        };
        assert_eq!(looks(&mut |look| Some(100 + u64::from(look))), Some(LOOKS_ABOVE), "it grows");
        assert_eq!(
            looks(&mut |look| Some(10_000 - u64::from(look / 100))),
            None,
            "it becomes less, however slowly"
        );
        assert_eq!(looks(&mut |look| (look % 100 != 0).then_some(50)), None, "below the budget now and then");
        assert_eq!(looks(&mut |look| Some(if look % 7 == 0 { 51 } else { 70 })), Some(LOOKS_ABOVE + 6));
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 10_239, 10_240, 20 << 20, 9 << 30].map(rounded),
            ["0 B", "10239 B", "10 kB", "20 MB", "9216 MB"]
        );
    }
}

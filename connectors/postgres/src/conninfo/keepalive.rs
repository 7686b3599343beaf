//! How a TCP peer that has vanished without a word is noticed. Unix sockets notice by themselves.

use std::time::Duration;

use rowcast_engine::{Error, Result};

use super::Parameters;

/// A silent peer is probed after this long, so that a vanished one is noticed within a minute.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const COUNT: u32 = 3;

/// What Linux takes at most, in seconds and probes.
const SECONDS_MAX: i32 = 32_767;
const COUNT_MAX: i32 = 127;

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// `keepalives`, `keepalives_idle` and so on; None leaves to the system what libpq's zero leaves to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether a silent peer is probed at all.
    pub on: bool,
    /// After so much silence.
    pub idle: Option<Duration>,
    /// Again after so much more.
    pub interval: Option<Duration>,
    /// So many times, then it is gone.
    pub count: Option<u32>,
    /// Sent bytes may stay unacknowledged for so long (`tcp_user_timeout`, in milliseconds there).
    pub user_timeout: Option<Duration>,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            on: true,
            idle: Some(IDLE),
            interval: Some(INTERVAL),
            count: Some(COUNT),
            user_timeout: Some(USER_TIMEOUT),
        }
    }
}

impl Keepalive {
    pub(super) fn read(parameters: &Parameters) -> Result<Self> {
        let default = Self::default();
        let on = number(parameters, "keepalives")?.is_none_or(|on| on != 0);
        // What is not used may be anything.
        let probing = |name, most| number(parameters, name)?.map(|n| at_most(name, n, most, on)).transpose();
        let seconds = |name, default| -> Result<Option<Duration>> {
            Ok(probing(name, SECONDS_MAX)?
                .map_or(default, |n| above_zero(n).map(|n| Duration::from_secs(n.into()))))
        };
        let millis = |n| Duration::from_millis(u64::from(n));
        Ok(Self {
            on,
            idle: seconds("keepalives_idle", default.idle)?,
            interval: seconds("keepalives_interval", default.interval)?,
            count: probing("keepalives_count", COUNT_MAX)?.map_or(default.count, above_zero),
            user_timeout: number(parameters, "tcp_user_timeout")?
                .map_or(default.user_timeout, |n| above_zero(n).map(millis)),
        })
    }
}

/// Zero, and as in libpq anything below, means the system's own.
fn above_zero(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|n| *n > 0)
}

/// The kernel would refuse more, and the server would look as if it could not be reached.
fn at_most(name: &str, number: i32, most: i32, matters: bool) -> Result<i32> {
    if number <= most || !matters {
        return Ok(number);
    }
    Err(Error::usage(format!("{name}={number} is more than the system takes"))
        .hint(format!("{name}={most} is the most; keepalives=0 turns probing off")))
}

fn number(parameters: &Parameters, name: &'static str) -> Result<Option<i32>> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let wrong = |_| {
        let unit = if name == "tcp_user_timeout" { " of milliseconds" } else { "" };
        Error::usage(format!("{name} is not a number{unit}"))
            .hint(format!("Such as {name}=10, or leave it out"))
    };
    text.trim().parse().map(Some).map_err(wrong)
}

//! Two things measured in turns, and what came out.

use std::time::{Duration, Instant};

/// One thing and its limit, round by round.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    journal: Vec<Duration>,
    limit: Vec<Duration>,
}

pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

impl Rounds {
    /// Adds one round of each. Who goes first changes with every round, so that what a round leaves behind (dirty
    /// pages, a warm cache) helps and harms both.
    pub(crate) fn round(
        &mut self,
        mut journal: impl FnMut() -> Duration,
        mut limit: impl FnMut() -> Duration,
    ) {
        if self.journal.len().is_multiple_of(2) {
            self.journal.push(journal());
            self.limit.push(limit());
        } else {
            self.limit.push(limit());
            self.journal.push(journal());
        }
    }
}

pub(crate) fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

/// The table that is printed at the end.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<String>,
}

impl Report {
    /// Notes a measurement; `per_round` says how many of `unit` a round has.
    pub(crate) fn add(&mut self, name: &str, limit: &str, rounds: Rounds, unit: &str, per_round: f64) {
        let ratios = rounds.limit.iter().zip(&rounds.journal);
        let mut ratios: Vec<_> =
            ratios.map(|(limit, journal)| limit.as_secs_f64() / journal.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        let quarter = ratios.len() / 4;
        let rate = |rounds: Vec<Duration>| amount(per_round / median(rounds).as_secs_f64());
        let each = median(rounds.journal.clone()).as_secs_f64() * 1e6 / per_round;
        let line = format!(
            "{name:<34} {:>8} {unit}/s ({each:>8.2} us each)   {limit:<28} {:>8}   {:>4.0}% ({:.0} to {:.0})",
            rate(rounds.journal),
            rate(rounds.limit),
            ratios[ratios.len() / 2] * 100.0,
            ratios[quarter] * 100.0,
            ratios[ratios.len() - 1 - quarter] * 100.0,
        );
        self.say(line);
    }

    /// Notes a line that stands beside no limit.
    pub(crate) fn say(&mut self, line: String) {
        println!("{line}");
        self.lines.push(line);
    }

    pub(crate) fn print(&self) {
        println!(
            "\njournal (median), beside its limit (median); last: the median of the rounds' ratios (middle half)"
        );
        self.lines.iter().for_each(|line| println!("{line}"));
    }
}

fn amount(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

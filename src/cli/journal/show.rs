//! `rowcast journal show`.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use clap::Args;
use rowcast_engine::feed::From;
use rowcast_engine::format::native::{NativeOptions, write_event};
use rowcast_engine::journal::disk::RealDisk;
use rowcast_engine::journal::{Start, first_of_last, for_each_event};
use rowcast_engine::{Error, Result};

use super::journal_dir;
use crate::cli::output::{Output, Written};
use crate::cli::settings::Base;

/// Events between the reading thread and the printing one.
const AHEAD: usize = 256;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast journal show --data /var/lib/rowcast --limit 10
  rowcast journal show --from last:3
  rowcast journal show --from 2026-11-21T04:00:00Z
  rowcast journal show --from 1795233906000000 | jq .after")]
pub(super) struct Show {
    /// Where to start: earliest, the number of the first event to print, last:N, or a time with its zone
    #[arg(long, value_name = "PLACE", default_value = "earliest")]
    from: String,
    /// Events to print at most [default: all]
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u64>,
    #[command(flatten)]
    base: Base,
}

impl Show {
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn execute(self) -> Result<()> {
        let from = self.from.parse()?;
        let dir = journal_dir(&self.base)?;
        let (send, receive) = sync_channel(AHEAD);
        // A thread of its own, so that reading ends when enough has been printed.
        std::thread::Builder::new()
            .name("read".into())
            .spawn(move || read(&dir, from, &send))
            .map_err(|error| Error::failed("Cannot start a thread").because(error))?;
        print(&receive, self.limit.unwrap_or(u64::MAX))
    }
}

fn read(dir: &Path, from: From, send: &SyncSender<Result<Vec<u8>>>) {
    let read = first(dir, from).and_then(|found| match found {
        Some(start) => give(dir, start, send),
        None => Ok(()),
    });
    if let Err(error) = read {
        // Nobody listens any more when enough was printed.
        let _ = send.send(Err(error));
    }
}

/// Where the events to print begin; `None` when there are none.
fn first(dir: &Path, from: From) -> Result<Option<Start>> {
    Ok(match from {
        From::Latest => None,
        From::Earliest => Some(Start::Earliest),
        From::After(number) => Some(Start::Number(number)),
        From::Time(time) => Some(Start::Time(time)),
        From::Last(count) => first_of_last(dir, &RealDisk, count)?.map(Start::Number),
    })
}

/// Gives the events from a place on.
fn give(dir: &Path, start: Start, send: &SyncSender<Result<Vec<u8>>>) -> Result<()> {
    let options = NativeOptions::default();
    let read = for_each_event(dir, &RealDisk, start, |event| {
        let mut line = Vec::new();
        write_event(&mut line, event, &options);
        send.send(Ok(line)).is_ok()
    });
    read.map(drop)
}

fn print(lines: &Receiver<Result<Vec<u8>>>, limit: u64) -> Result<()> {
    let mut output = Output::new();
    for _ in 0..limit {
        let Ok(line) = lines.recv() else { break };
        if output.line(line?)? == Written::NobodyReads {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_ends_at_the_limit_and_at_an_error() {
        let (send, receive) = sync_channel(2);
        send.send(Err(Error::journal("Damaged"))).unwrap();
        assert!(print(&receive, 1).is_err());
        send.send(Ok(Vec::new())).unwrap();
        assert!(print(&receive, 0).is_ok());
    }

    #[test]
    fn nothing_is_shown_of_what_is_to_come() {
        assert_eq!(first(Path::new("/nonexistent"), From::Latest).unwrap(), None);
    }
}

//! `rowcast tail`.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use rowcast_engine::{Error, Kind, Result};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::client::{Client, Target, encoded, refusal, whole};
use super::line;
use super::output::{Output, Style, Written, harmless};
use crate::failure::{Failure, say};
use crate::wiring;

/// A stream says something every 15 s; after four times that it is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Between two tries to connect again.
const RETRY: Duration = Duration::from_secs(1);
/// A server may ask for a longer pause, up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Bytes of one event: a row holds 1 GB at most, and no terminal wants one.
const LINE_MAX: usize = 256 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rowcast tail public.orders
  rowcast tail 'public.*' --op insert,delete --from last:10
  rowcast tail '*' --from earliest --json | jq -r .channel
  rowcast tail public.orders --from 2026-11-21T04:00:00Z -n 100

Lines with a \"type\" in place of an \"op\" are not events: {\"type\":\"gap\",…} tells that numbers asked for are not held.
A connection that is lost is taken up again where it ended.")]
pub(crate) struct Tail {
    /// Channels: public.orders, public.*, * for all
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Where to start: latest, earliest, an event's number (what comes after it), a time (2026-11-21T04:00:00Z; behind the newest event: latest), last:N
    #[arg(long, default_value = "latest", value_name = "PLACE")]
    from: String,
    /// Only these: insert, update, delete, truncate, read, message (with commas)
    #[arg(long, value_name = "OPS")]
    op: Option<String>,
    /// A JSON object a line, on a terminal, too
    #[arg(long)]
    json: bool,
    /// End after so many events
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u64>,
    #[command(flatten)]
    target: Target,
}

impl Tail {
    pub(crate) fn execute(self) -> Result<ExitCode, Failure> {
        let client = self.target.client()?;
        let channels: Vec<String> =
            self.channels.iter().map(|channel| format!("channel={}", encoded(channel))).collect();
        let mut path = format!("/v1/events?{}&from={}", channels.join("&"), encoded(&self.from));
        if let Some(op) = &self.op {
            path.push_str(&format!("&op={}", encoded(op)));
        }
        let output = Output::new();
        let follow = Follow {
            client,
            path,
            position: None,
            failed_at: None,
            pretty: output.terminal && !self.json,
            style: Style::new(output.colours),
            output,
            left: self.limit.unwrap_or(u64::MAX),
        };
        wiring::block_on_one(follow.run())??;
        Ok(ExitCode::SUCCESS)
    }
}

/// A reader and its place.
struct Follow {
    client: Client,
    path: String,
    /// Where to go on.
    position: Option<u64>,
    /// Where the journal could not be read.
    failed_at: Option<Option<u64>>,
    pretty: bool,
    style: Style,
    output: Output,
    /// Events to print still.
    left: u64,
}

/// What ended a connection.
enum Ended {
    /// All is printed, or nobody reads any more.
    Done,
    /// It is to be taken up again after a pause.
    Again(Duration),
}

/// What is looked at in every line.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    reason: Option<String>,
    retry: Option<u64>,
    message: Option<String>,
    hint: Option<String>,
}

impl Follow {
    async fn run(mut self) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let mut body = self.connect().await?;
        loop {
            let pause = match self.read(body).await {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::Again(pause)) => pause,
                Err(error) if error.kind() == Kind::Transient => {
                    say(&format!("rowcast: {error}. Trying again"));
                    RETRY
                }
                Err(error) => return Err(error),
            };
            sleep(pause).await;
            body = self.connect_again().await?;
        }
    }

    /// Connects for as long as the reason may pass.
    async fn connect_again(&mut self) -> Result<Incoming> {
        loop {
            match self.connect().await {
                Err(error) if error.kind() == Kind::Transient => sleep(RETRY).await,
                done => return done,
            }
        }
    }

    async fn connect(&self) -> Result<Incoming> {
        let position = self.position.map(|position| position.to_string());
        let mut headers = vec![("accept", "application/x-ndjson")];
        headers.extend(position.as_deref().map(|position| ("last-event-id", position)));
        let response = self.client.send(Method::GET, &self.path, &headers, "").await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        Err(refusal(status, &whole(response).await?))
    }

    async fn read(&mut self, mut body: Incoming) -> Result<Ended> {
        let mut lines = Lines::default();
        loop {
            let frame = timeout(SILENCE_MAX, body.frame())
                .await
                .map_err(|_| Error::transient("The stream has been silent for too long"))?;
            let Some(frame) = frame else { return Ok(Ended::Again(RETRY)) };
            let frame = frame.map_err(|error| Error::transient("The stream broke off").because(error))?;
            let Ok(data) = frame.into_data() else { continue };
            lines.add(&data)?;
            while let Some(line) = lines.next() {
                if let Some(ended) = self.take(&line)? {
                    return Ok(ended);
                }
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Ended>> {
        if line.is_empty() {
            return Ok(None);
        }
        let unreadable = |error| Error::failed("The stream is not rowcast's").because(error);
        let head: Head = serde_json::from_slice(line).map_err(unreadable)?;
        self.position = head.to.or(head.id).or(head.from).or(self.position);
        match head.kind.as_deref() {
            None => {}
            Some("gap") if self.pretty => {
                let reason = head.reason.unwrap_or_default();
                say(&format!("rowcast: Events are missing here, because of {reason}"));
                return Ok(None);
            }
            Some("gap") => {}
            // A moment's trouble is tried again; at the same place it is none.
            Some("end") if let Some(message) = head.message => {
                let error = Error::failed(message);
                let error = head.hint.into_iter().fold(error, Error::hint);
                if self.failed_at.replace(self.position) == Some(self.position) {
                    return Err(error);
                }
                say(&format!("rowcast: {error}. Trying again"));
                return Ok(Some(Ended::Again(RETRY)));
            }
            Some("end") => {
                let pause = head.retry.map_or(RETRY, Duration::from_millis);
                return Ok(Some(Ended::Again(pause.min(RETRY_MAX))));
            }
            Some(_) => return Ok(None),
        }
        let written = if self.pretty {
            let shown = for_people(line, &self.style, self.output.width());
            self.output.line(shown)?
        } else {
            self.output.line(line)?
        };
        self.left -= u64::from(head.kind.is_none());
        Ok((self.left == 0 || written == Written::NobodyReads).then_some(Ended::Done))
    }
}

/// An event whose payload has numbers that no value of ours holds is shown as it came.
fn for_people(line: &[u8], style: &Style, width: Option<usize>) -> String {
    match serde_json::from_slice(line) {
        Ok(event) => line::describe(&event, style, width),
        Err(_) => harmless(&String::from_utf8_lossy(line)),
    }
}

/// Lines out of pieces.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Up to here lines have been given out.
    start: usize,
    /// Up to here there is no newline.
    searched: usize,
}

impl Lines {
    fn add(&mut self, data: &Bytes) -> Result<()> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.len() + data.len() > LINE_MAX {
            return Err(Error::failed(format!("An event is longer than {LINE_MAX} bytes")));
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(offset) = found else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + offset;
        let line = self.bytes[self.start..end].to_vec();
        self.start = end + 1;
        self.searched = self.start;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_shown_as_it_came() {
        let shown = |line: &str| for_people(line.as_bytes(), &Style::new(false), None);
        let event = r#"{"id":1,"channel":"a","op":"message","payload":PAYLOAD}"#;
        assert!(shown(&event.replace("PAYLOAD", "1e3")).ends_with("message   a  1000.0"));
        let huge = event.replace("PAYLOAD", "[1e400]");
        assert_eq!(shown(&huge), huge);
    }

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        for size in 1..8 {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in b"one\n\ntwo\nthree\nrest".chunks(size) {
                lines.add(&Bytes::copy_from_slice(piece)).unwrap();
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(found, ["one", "", "two", "three"], "{size}");
        }
    }
}

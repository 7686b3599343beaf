//! What a client asks for: the same parameters in a query string, a JSON body and a WebSocket message.

use std::time::Duration;

use axum::http::HeaderMap;
use rowcast_engine::event::Op;
use rowcast_engine::feed::{From, Pattern};
use rowcast_engine::format::{NativeOptions, Numbers};
use rowcast_engine::{Error, in_quotes, units};
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// Events on a page unless the client says otherwise.
const LIMIT: usize = 100;
/// Events on a page at most.
const LIMIT_MAX: usize = 10_000;
/// A long poll is answered by then: proxies cut silent requests soon after.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Channels in one request: more are asked for by a pattern.
const CHANNELS_MAX: usize = 1_000;

/// The parameters of every reader.
const STREAM: &[&str] = &["channel", "op", "from", "replay", "last_event_id", "numbers"];
/// And those of pages alone.
const PAGE: &[&str] = &["limit", "wait"];
/// A WebSocket message may say the plural, and calls its subscription something.
const MESSAGE: &[&str] = &["channels", "topics", "id", "type"];

/// Where the parameters stand, which decides what may be among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A request for an endless stream.
    Stream,
    /// A request for a page.
    Page,
    /// A subscribe message.
    Message,
}

/// A name and its value; a name may come several times.
pub(crate) type Pairs = Vec<(String, String)>;

/// What a client asks for.
#[derive(Debug)]
pub(crate) struct Query {
    /// Of which channels.
    pub(crate) channels: Vec<Pattern>,
    /// Which operations; empty means all.
    pub(crate) ops: Vec<Op>,
    /// From where.
    pub(crate) from: From,
    /// How events are written.
    pub(crate) options: NativeOptions,
    /// Events on a page at most.
    pub(crate) limit: usize,
    /// How long a page waits for its first event.
    pub(crate) wait: Option<Duration>,
}

impl Query {
    /// Reads the parameters. `last_event_id` is the header's, which a browser sends when it reconnects to an
    /// address that still holds the first `from`: so it wins.
    pub(crate) fn parse(pairs: &Pairs, last_event_id: Option<&str>, place: Place) -> Result<Self, Refusal> {
        let mut found = Found { last_event_id: last_event_id.map(str::to_owned), ..Found::default() };
        for (name, value) in pairs {
            found.take(name, value, place)?;
        }
        if found.channels.len() > CHANNELS_MAX {
            let message =
                format!("{} channels are asked for, at most {CHANNELS_MAX} can be", found.channels.len());
            return Err(Refusal::parameter("channel", message).hint("Ask for schema.* or for *."));
        }
        if found.channels.is_empty() {
            found.channels.push(Pattern::All);
        }
        // A page without a wish is a look at what is held; one that waits is for what comes.
        let waits = place != Place::Page || found.wait.is_some();
        let from = found.start()?.unwrap_or(if waits { From::Latest } else { From::Earliest });
        Ok(Self {
            channels: found.channels,
            ops: found.ops,
            from,
            options: NativeOptions { numbers: found.numbers.unwrap_or_default() },
            limit: found.limit.unwrap_or(LIMIT),
            wait: found.wait,
        })
    }
}

/// The parameters as they are met.
#[derive(Debug, Default)]
struct Found {
    channels: Vec<Pattern>,
    ops: Vec<Op>,
    from: Option<From>,
    replay: Option<From>,
    last_event_id: Option<String>,
    numbers: Option<Numbers>,
    limit: Option<usize>,
    wait: Option<Duration>,
}

impl Found {
    fn take(&mut self, name: &str, value: &str, place: Place) -> Result<(), Refusal> {
        match name {
            "channel" => self.channel(name, value)?,
            "channels" | "topics" if place == Place::Message => self.channel(name, value)?,
            "type" | "id" if place == Place::Message => {}
            "op" => {
                for word in value.split(',') {
                    self.ops.push(op(word.trim())?);
                }
            }
            "from" => once(name, &mut self.from, from(value)?)?,
            "replay" => once(name, &mut self.replay, replay(value)?)?,
            "last_event_id" => _ = self.last_event_id.get_or_insert_with(|| value.to_owned()),
            "numbers" => once(name, &mut self.numbers, numbers(value)?)?,
            "limit" | "wait" if place != Place::Page => {
                return Err(Refusal::parameter(
                    name,
                    format!("{name} is for pages, and this is an endless stream"),
                )
                .hint("Leave it out, or ask with the header Accept: application/json."));
            }
            "limit" => once(name, &mut self.limit, limit(value)?)?,
            "wait" => once(name, &mut self.wait, wait(value)?)?,
            _ => return Err(unknown(name, place)),
        }
        Ok(())
    }

    fn channel(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        self.channels.push(Pattern::parse(value).map_err(|error| wrong(name, &error))?);
        Ok(())
    }

    fn start(&self) -> Result<Option<From>, Refusal> {
        if let Some(id) = self.last_event_id.as_deref().map(str::trim).filter(|id| !id.is_empty()) {
            let refused = |_| {
                Refusal::parameter(
                    "last_event_id",
                    format!("The last event id {} is not the number of an event", in_quotes(id)),
                )
                .hint("Send the id of the last event that was received, or none.")
            };
            return id.parse().map(From::After).map(Some).map_err(refused);
        }
        if self.from.is_some() && self.replay.is_some() {
            return Err(
                Refusal::parameter("replay", "from and replay are both given").hint("Leave one of them out.")
            );
        }
        Ok(self.from.or(self.replay))
    }
}

/// Takes what may come once: of two values, one would be ignored in silence.
fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::parameter(name, format!("{name} is given more than once"))
            .hint("Give it once; channel and op may come several times.")),
    }
}

/// The pairs of a query string.
pub(crate) fn pairs_of_query(query: &str) -> Pairs {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The pairs of a JSON object: a list is a name that comes several times.
pub(crate) fn pairs_of_object(object: &Map<String, Value>) -> Result<Pairs, Refusal> {
    let mut pairs = Pairs::new();
    for (name, value) in object {
        match value {
            // Taken as if it were left out, it would mean everything.
            Value::Array(values) if values.is_empty() => {
                return Err(Refusal::parameter(name, format!("{name} is an empty list"))
                    .hint("Name at least one, or leave it out: then all are meant."));
            }
            Value::Array(values) => {
                for value in values {
                    pairs.push((name.clone(), scalar(name, value)?));
                }
            }
            Value::Null => {}
            value => pairs.push((name.clone(), scalar(name, value)?)),
        }
    }
    Ok(pairs)
}

/// The header that browsers send when they reconnect.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut all = headers.get_all("last-event-id").iter();
    let (first, second) = (all.next(), all.next());
    let text = first.map(|id| id.to_str()).transpose();
    match (text, second) {
        (Ok(id), None) => Ok(id.filter(|id| !id.is_empty())),
        // Passed over, it would have the client begin at the newest event, and miss what lies between.
        _ => Err(Refusal::parameter("last_event_id", "The header Last-Event-ID is not one number")),
    }
}

fn scalar(name: &str, value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Refusal::parameter(name, format!("{name} must be a string, a number or a list of them"))),
    }
}

fn op(word: &str) -> Result<Op, Refusal> {
    let names = Op::ROWS_AND_MESSAGES.map(Op::name);
    Op::parse(word).ok_or_else(|| match word {
        "gap" => Refusal::parameter("op", "gap is not an operation to ask for").hint("Gaps are always told."),
        _ => Refusal::parameter("op", format!("{} is not an operation", in_quotes(word)))
            .hint(one_of(word, &names)),
    })
}

/// A place to start from.
pub(crate) fn from(text: &str) -> Result<From, Refusal> {
    // In a query string an unescaped plus means a blank.
    let place = text.parse::<From>().or_else(|error| text.replace(' ', "+").parse().map_err(|_| error));
    place.map_err(|error| wrong("from", &error))
}

/// A parameter that the engine cannot read, with what it says of it.
fn wrong(name: &str, error: &Error) -> Refusal {
    Refusal::parameter(name, error.to_string()).hint(error.remedy().unwrap_or_default())
}

fn replay(text: &str) -> Result<From, Refusal> {
    match text {
        "-1" => Ok(From::Latest),
        "-2" => Ok(From::Earliest),
        _ => text.parse().map(From::After).map_err(|_| {
            Refusal::parameter("replay", format!("{} is not a replay id", in_quotes(text)))
                .hint("Write -1 for new events only, -2 for all that are kept, or the number of an event.")
        }),
    }
}

fn numbers(text: &str) -> Result<Numbers, Refusal> {
    match text {
        "mixed" => Ok(Numbers::Mixed),
        "string" => Ok(Numbers::String),
        "number" => Ok(Numbers::Number),
        _ => Err(Refusal::parameter("numbers", format!("{} is not a way to write numbers", in_quotes(text)))
            .hint(one_of(text, &["mixed", "string", "number"]))),
    }
}

fn limit(text: &str) -> Result<usize, Refusal> {
    let number = text.parse().ok().filter(|number| (1..=LIMIT_MAX).contains(number));
    number.ok_or_else(|| {
        Refusal::parameter("limit", format!("{} is not a number from 1 to {LIMIT_MAX}", in_quotes(text)))
    })
}

fn wait(text: &str) -> Result<Duration, Refusal> {
    let wait = units::time(text).map_err(|error| Refusal::parameter("wait", error))?;
    if wait <= WAIT_MAX {
        return Ok(wait);
    }
    Err(Refusal::parameter("wait", format!("A page waits no longer than {}", units::show_time(WAIT_MAX)))
        .hint("Ask again with from set to next when it comes back empty."))
}

fn unknown(name: &str, place: Place) -> Refusal {
    let more = match place {
        Place::Stream => &[],
        Place::Page => PAGE,
        Place::Message => MESSAGE,
    };
    let known: Vec<&str> = STREAM.iter().chain(more).copied().collect();
    Refusal::parameter(name, format!("There is no parameter {}", in_quotes(name))).hint(one_of(name, &known))
}

/// `Did you mean …?` when a known word is near, else all of them.
pub(crate) fn one_of(word: &str, known: &[&str]) -> String {
    // No name is longer; the search takes as long as the word is, times all that is known.
    const LONGEST: usize = 300;
    // Below it two words have little more in common than some letters.
    const NEAR: f64 = 0.75;
    let near = known.iter().filter(|_| word.len() <= LONGEST);
    let near = near.map(|name| (strsim::jaro_winkler(word, name), name));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((nearness, name)) if nearness >= NEAR => format!("Did you mean {name}?"),
        _ => format!("It can be one of {}.", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;

//! One connection, from hello to close.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Error;
use axum::extract::ws::{Message, WebSocket, close_code};
use bytes::Bytes;
use futures_util::SinkExt;
use rowcast_engine::feed::{Events, Framing};
use rowcast_engine::in_quotes;
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::app::App;
use crate::clients::Client;
use crate::opening::{Opened, SERVER, open};
use crate::query::Query;
use crate::reader::Step;
use crate::refusal::Refusal;
use crate::stream::{self, Ending, RETURN_AFTER, RETURN_WITHIN};
use crate::websocket::messages::{self, Prefix, Said, Wrong};
use crate::websocket::subscriptions::{Subscriptions, Turn};
use crate::websocket::{MESSAGE_MAX, close_frame};

/// A client that says nothing for this long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(25);
/// And has this long to give one, unless events are on their way to it: the ping stands behind them, and a client
/// that reads slowly is not dead. Whether it is then is for TCP to find out.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// A write that took this long has waited for the client to read: as good as a sign of life.
const LONG_WRITE: Duration = Duration::from_secs(1);
/// The client's answer to our close is waited for no longer.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// At the end of the server, a client that does not even take the last word is dropped.
const CUT_OFF_AFTER: Duration = Duration::from_secs(3);

/// Close codes of our own.
const BAD_MESSAGE: u16 = 4400;
const NOT_HEARD: u16 = 4408;
const ROTATED: u16 = 4601;

/// Why a session goes no further.
enum Over {
    /// We close it, and say why.
    Close(u16, String),
    /// The client has closed it, and waits for the answer.
    Closed,
    /// It broke.
    Gone,
}

impl From<Error> for Over {
    fn from(_: Error) -> Self {
        // How a connection breaks is its client's business.
        Self::Gone
    }
}

/// One connection.
pub(super) struct Session {
    app: Arc<App>,
    client: Client,
    socket: WebSocket,
    subscriptions: Subscriptions,
    /// What its address asks for.
    first: Option<Result<Said, Wrong>>,
    ending: Ending,
    heard: Instant,
    pinged: Option<Instant>,
    /// Events have been sent since something was heard.
    unread: bool,
    /// Set anew only when it fires, not at each message.
    silence: Pin<Box<Sleep>>,
}

impl Session {
    /// A session on an upgraded connection, with what its address asks for.
    pub(super) fn new(app: Arc<App>, client: Client, socket: WebSocket, query: &str) -> Self {
        let ending = stream::ending(app.stop.clone(), app.config.rotate);
        let heard = Instant::now();
        let silence = Box::pin(sleep_until(heard + PING_AFTER));
        Self {
            app,
            client,
            socket,
            subscriptions: Subscriptions::default(),
            first: messages::of_address(query),
            ending,
            heard,
            pinged: None,
            unread: false,
            silence,
        }
    }

    /// Lives until it is over.
    pub(super) async fn live(mut self) {
        let stop = self.app.stop.clone();
        let cut_off = async {
            stop.stopped().await;
            sleep(CUT_OFF_AFTER).await;
        };
        let life = async {
            match self.converse().await {
                Over::Close(code, reason) => self.close(code, &reason).await,
                Over::Closed => self.close_in_turn().await,
                Over::Gone => {}
            }
        };
        tokio::select! {
            () = life => {}
            () = cut_off => {}
        }
    }

    async fn close(&mut self, code: u16, reason: &str) {
        let close = async {
            if self.socket.send(close_frame(code, reason)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        // It has been told, or it has gone: nothing is left to do.
        let _ = tokio::time::timeout(CLOSE_WITHIN, close).await;
    }

    /// The library has an answer with the client's code ready, and sends it when it is asked for what comes next.
    async fn close_in_turn(&mut self) {
        let answer = async { while let Some(Ok(_)) = self.socket.recv().await {} };
        // A client that does not wait for it has gone: nothing is left to do.
        let _ = tokio::time::timeout(CLOSE_WITHIN, answer).await;
    }

    async fn converse(&mut self) -> Over {
        if let Some(first) = self.first.take()
            && let Err(over) = self.heed(first).await
        {
            return over;
        }
        loop {
            let over = tokio::select! {
                reason = self.ending.as_mut() => return self.announce(reason).await,
                message = self.socket.recv() => self.hear(message).await,
                turn = self.subscriptions.next() => self.deliver(turn).await,
                () = self.silence.as_mut() => self.listen().await,
            };
            if let Err(over) = over {
                return over;
            }
        }
    }

    /// Tells that the end comes from us and is nothing to worry about.
    async fn announce(&mut self, reason: &str) -> Over {
        let reconnect_in =
            json!({"min": RETURN_AFTER.as_millis() as u64, "max": RETURN_WITHIN.as_millis() as u64});
        let notice = json!({"type": "notice", "code": reason, "reconnect_in": reconnect_in});
        if self.say(messages::text(&notice)).await.is_err() {
            return Over::Gone;
        }
        let code = if reason == "rotate" { ROTATED } else { close_code::AWAY };
        Over::Close(code, reason.to_owned())
    }

    /// After silence: asks for a sign of life, and gives up where none comes.
    async fn listen(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        if self.unread && self.pinged.is_some() {
            self.pinged = Some(now);
        }
        if self.pinged.is_some_and(|pinged| now >= pinged + PONG_WITHIN) {
            return Err(Over::Close(NOT_HEARD, "Nothing was heard".to_owned()));
        }
        if self.pinged.is_none() && now >= self.heard + PING_AFTER {
            self.pinged = Some(now);
            self.socket.send(Message::Ping(Bytes::new())).await?;
        }
        let due = self.pinged.map_or(self.heard + PING_AFTER, |pinged| pinged + PONG_WITHIN);
        self.silence.as_mut().reset(due);
        Ok(())
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        self.pinged = None;
        self.unread = false;
    }

    async fn hear(&mut self, message: Option<Result<Message, Error>>) -> Result<(), Over> {
        self.heard();
        match message {
            Some(Ok(Message::Text(text))) => self.answer(&text).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Binary(_))) => {
                Err(Over::Close(close_code::UNSUPPORTED, "Messages are text".to_owned()))
            }
            Some(Ok(Message::Close(_))) => Err(Over::Closed),
            Some(Err(error)) => Err(fault(&error)),
            None => Err(Over::Gone),
        }
    }

    async fn answer(&mut self, text: &str) -> Result<(), Over> {
        self.heed(messages::read(text)).await
    }

    async fn heed(&mut self, said: Result<Said, Wrong>) -> Result<(), Over> {
        match said {
            Ok(Said::Hello) => self.welcome().await,
            Ok(Said::Ping(t)) => self.say(messages::pong(&t)).await,
            Ok(Said::Subscribe(id, query)) => self.subscribe(id, &query).await,
            Ok(Said::Unsubscribe(id)) => self.unsubscribe(&id).await,
            Err(Wrong::Wish(id, refusal)) => self.say(messages::error(id.as_deref(), &refusal)).await,
            Err(Wrong::Message(refusal)) => {
                self.say(messages::error(None, &refusal)).await?;
                Err(Over::Close(BAD_MESSAGE, refusal.message))
            }
        }
    }

    async fn welcome(&mut self) -> Result<(), Over> {
        let limits =
            json!({"subscriptions": self.app.config.max_subscriptions, "message_bytes": MESSAGE_MAX});
        let welcome = json!({
            "type": "welcome", "session": format!("{:016x}", rand::random::<u64>()), "server": SERVER,
            "oldest": self.app.journal().oldest(), "newest": self.app.journal().newest(),
            "ping": PING_AFTER.as_secs(), "limits": limits,
        });
        self.say(messages::text(&welcome)).await
    }

    async fn subscribe(&mut self, id: Option<String>, query: &Query) -> Result<(), Over> {
        let id = id.unwrap_or_else(|| self.subscriptions.free_name());
        let opened = match self.admit(&id) {
            Ok(()) => open(&self.app, query, Framing::Objects).await,
            Err(refusal) => Err(refusal),
        };
        match opened {
            Ok(Opened { opening, gap, reader, .. }) => {
                self.say(messages::subscribed(&id, &opening, gap)).await?;
                self.subscriptions.add(&id, reader);
                Ok(())
            }
            Err(refusal) => self.say(messages::error(Some(&id), &refusal)).await,
        }
    }

    fn admit(&self, id: &str) -> Result<(), Refusal> {
        if self.subscriptions.contains(id) {
            let mut refusal =
                Refusal::parameter("id", format!("There is a subscription {} already", in_quotes(id)));
            refusal.code = "id_in_use";
            return Err(refusal.hint("Unsubscribe first, or give this one another id."));
        }
        let max = self.app.config.max_subscriptions;
        if self.subscriptions.len() >= max {
            let mut refusal = Refusal::bad_request(format!("A connection has at most {max} subscriptions"));
            refusal.code = "too_many_subscriptions";
            return Err(refusal.hint("Ask for several channels in one subscription."));
        }
        Ok(())
    }

    async fn unsubscribe(&mut self, id: &str) -> Result<(), Over> {
        match self.subscriptions.remove(id) {
            Some(position) => self.say(messages::unsubscribed(id, "ok", "As asked for", position)).await,
            None => {
                let mut refusal =
                    Refusal::parameter("id", format!("There is no subscription {}", in_quotes(id)));
                refusal.code = "unknown_subscription";
                self.say(messages::error(Some(id), &refusal)).await
            }
        }
    }

    async fn deliver(&mut self, turn: Turn) -> Result<(), Over> {
        match &turn.step {
            Ok(Step::Events(events)) => self.send_events(&turn.prefix, events).await?,
            Ok(Step::Schema(record)) => {
                if let Some(message) = turn.prefix.schema(record) {
                    self.say(message).await?;
                }
            }
            Ok(Step::Gap(gap)) => self.say(messages::gap(&turn.id, *gap)).await?,
            Ok(Step::Synced(position)) => self.say(messages::synced(&turn.id, *position)).await?,
            Ok(Step::Position(position)) => self.say(messages::position(&turn.id, *position)).await?,
            Err(error) => {
                self.app.unreadable.tell(error);
                let position = self.subscriptions.remove(&turn.id).unwrap_or_else(|| turn.position());
                return self
                    .say(messages::unsubscribed(&turn.id, "failed", &error.to_string(), position))
                    .await;
            }
        }
        self.subscriptions.again(turn);
        Ok(())
    }

    /// Sends the events of a batch, as many to a write as fit.
    async fn send_events(&mut self, prefix: &Prefix, events: &Events) -> Result<(), Over> {
        let started = Instant::now();
        let mut bytes = 0;
        for frame in events.frames() {
            let Some(message) = prefix.message(frame, &events.frame(frame)) else { continue };
            bytes += size(&message);
            self.socket.feed(message).await?;
        }
        self.socket.flush().await?;
        self.client.given(events.frames().len(), bytes);
        if started.elapsed() >= LONG_WRITE {
            self.heard();
        }
        self.unread = true;
        Ok(())
    }

    async fn say(&mut self, message: Message) -> Result<(), Over> {
        self.client.given(0, size(&message));
        Ok(self.socket.send(message).await?)
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        _ => 0,
    }
}

/// What a client that broke the protocol is told. The library says it only in words below its own error.
fn fault(error: &Error) -> Over {
    let mut below: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = below {
        let words = current.to_string();
        if words.contains("too long") {
            return Over::Close(close_code::SIZE, format!("Messages have at most {MESSAGE_MAX} bytes"));
        }
        if words.starts_with("UTF-8 encoding error") {
            return Over::Close(close_code::INVALID, "A text is not UTF-8".to_owned());
        }
        // A connection that just ends breaks the protocol, too, and nobody is there to be told.
        if words.starts_with("WebSocket protocol error") && !words.contains("without closing") {
            return Over::Close(close_code::PROTOCOL, words);
        }
        below = current.source();
    }
    Over::Gone
}

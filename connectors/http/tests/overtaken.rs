//! Readers that stand still in the midst of a replay until retention has taken what they were about to get.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Lines, Server, Setup, Socket, Sse, soon};

/// As many to a megabyte.
const PAYLOAD: usize = 256 << 10;

/// The journal keeps three of them.
const SEGMENT: u64 = 8 << 20;

/// What is replayed: 22 MB, more than a reader that stands still has in its sockets, and less than the journal keeps.
const HISTORY: u64 = 88;

/// What comes meanwhile: 40 MB, more than the journal keeps, on the disk and in memory.
const LATER: u64 = 160;

/// So many events are read before standing still.
const READ: u64 = 3;

/// One of each door that has no end.
enum Reader {
    Sse(Sse),
    Lines(Lines),
    Socket(Socket),
}

/// What a reader is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Event(u64),
    /// The first number that is lacking, and the last.
    Gap(u64, u64),
}

impl Reader {
    /// One of each, of all events that are held.
    async fn all(server: &Server) -> [Self; 3] {
        let mut sse = Sse::open(server.address, "channel=a&from=earliest").await;
        sse.expect("open").await;
        let mut lines = Lines::open(server.address, "channel=a&from=earliest").await;
        assert_eq!(lines.expect().await["type"], "open");
        let mut socket = Socket::open(server.address).await;
        socket.send(&json!({"type": "subscribe", "id": "x", "channel": "a", "from": "earliest"})).await;
        socket.expect("subscribed").await;
        [Self::Sse(sse), Self::Lines(lines), Self::Socket(socket)]
    }

    async fn next(&mut self) -> Told {
        match self {
            Self::Sse(sse) => {
                let frame = sse.next().await.expect("an open stream");
                let told =
                    frame.event.as_deref().map_or_else(|| event(&frame.json()), |_| gap(&frame.json()));
                // Whoever is cut off here comes back with it.
                let (Told::Event(place) | Told::Gap(_, place)) = told;
                assert_eq!(frame.id, Some(place));
                told
            }
            Self::Lines(lines) => {
                let line = lines.expect().await;
                if line["type"].is_null() { event(&line) } else { gap(&line) }
            }
            Self::Socket(socket) => {
                let message = socket.next().await.expect("an open connection");
                if message["type"] == "event" { event(&message) } else { gap(&message) }
            }
        }
    }
}

fn event(told: &Value) -> Told {
    assert_eq!(told["op"], "message", "{}", told["type"]);
    Told::Event(told["id"].as_u64().expect("a number"))
}

fn gap(told: &Value) -> Told {
    assert_eq!(told["reason"], "retention", "{told}");
    Told::Gap(told["from"].as_u64().expect("a number"), told["to"].as_u64().expect("a number"))
}

/// Publishes so many events; gives the number of the last.
async fn publish(server: &Server, count: u64) -> u64 {
    let payload = format!("\"{}\"", "x".repeat(PAYLOAD));
    let mut last = 0;
    for _ in 0..count {
        last = server.journal.publish(&[("a", payload.as_bytes())], 0).await.expect("an id");
    }
    last
}

/// Waits until nobody is given anything any more, since no socket takes more.
async fn stand_still(server: &Server) {
    let (mut before, mut same) = (Value::Null, 0);
    let still = async {
        while same < 50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let delivered = server.get("/v1/status").await.json()["doors"]["http"]["delivered"].clone();
            same = if delivered == before { same + 1 } else { 0 };
            before = delivered;
        }
    };
    soon("the readers to stand still", still).await;
}

/// Waits until nothing more is to go; gives the oldest number that stays.
async fn retention_rests(server: &Server) -> u64 {
    let rest = async {
        while server.journal.summary().bytes > 3 * SEGMENT {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("retention to rest", rest).await;
    server.journal.oldest()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_retention_overtakes_is_told_its_gap() {
    let server = Server::with(Setup { small: Some(SEGMENT), ..Setup::default() }).await;
    let replayed = publish(&server, HISTORY).await;
    let first = server.journal.oldest();
    assert_eq!(first, replayed + 1 - HISTORY, "all of it is held");
    let mut readers = Reader::all(&server).await;
    for reader in &mut readers {
        for id in first..first + READ {
            assert_eq!(reader.next().await, Told::Event(id));
        }
    }
    stand_still(&server).await;

    let newest = publish(&server, LATER).await;
    let oldest = retention_rests(&server).await;
    assert!(replayed < oldest, "{oldest} is held, {replayed} should be gone");
    for reader in &mut readers {
        // What was on its way.
        let mut id = first + READ;
        let told = loop {
            match reader.next().await {
                Told::Event(told) => assert_eq!(told, id),
                gap @ Told::Gap(..) => break gap,
            }
            id += 1;
        };
        println!("{} of {HISTORY} came before the gap", id - first);
        assert!(id < replayed, "it was in the midst of its replay");
        assert_eq!(told, Told::Gap(id, oldest - 1), "what it lacks");
        if let Reader::Socket(socket) = reader {
            let synced = json!({"type": "synced", "id": "x", "pos": oldest - 1});
            assert_eq!(socket.next().await, Ok(synced), "what there was to replay is over");
        }
        for id in oldest..=newest {
            assert_eq!(reader.next().await, Told::Event(id));
        }
    }
    let live = publish(&server, 1).await;
    for reader in &mut readers {
        assert_eq!(reader.next().await, Told::Event(live));
    }
}

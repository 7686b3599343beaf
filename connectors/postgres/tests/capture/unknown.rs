//! What is not understood ends capture: a message, a flag or an option that is passed over could be somebody's data.

use rowcast_engine::Kind;
use rowcast_postgres::conninfo::Conninfo;
use rowcast_postgres::wire::{Connection, Purpose};
use rowcast_postgres::{Config, Streaming};

use super::harness::{Capture, Directory, config, run, sql};
use super::interceptor::{Fate, Interceptor};
use crate::support::Server;

/// Stands in the rows, and must not stand in an error.
const SECRET: &str = "sesame";

/// Rows of more than 64 kB: the server sends them in pieces.
const PIECES_ROWS: usize = 1500;

/// How a message is spoiled, and what the error says of it.
struct Spoiled {
    tag: u8,
    at: fn(&[u8]) -> usize,
    byte: u8,
    words: &'static [&'static str],
}

/// Where the replica identity stands: behind the OID and two names that end with a zero.
fn identity(relation: &[u8]) -> usize {
    let ends = relation.iter().enumerate().skip(5).filter(|(_, byte)| **byte == 0);
    ends.map(|(at, _)| at).nth(1).unwrap() + 1
}

const SPOILED: &[Spoiled] = &[
    Spoiled {
        tag: b'I',
        at: |_| 0,
        byte: b'Z',
        words: &["unknown message tag \"Z\" (byte 0x5A)", "begin with 5A 00 00"],
    },
    Spoiled { tag: b'I', at: |_| 0, byte: 0xEE, words: &["(byte 0xEE)", "bytes that begin with EE"] },
    Spoiled { tag: b'I', at: |_| 5, byte: b'M', words: &["message \"I\": it holds no new row", "4D 00 02"] },
    Spoiled {
        tag: b'I',
        at: |_| 8,
        byte: b'x',
        words: &["message \"I\": a value is of unknown kind (byte 0x78)"],
    },
    Spoiled {
        tag: b'C',
        at: |_| 1,
        byte: 2,
        words: &["message \"C\": its flags are unknown (byte 0x02)", "43 02"],
    },
    Spoiled {
        tag: b'T',
        at: |_| 5,
        byte: 0x84,
        words: &["message \"T\": its options are unknown (byte 0x84)"],
    },
    Spoiled { tag: b'M', at: |_| 1, byte: 3, words: &["message \"M\": its flags are unknown (byte 0x03)"] },
    Spoiled { tag: b'R', at: identity, byte: b'q', words: &["its replica identity is unknown (byte 0x71)"] },
    Spoiled {
        tag: b'R',
        at: |body| identity(body) + 3,
        byte: 8,
        words: &["a column's flags are unknown (byte 0x08)"],
    },
];

fn spoil(way: &Interceptor, spoiled: &'static Spoiled) {
    way.rule(|body| {
        if body[0] == spoiled.tag {
            let at = (spoiled.at)(body);
            body[at] = spoiled.byte;
        }
        Fate::Pass
    });
}

/// Capture ends for good, with these words and no value of a row.
async fn ends_with(config: Config, directory: &Directory, words: &[&str]) {
    let error = Capture::launch(config, directory.path()).fails().await;
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Failed, "{text}");
    assert!(text.starts_with("The replication stream cannot be understood: at "), "{text}");
    assert!(words.iter().all(|words| text.contains(words)), "{text}");
    assert!(!text.contains(SECRET) && !text.contains("73 65 73") && text.len() < 300, "{text}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("report")));
}

#[tokio::test]
async fn unknown_bytes_are_named_and_nothing_is_passed_over() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text)").await;
    let way = Interceptor::start(&server).await;
    Capture::start(way.config(), directory.path()).await.stop().await;
    for (number, spoiled) in (0..).step_by(4).zip(SPOILED) {
        spoil(&way, spoiled);
        run(
            &client,
            &format!(
                "insert into t values ({number}, '{SECRET}'); truncate t; \
                 select pg_logical_emit_message(true, 'rowcast.event.e', '\"{SECRET}\"')"
            ),
        )
        .await;
        ends_with(way.config(), &directory, spoiled.words).await;

        // As it was sent: all of it is there, nothing was confirmed that had not been understood.
        way.rule(|_| Fate::Pass);
        let capture = Capture::start(way.config(), directory.path()).await;
        let briefs = capture.briefs(usize::try_from(number / 4 + 1).unwrap() * 3).await;
        assert_eq!(briefs[briefs.len() - 3], format!("insert public.t {number},{SECRET}"));
        capture.stop().await;
    }
}

/// Of a transaction that is sent before it commits: its number stands behind each tag.
const SPOILED_PIECES: &[Spoiled] = &[
    Spoiled {
        tag: b'I',
        at: |_| 0,
        byte: b'Z',
        words: &["unknown message tag \"Z\" (byte 0x5A)", "begin with 5A 00 00"],
    },
    Spoiled {
        tag: b'I',
        at: |_| 0,
        byte: b'B',
        words: &["message \"B\": it stands within another transaction", "begin with 42"],
    },
    Spoiled { tag: b'I', at: |_| 9, byte: b'M', words: &["message \"I\": it holds no new row"] },
    Spoiled {
        tag: b'I',
        at: |_| 12,
        byte: b'x',
        words: &["message \"I\": a value is of unknown kind (byte 0x78)"],
    },
    Spoiled { tag: b'E', at: |_| 0, byte: b'e', words: &["unknown message tag \"e\" (byte 0x65)"] },
    Spoiled {
        tag: b'S',
        at: |_| 5,
        byte: 2,
        words: &["message \"S\": its flags are unknown (byte 0x02)", "53 00 00"],
    },
    Spoiled {
        tag: b'c',
        at: |_| 5,
        byte: 4,
        words: &["message \"c\": its flags are unknown (byte 0x04)", "63 00 00"],
    },
];

#[tokio::test]
async fn nor_in_what_is_sent_before_it_commits() {
    let (server, directory) = (Server::start("logical_decoding_work_mem = 64kB"), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id serial primary key, v text)").await;
    let way = Interceptor::start(&server).await;
    let config = || Config { streaming: Streaming::On, ..way.config() };
    Capture::start(config(), directory.path()).await.stop().await;
    for (number, spoiled) in (1..).zip(SPOILED_PIECES) {
        spoil(&way, spoiled);
        run(&client, &format!("insert into t (v) select '{SECRET}' from generate_series(1, {PIECES_ROWS})"))
            .await;
        ends_with(config(), &directory, spoiled.words).await;

        way.rule(|_| Fate::Pass);
        let capture = Capture::start(config(), directory.path()).await;
        let briefs = capture.briefs(number * PIECES_ROWS).await;
        assert_eq!(*briefs.last().unwrap(), format!("insert public.t {},{SECRET}", number * PIECES_ROWS));
        capture.stop().await;
    }
}

#[tokio::test]
async fn an_option_that_the_server_does_not_know_is_refused() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    Capture::start(config(&server), directory.path()).await.stop().await;
    let connection =
        Connection::connect(&Conninfo::parse(&server.admin()).unwrap(), Purpose::Replication).await.unwrap();
    let command = "START_REPLICATION SLOT rowcast LOGICAL 0/0 (proto_version '1', publication_names 'rowcast', \
                   colour 'blue')";
    let error = connection.start_replication(command).await.err().unwrap();
    // Not retried for ever, as errors inside the server are.
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("colour"), "{error}");
}

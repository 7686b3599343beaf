//! A connection that breaks within a transaction: it comes again as a whole, and is there once.

use futures_util::SinkExt;
use rowcast_engine::event::Op;

use super::harness::{Capture, Directory, run, sql};
use super::interceptor::{Fate, Interceptor};
use crate::support::Server;

const ROWS: usize = 3000;

/// Breaks off at each of these messages, counted from the last break.
fn cut_at(way: &Interceptor, cuts: &'static [usize]) {
    let (mut left, mut passed) = (cuts.iter(), 0);
    let mut next = left.next();
    way.rule(move |_| {
        passed += 1;
        if next == Some(&passed) {
            (next, passed) = (left.next(), 0);
            return Fate::Cut;
        }
        Fate::Pass
    });
}

/// Begin, Relation and the rows: in the middle, at the first row, in the middle again, at the last row, at Commit.
const CUTS: &[usize] = &[700, 3, 2000, ROWS + 2, ROWS + 3];

#[tokio::test]
async fn a_copy_and_an_insert_of_many_rows_are_cut_and_resumed() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key, v text)").await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;

    cut_at(&way, CUTS);
    let copy = client.copy_in::<_, bytes::Bytes>("copy public.t from stdin").await.unwrap();
    let mut copy = std::pin::pin!(copy);
    for id in 0..ROWS {
        copy.send(format!("{id}\tcopied\n").into()).await.unwrap();
    }
    copy.close().await.unwrap();
    let copied = capture.wait(ROWS).await;
    // Rows of one COPY share positions: what a position alone would tell apart is not enough.
    assert!(copied.windows(2).any(|pair| pair[0].lsn == pair[1].lsn), "no two rows share a position");

    cut_at(&way, CUTS);
    let sql = format!("insert into t select g, 'inserted' from generate_series({ROWS}, {}) g", 2 * ROWS - 1);
    run(&client, &sql).await;
    let events = capture.wait(2 * ROWS).await;
    for (at, event) in events.iter().enumerate() {
        let (group, seq) = (at / ROWS, at % ROWS);
        let verb = ["copied", "inserted"][group];
        assert_eq!((event.op, event.new.as_str()), (Op::Insert, format!("{at},{verb}").as_str()));
        assert_eq!((usize::try_from(event.seq).unwrap(), event.last), (seq, seq == ROWS - 1));
        assert_eq!(event.end_lsn, events[group * ROWS].end_lsn);
    }
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert_eq!(events[ROWS].previous_end, events[0].end_lsn);
    assert_eq!(capture.report().source.reconnects, 2 * u64::try_from(CUTS.len()).unwrap());
    capture.stop().await;
}

/// Whole rows have been read when the journal's process dies; nothing of the transaction is shown.
#[tokio::test]
async fn a_crash_in_the_middle_leaves_nothing_of_the_transaction() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let mut passed = 0;
    way.rule(move |_| {
        passed += 1;
        if passed < ROWS / 2 {
            return Fate::Pass;
        }
        // Nobody listens to the second and later ones, of the connections that follow.
        let _ = tell.try_send(());
        Fate::Cut
    });
    run(&client, &format!("insert into t select generate_series(1, {ROWS})")).await;
    tokio::task::spawn_blocking(move || told.recv().unwrap()).await.unwrap();
    capture.crash().await;
    way.rule(|_| Fate::Pass);
    let capture = Capture::start(way.config(), directory.path()).await;
    let events = capture.wait(ROWS).await;
    assert!(events.iter().zip(1..).all(|(event, id): (_, usize)| event.new == id.to_string()));
    capture.stop().await;
}

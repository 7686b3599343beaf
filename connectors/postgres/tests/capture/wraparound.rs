//! Transaction ids go beyond 2^32; the stream shows their lower half only.

use crate::capture::snapshot::rows_of_t;
use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use tokio_postgres::Client;

use super::harness::{Capture, Directory, config, confirmed, run, sql, value};
use super::snapshot::{actual, caught_up, read_whole, rebuilt};
use crate::support::Server;

/// The ids that the server is led through: each is nearer to the one before than the half of 2^32, beyond which the
/// server would take what is old for what is to come.
const STEPS: [u32; 3] = [0x6000_0000, 0xC000_0000, 0xFFFF_FF00];

/// Ids in a file of `pg_xact`, and its size.
const IDS_A_FILE: u32 = 0x10_0000;
const FILE_BYTES: usize = 256 << 10;

/// A crash has to come sooner than a confirmation, of which there is one a second.
const TRIES: u32 = 20;

/// Leads a server to where ids are about to go beyond 2^32. What it holds is frozen on the way, as autovacuum would
/// have done in the years that this takes.
pub(super) async fn lead(server: &mut Server) {
    run(&sql(server).await, "alter database template0 allow_connections true").await;
    freeze(server).await;
    for id in STEPS {
        server.stop_in_order();
        server.write_zeros(&format!("pg_xact/{:04X}", id / IDS_A_FILE), FILE_BYTES);
        server.set_next_xid(id);
        server.launch("");
        freeze(server).await;
    }
}

async fn freeze(server: &Server) {
    for database in ["template0", "template1", "postgres"] {
        let url = server.admin().replace("dbname=postgres", &format!("dbname={database}"));
        let info = rowcast_postgres::conninfo::Conninfo::parse(&url).unwrap();
        let client = rowcast_postgres::wire::sql_client(&info).await.unwrap();
        client.batch_execute("vacuum freeze").await.unwrap();
    }
}

/// All ids up to 2^32 are given to somebody.
async fn pass_the_end(client: &Client) {
    while value(client, "pg_current_xact_id()").await.parse::<u64>().unwrap() <= u64::from(u32::MAX) {}
}

#[tokio::test]
async fn ids_beyond_2_to_the_32() {
    let (mut server, directory) = (Server::start(""), Directory::new());
    if !server.can_set_xids() {
        println!("SKIPPED: pg_resetwal is not among this server's programs");
        return;
    }
    lead(&mut server).await;
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let mut rows = 0;
    let (mut end, mut unconfirmed) = (Lsn::ZERO, false);
    for _ in 0..TRIES {
        let capture = Capture::start(config(&server), directory.path()).await;
        rows += 1;
        run(&client, &format!("insert into t values ({rows})")).await;
        if rows == 1 {
            let before = capture.wait(1).await.remove(0);
            assert!(before.xid >= STEPS[2], "{}", before.xid);
            pass_the_end(&client).await;
        }
        rows += 1;
        run(&client, &format!("begin; insert into t values ({rows}); savepoint s; update t set id = id where id = {rows}; commit")).await;
        let newest = capture.wait(usize::try_from(rows / 2 * 3).unwrap()).await.pop().unwrap();
        assert!(newest.xid < 10_000, "{}", newest.xid);
        end = newest.end_lsn;
        capture.crash().await;
        unconfirmed = confirmed(&client).await < end;
        if unconfirmed {
            break;
        }
    }
    assert!(unconfirmed, "every crash came after a confirmation");
    // What is repeated is known again by the lower half of its id.
    let capture = Capture::start(config(&server), directory.path()).await;
    rows += 1;
    run(&client, &format!("insert into t values ({rows})")).await;
    let events = capture.wait(usize::try_from(rows / 2 * 3 + 1).unwrap()).await;
    let newest = events.last().unwrap();
    assert_eq!((newest.new.as_str(), newest.previous_end), (rows.to_string().as_str(), end));
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id && pair[0].end_lsn <= pair[1].end_lsn));
    capture.stop().await;
}

/// Rows that are read while ids pass the end: what a snapshot sees is told by 64 bits, what the stream sends by 32.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_across_the_end_of_the_32_bits() {
    let (mut server, directory) = (Server::start(""), Directory::new());
    if !server.can_set_xids() {
        println!("SKIPPED: pg_resetwal is not among this server's programs");
        return;
    }
    lead(&mut server).await;
    let client = sql(&server).await;
    run(
        &client,
        "create table t (id int primary key, v text, big text); alter table t alter big set storage external;
                  insert into t select i, 'old', repeat(i || ' ', 900) from generate_series(1, 3000) i",
    )
    .await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let xid = value(&client, "pg_current_xact_id()").await.parse::<u64>().unwrap();
    assert!(xid < u64::from(u32::MAX), "{xid}");
    let mut done = 0;
    let ids = async || value(&client, "pg_current_xact_id()").await.parse::<u64>().unwrap();
    while done < 4 || ids().await <= u64::from(u32::MAX) + 300 {
        if capture.report().snapshots.is_empty() {
            let wanted = rows_of_t(None);
            capture.status.ask_for_snapshot(wanted).await.unwrap();
            done += 1;
        }
        let (key, other) = (1 + xid % 2999, 1 + (xid + done) % 2999);
        run(&client, &format!("update t set v = v || 'u' where id % 100 = {};
                               update t set id = id + 10000 where id = {key}; update t set id = id - 10000 where id = {key} + 10000;
                               delete from t where id = {other}; insert into t values ({other}, 'again', 'small')", done % 100))
            .await;
    }
    read_whole(&capture).await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    let reads = events.iter().filter(|event| event.op == Op::Read).count();
    println!("{done} snapshots, {reads} rows");
    let xids = |range: std::ops::RangeInclusive<u32>| events.iter().any(|event| range.contains(&event.xid));
    assert!(reads > 6000 && xids(STEPS[2]..=u32::MAX) && xids(1..=100_000), "{reads}");
    assert_eq!(rebuilt(&events, "public.t", 3), actual(&client, "t", &["id", "v", "big"]).await);
    capture.stop().await;
}

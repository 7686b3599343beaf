//! Transaction ids go beyond 2^32 while chunks are read: what a snapshot sees is asked by the lower half of an id, which
//! is all that the stream shows.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::wraparound::lead;
use super::load::transaction;
use super::*;

/// Transactions while the table is read once.
const A_ROUND: u32 = 30;

/// Ids from here on belong to before the turn.
const HALF: u32 = 1 << 31;

/// The next transaction's id, all of it.
async fn next_id(client: &Client) -> u64 {
    value(client, "pg_snapshot_xmax(pg_current_snapshot())").await.parse().unwrap()
}

/// Has all rows read while others change them.
async fn round(capture: &Capture, writer: &Client, random: &mut StdRng) {
    let wanted = rows_of_t(None);
    capture.status.ask_for_snapshot(wanted).await.unwrap();
    for _ in 0..A_ROUND {
        // A key that is taken rolls it back, which is as good.
        if writer.batch_execute(&transaction(random)).await.is_err() {
            writer.batch_execute("rollback").await.unwrap();
        }
    }
    read_whole(capture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_pass_2_to_the_32_while_chunks_are_read() {
    let (mut server, directory) = (Server::start(""), Directory::new());
    if !server.can_set_xids() {
        println!("SKIPPED: pg_resetwal is not among this server's programs");
        return;
    }
    lead(&mut server).await;
    let (client, writer, open) = (sql(&server).await, sql(&server).await, sql(&server).await);
    run(&writer, "select 1").await;
    run(
        &client,
        "create table t (id int primary key, v text, big text); alter table t alter big set storage external;
         insert into t select i, 'v', repeat(i || ' ', 900) from generate_series(-4, 3999, 2) i",
    )
    .await;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let capture = Capture::start(config(&server), directory.path()).await;
    // In progress on both sides of the turn, seen by no chunk; the other one's keys lie elsewhere.
    run(&open, "begin; update t set v = 'open' where id = -2; delete from t where id = -4; insert into t values (-1, 'open', 'x')").await;
    let turn = 1 << 32;
    assert!(next_id(&client).await < turn - u64::from(A_ROUND), "the first round lies before the turn");
    while next_id(&client).await < turn + 2 * u64::from(A_ROUND) {
        round(&capture, &writer, &mut random).await;
    }
    let seen = rebuilt(&capture.events(), "public.t", 3);
    assert_eq!(seen["-2"][0].as_deref(), Some("v"), "nothing of what is in progress");
    let ends = async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        run(&open, "commit").await;
    };
    tokio::join!(ends, round(&capture, &writer, &mut random));
    caught_up(&client, &capture).await;

    let events = capture.events();
    let turned = events.iter().position(|event| (1..HALF).contains(&event.xid)).unwrap();
    let reads = |events: &[Seen]| events.iter().filter(|event| event.op == Op::Read).count();
    let (before, after) = (reads(&events[..turned]), reads(&events[turned..]));
    println!("{before} rows read before the turn, {after} behind it");
    assert!(before > 500 && after > 4000, "{before} rows read before the turn, {after} behind it");
    assert!(events[turned..].iter().any(|event| event.xid >= HALF && event.new.starts_with("-1,open")));
    let (built, real) = (rebuilt(&events, "public.t", 3), actual(&client, "t", &["id", "v", "big"]).await);
    for (key, row) in &real {
        assert_eq!(built.get(key), Some(row), "row {key}");
    }
    assert_eq!(built.len(), real.len());
    capture.stop().await;
}

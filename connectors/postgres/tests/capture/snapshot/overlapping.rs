//! Rows that are asked for while others of the same table are read: nobody's wish takes the place of another's.

use super::*;

const ROWS: u64 = 20_000;

/// Waits until so many wishes of transactions wait, of which it is known where they begin.
async fn wishes(capture: &Capture, count: usize) {
    until("the wishes", async || {
        let placed = |note: &[u8]| !String::from_utf8_lossy(note).contains("\"commit\"");
        let notes = capture.journal.notes();
        let wished = notes.iter().filter(|(name, _)| name.starts_with("snapshot public.t wished"));
        wished.filter(|(_, note)| placed(note)).count() == count
    })
    .await;
}

/// How often each row has been read.
fn times_read(capture: &Capture) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for event in capture.events().iter().filter(|event| event.op == Op::Read) {
        *times.entry(event.new.split(',').next().unwrap().to_owned()).or_default() += 1;
    }
    times
}

/// Has the rest of the initial snapshot read, of whose chunks so many have passed, until one of a wish behind it has been
/// read and is held back.
async fn read_initial(way: &Interceptor, mut passed: usize, capture: &Capture) {
    until("the initial rows", async || {
        let read = way.chunks();
        if capture.journal.note_named("snapshot public.t").is_none() {
            return true;
        }
        if read > passed {
            way.pass_chunk();
            passed += 1;
        }
        false
    })
    .await;
    until("the first chunk behind them", async || way.chunks() > passed).await;
}

/// Has the initial snapshot paused before it has all, and asks for rows meanwhile; a kill behind that forgets nothing. Those
/// that are asked for in the same words meanwhile are read once, also where a kill comes when that has begun.
#[tokio::test(flavor = "multi_thread")]
async fn wishes_of_transactions_wait_behind_what_is_read() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        &format!("create table t (id int primary key); insert into t select generate_series(1, {ROWS})"),
    )
    .await;
    let way = Interceptor::start(&server).await;
    way.hold();
    way.pass_stream();
    let config = rowcast_postgres::Config { snapshot: Some(SnapshotMode::Initial), ..way.config() };
    let capture = Capture::start(config.clone(), directory.path()).await;
    pause_behind_a_chunk(&way, &client, &capture).await;
    // Nor does one of the wishes begin before all are there.
    way.hold();
    way.pass_stream();
    let passed = way.chunks();
    run(&client, "begin; select rowcast.snapshot('t', 'id = 5'), rowcast.snapshot('t', 'id = 7'), rowcast.snapshot('t', 'id = 5'); commit").await;
    run(&client, "select rowcast.snapshot('t', 'id = 5')").await;
    for _ in 0..3 {
        run(&client, "select rowcast.snapshot('t')").await;
    }
    wishes(&capture, 6).await;
    // As long as it is paused, one of the wishes may go before it.
    capture.status.ask_for_snapshot(Command::Resume(vec!["public.t".to_owned()])).await.unwrap();
    capture.crash().await;
    let capture = Capture::start(config.clone(), directory.path()).await;
    let again = capture.status.ask_for_snapshot(rows_of_t(Some("id = 9"))).await.unwrap_err();
    assert!(again.to_string().contains("under way already"), "{again}");
    read_initial(&way, passed, &capture).await;
    // Nothing is written in the midst of a transaction; one of both for id = 5 is done with all the same.
    way.hold_within();
    let before = value(&client, "pg_current_wal_insert_lsn()").await.parse::<rowcast_engine::Lsn>().unwrap();
    // The row's record begins behind another one of its transaction.
    run(
        &client,
        "begin; select pg_logical_emit_message(true, 'other', ''); insert into t values (0); commit",
    )
    .await;
    until("the stream to be held", async || way.has_message()).await;
    // Until then it stands between two transactions, where rows are written.
    until("the row to be taken in", async || capture.report().source.received_lsn > before).await;
    way.pass_all_chunks();
    wishes(&capture, 5).await;
    capture.crash().await;
    way.pass_stream();
    let capture = Capture::start(config, directory.path()).await;
    read_whole(&capture).await;
    let times = times_read(&capture);
    let of = |id: &str| times[id];
    assert_eq!(times.len() as u64, ROWS + 1);
    assert_eq!((of("0"), of("1"), of("5"), of("7"), of("20000")), (1, 2, 3, 3, 2));
    capture.stop().await;
}

/// Rows have given way by then to events that were before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_comes_when_the_same_rows_are_being_read_is_read_for_itself() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(
        &client,
        "create table t (id int primary key, n int); insert into t select generate_series(1, 10), 0",
    )
    .await;
    let way = Interceptor::start(&server).await;
    way.hold();
    way.pass_stream();
    let capture = Capture::start(way.config(), directory.path()).await;
    run(&client, "select rowcast.snapshot('t')").await;
    until("the chunk to be read", async || way.chunks() > 0).await;
    run(&client, "update t set n = 1 where id = 1").await;
    run(&client, "select rowcast.snapshot('t')").await;
    wishes(&capture, 2).await;
    way.pass_all_chunks();
    read_whole(&capture).await;
    let times = times_read(&capture);
    assert_eq!((times["1"], times["2"]), (1, 2));
    capture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_with_more_conditions_than_can_be_kept_is_told() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    run(&client, "create table t (id int primary key); insert into t select generate_series(1, 10)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    run(&client, "select rowcast.snapshot('t', 'id = ' || i) from generate_series(1, 1001) i").await;
    caught_up(&client, &capture).await;
    let events = capture.events();
    let rejected: Vec<&Seen> = events.iter().filter(|event| event.channel == "rowcast.rejected").collect();
    assert_eq!(rejected.len(), 1);
    assert!(
        rejected[0].new.contains("1,000 snapshots with conditions of 4 MB together at most"),
        "{}",
        rejected[0].new
    );
    let wishes = capture.journal.notes().into_keys().filter(|name| name.starts_with("snapshot ")).count();
    assert!(wishes > 900, "{wishes} wait");
    capture.stop().await;
}

//! How long a chunk takes decides how many rows the next one has.

use super::*;

const ROWS: usize = 10_000;

/// How many chunks it takes to look at all rows with a condition that none meets.
async fn chunks(capture: &Capture, way: &Interceptor, condition: &str) -> usize {
    let before = way.chunks();
    capture.status.ask_for_snapshot(rows_of_t(Some(condition))).await.unwrap();
    read_whole(capture).await;
    way.chunks() - before
}

/// Rows that take long are read in more chunks: none holds a lock, and what vacuum removes, for long.
#[tokio::test(flavor = "multi_thread")]
async fn slow_rows_come_in_smaller_chunks() {
    let server = Server::start("");
    let (client, directory) = (sql(&server).await, Directory::new());
    let fill = format!(
        "create table t (id int primary key); insert into t select generate_series(1, {ROWS}); analyze t"
    );
    run(&client, &fill).await;
    let way = Interceptor::start(&server).await;
    let capture = Capture::start(way.config(), directory.path()).await;
    let fast = chunks(&capture, &way, "id < 0").await;
    // A sleep does not depend on how busy the machine is: of these, no chunk but the first has time for a thousand rows.
    let slow =
        chunks(&capture, &way, "case when id % 10 = 0 then pg_sleep(0.003) is null else false end").await;
    assert!(fast >= 1 && slow >= ROWS / 1_000 - 1, "{fast} chunks, and {slow} of slow rows");
    assert!(slow > fast, "{fast} chunks, and {slow} of slow rows");
    capture.stop().await;
}

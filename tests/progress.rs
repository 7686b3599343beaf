//! How far a snapshot is, as whoever asked for it sees it: drawn at a terminal, and nothing of that elsewhere.

use tokio_postgres::Client;

use crate::support::rowcast::command;
use crate::support::terminal::{Screen, Terminal};
use crate::support::{Database, Postgres, Rowcast, SOON, wait_for};

/// Of the table.
const ROWS: u64 = 20_000;

/// Of the first chunk.
const FIRST: u64 = 2_000;

/// The first chunk waits for one lock, and what comes behind it for another one.
const LOCKED: &str = "public.waits_for(case when id <= 2000 then 1 else 2 end) is not null";

/// Who waits for a lock otherwise is sent away after two seconds.
const WAITS_FOR: &str = "
    create function waits_for(lock bigint) returns boolean language plpgsql as $$ begin
        while not pg_try_advisory_xact_lock_shared(lock) loop perform pg_sleep(0.01); end loop;
        return true;
    end $$";

/// A line that was drawn.
#[derive(Debug, PartialEq)]
struct Drawn {
    filled: usize,
    percent: f64,
    rows: u64,
    estimate: u64,
}

/// All that were drawn, in their order.
fn drawn(told: &str) -> Vec<Drawn> {
    let of = |line: &str| {
        let (bar, rest) = line.split_once(" %  ")?;
        let (rows, rest) = rest.split_once(" of about ")?;
        Some(Drawn {
            filled: bar.matches('█').count(),
            percent: bar.rsplit_once(' ')?.1.parse().ok()?,
            rows: rows.parse().ok()?,
            estimate: rest.split_once(" rows, ")?.0.parse().ok()?,
        })
    };
    told.lines().filter_map(of).collect()
}

/// A captured table whose rows are held back, with who does so.
async fn held(name: &str) -> (Database, Client, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    let rows = format!("insert into orders select generate_series(1, {ROWS}); analyze orders");
    database.execute(&format!("{WAITS_FOR}; create table orders (id integer primary key); {rows}")).await;
    // Read in the order of the key.
    for setting in ["enable_seqscan", "jit"] {
        database.execute(&format!("alter database \"{}\" set {setting} = off", database.name())).await;
    }
    let locker = database.client().await;
    locker.batch_execute("select pg_advisory_lock(1), pg_advisory_lock(2)").await.unwrap();
    let rowcast = Rowcast::of(&database).set("source.snapshot=never").start().await;
    (database, locker, rowcast)
}

/// Asks for the rows at a terminal, and waits until it shows those of the first chunk.
async fn watched(locker: &Client, data: &str) -> Terminal {
    let terminal = Terminal::run(&["snapshot", "public.orders", "--where", LOCKED, "--data", data]);
    shows(&terminal, 0).await;
    locker.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    shows(&terminal, FIRST).await;
    terminal
}

async fn shows(terminal: &Terminal, rows: u64) {
    wait_for(&format!("{rows} rows to be shown"), SOON, async || {
        let told = terminal.told();
        if drawn(&told).last().is_some_and(|drawn| drawn.rows == rows) { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test]
async fn a_person_at_a_terminal_sees_how_far_it_is() {
    let (_database, locker, rowcast) = held("progress").await;
    let data = rowcast.data().to_str().unwrap().to_owned();
    let mut terminal = watched(&locker, &data).await;
    let told = terminal.told();
    let now = Screen::showing(&told);
    let lines = now.lines();
    assert!(lines.len() == 1 && lines[0].starts_with("public.orders  ██░"), "drawn over: {lines:#?}");
    now.assert_is_left_well();
    let all = drawn(&told);
    assert_eq!((all[0].rows, all[0].percent, all[0].filled), (0, 0.0, 0), "{all:?}");
    // How many there are is known with the first chunk.
    for one in all.iter().filter(|one| one.rows > 0) {
        let share = one.rows as f64 / one.estimate as f64;
        assert!((one.percent - 100.0 * share).abs() < 0.1, "{one:?}");
        assert_eq!(one.filled, (24.0 * share) as usize, "{one:?}");
        assert!(one.estimate.abs_diff(ROWS) < ROWS / 10, "{one:?}");
    }
    locker.batch_execute("select pg_advisory_unlock(2)").await.unwrap();
    assert_eq!(terminal.wait_end().await, 0, "{}", terminal.told());
    let told = terminal.told();
    assert!(drawn(&told).windows(2).all(|two| two[0].rows <= two[1].rows), "{told}");
    let end = Screen::showing(&told);
    assert_eq!(end.lines(), ["public.orders: 20000 rows"]);
    end.assert_is_left_well();
}

#[tokio::test]
async fn the_bar_ends_with_an_error_when_rowcast_is_killed() {
    let (_database, locker, mut rowcast) = held("progress_killed").await;
    let data = rowcast.data().to_str().unwrap().to_owned();
    let mut terminal = watched(&locker, &data).await;
    rowcast.kill9().await;
    assert_eq!(terminal.wait_end().await, 1, "{}", terminal.told());
    let end = Screen::showing(&terminal.told());
    end.assert_is_left_well();
    let lines = end.lines();
    assert!(lines[0].starts_with("public.orders  ██░"), "how far it was stays: {lines:#?}");
    let said = lines[1..].concat();
    assert!(said.starts_with("rowcast: The snapshot cannot be watched any more: "), "{lines:#?}");
    assert!(said.contains("hint: ") && said.contains("goes on when rowcast runs again"), "{lines:#?}");
}

#[tokio::test]
async fn in_a_pipe_nothing_is_drawn() {
    let (_database, locker, rowcast) = held("progress_piped").await;
    locker.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
    let data = rowcast.data().to_str().unwrap().to_owned();
    let piped = command(&["snapshot", "public.orders", "--where", LOCKED, "--data", &data]).await;
    let told = (piped.code, piped.stdout.as_str(), piped.stderr.as_str());
    assert_eq!(told, (0, "public.orders: 20000 rows\n", ""));
}

//! Several publications with the same table: a snapshot has the rows that the stream would send.

use super::*;
use crate::capture::harness::version;

/// The first version that knows conditions.
const FILTERS: u32 = 150_000;

/// What the publications say of `t`, and which of its rows come; by their `n`.
const CASES: [(&str, &str, &str); 4] = [
    ("where (n < 10)", "where (n > 100)", "5 150"),
    ("where (n < 10)", "", "5 50 150"),
    ("", "where (n < 10)", "5 50 150"),
    // One that sends no inserts brings no rows.
    ("where (n < 10)", "where (n > 100) with (publish = 'delete')", "5"),
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_that_one_of_the_publications_sends() {
    for (first, second, expected) in CASES {
        let server = Server::start("");
        let (client, directory) = (sql(&server).await, Directory::new());
        if version(&client).await < FILTERS {
            return;
        }
        run(
            &client,
            &format!(
                "create table t (n int primary key); insert into t values (5), (50), (150);
                 create publication rowcast for table t {first};
                 create publication rowcast_inserts for table t {second}"
            ),
        )
        .await;
        let capture = Capture::start(initial(&server), directory.path()).await;
        read_whole(&capture).await;
        let told = |op: Op| {
            let events = capture.events();
            let mut rows: Vec<u32> = events
                .iter()
                .filter(|event| event.op == op)
                .map(|event| event.new.parse().unwrap())
                .collect();
            rows.sort_unstable();
            rows.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(Op::Read), expected, "{first}; {second}");
        // So it is of rows that come later.
        run(&client, "truncate t; insert into t values (5), (50), (150)").await;
        caught_up(&client, &capture).await;
        assert_eq!(told(Op::Insert), expected, "{first}; {second}");
        capture.stop().await;
    }
}

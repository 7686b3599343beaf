//! Messages that are refused by the thousand.

use super::harness::{Capture, Directory, config, run, sql};
use super::measured;
use super::said::logged;
use crate::support::Server;

#[tokio::test]
async fn each_is_told_and_counted_and_the_log_has_a_line() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let said = |transactional: bool, prefix: &str| {
        format!(
            "select count(pg_logical_emit_message({transactional}, '{prefix}', '{{')) from generate_series(1, 1000)"
        )
    };
    for (times, (transactional, prefix, words)) in [
        (true, "rowcast.snapshot", "it is not signed"),
        (false, "rowcast.snapshot", "it is of no transaction"),
        (true, "rowcast.event.x", "the payload is not JSON"),
    ]
    .into_iter()
    .enumerate()
    {
        run(&client, &said(transactional, prefix)).await;
        let events = capture.wait(1000 * (times + 1)).await;
        assert!(events.iter().all(|event| event.channel == "rowcast.rejected"));
        assert!(events.last().unwrap().new.contains(words));
        assert_eq!(measured::counted("rowcast_source_rejected_messages_total"), events.len() as u64);
        let lines = logged(directory.path(), words);
        assert!(lines.len() == 1 && lines[0].contains("WARN"), "{} lines: {:?}", lines.len(), lines.first());
    }
    capture.stop().await;
}

//! A row that can be stored and not sent: the text of a value is more than the server has room for.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, Streaming};

use super::harness::{Capture, Directory, config, run, sql, until, value};
use crate::support::Server;

/// 1,342,177,280 bits: 168 MB, whose text is longer than 1 GB.
const HUGE: &str = "with a as (select 0::bit(83886080)::varbit v), b as (select v || v v from a),
    c as (select v || v v from b), d as (select v || v v from c), e as (select v || v v from d)
    insert into t select 2, v from e";

#[tokio::test]
async fn it_is_passed_behind_a_gap() {
    for streaming in [Streaming::Off, Streaming::On] {
        let (server, directory) = (Server::start("logical_decoding_work_mem = 64kB"), Directory::new());
        let client = sql(&server).await;
        let config = Config { streaming, ..config(&server) };
        run(&client, "create table t (id int primary key, v varbit)").await;
        let capture = Capture::start(config.clone(), directory.path()).await;
        run(&client, "insert into t values (1, '1')").await;
        capture.wait(1).await;
        run(&client, HUGE).await;
        let error = capture.fails().await;
        let remedy = error.remedy().unwrap();
        // At once, not for the eleventh time.
        assert!(
            error.kind() == Kind::Refused && error.to_string().starts_with("The server's log holds"),
            "{error}"
        );
        assert!(error.to_string().contains("invalid memory alloc request size"), "{error}");
        assert!(remedy.contains("pg_drop_replication_slot") && remedy.contains("rowcast adopt"), "{remedy}");
        // As it says.
        run(&client, "delete from t where id = 2").await;
        let is_free = "select not active from pg_replication_slots where slot_name = 'rowcast'";
        until("the slot to be free", async || value(&client, is_free).await == "true").await;
        run(&client, "select pg_drop_replication_slot('rowcast')").await;
        let mut capture = Capture::launch(config, directory.path());
        capture.waits("is gone").await;
        capture.status.adopt().await.unwrap().unwrap();
        capture.streams().await;
        run(&client, "insert into t values (3, '1')").await;
        let expected = ["insert public.t 1,1", "gap source_lost", "insert public.t 3,1"];
        assert_eq!(capture.briefs(3).await, expected, "{streaming:?}");
        capture.stop().await;
    }
}

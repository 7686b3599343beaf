//! Where in a snapshot its rows stand.

use rowcast_engine::journal::Read;

use super::*;

/// The rows that stand at an end of the whole snapshot.
fn ends(capture: &Capture) -> Vec<String> {
    let (mut after, mut found) = (0, Vec::new());
    while let Read::Batches(batches) = capture.journal.read(after).unwrap() {
        for batch in batches {
            for event in batch.events() {
                let places = event.snapshot.iter().flat_map(|snapshot| snapshot.marks.places());
                found.extend(
                    places
                        .filter(|place| matches!(*place, "first" | "last"))
                        .map(|place| format!("{place} {}", event.channel())),
                );
            }
            after = after.max(batch.last());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_has_one_last_row_whatever_comes_last() {
    for tables in [1, 4] {
        let server = Server::start("");
        let (client, directory) = (sql(&server).await, Directory::new());
        run(
            &client,
            "create table b (id int primary key); insert into b values (1), (2);
             create table c (id int primary key); insert into c values (1);
             create table d_empty (id int primary key); create table y_keyless (a int); insert into y_keyless values (1);
             create table z_empty (id int primary key)",
        )
        .await;
        let config = rowcast_postgres::Config { snapshot_tables: tables, ..initial(&server) };
        let capture = Capture::start(config, directory.path()).await;
        read_whole(&capture).await;
        let ends = ends(&capture);
        let of = |place: &str| ends.iter().filter(|end| end.starts_with(place)).count();
        assert_eq!((of("first"), of("last")), (1, 1), "{tables} at a time: {ends:?}");
        if tables == 1 {
            assert_eq!(ends, ["first public.y_keyless", "last public.c"]);
        }
        capture.stop().await;
    }
}

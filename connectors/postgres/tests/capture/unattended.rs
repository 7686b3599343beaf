//! Looks at what is to be captured that come to nothing: health says so for as long as it lasts.

use super::harness::{Capture, Directory, config, run, sql, until};
use crate::support::Server;

#[tokio::test]
async fn health_says_that_nobody_looks_after_the_tables() {
    let (server, directory) = (Server::start(""), Directory::new());
    let client = sql(&server).await;
    run(&client, "create table t (id int primary key)").await;
    let capture = Capture::start(config(&server), directory.path()).await;
    let attended = || capture.report().source.unattended;
    for (breaks, mends, words) in [
        ("alter schema rowcast rename to away", "alter schema away rename to rowcast", "does not exist"),
        (
            "alter table rowcast.lent rename to kept",
            "alter table rowcast.kept rename to lent",
            "rowcast.lent",
        ),
    ] {
        assert!(attended().is_none() && capture.report().healthy);
        run(&client, breaks).await;
        until("it to be told", async || {
            capture.status.look_again();
            attended().is_some()
        })
        .await;
        let told = attended().unwrap();
        assert!(told.contains(words) && told.contains("`rowcast check`"), "{told}");
        assert!(capture.report().reasons.contains(&told));
        run(&client, mends).await;
        until("it to be over", async || {
            capture.status.look_again();
            attended().is_none()
        })
        .await;
    }
    run(&client, "create table u (id int primary key); insert into u values (1)").await;
    assert_eq!(capture.briefs(1).await, ["insert public.u 1"]);
    capture.stop().await;
}

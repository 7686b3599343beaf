//! The publications that the stream reads: a wrong name loses nothing, one that was made anew does.

use rowcast_engine::Kind;
use rowcast_postgres::{Config, OnGap};

use super::breaks::{POLICIES, gaps, goes_on, one_row, stays};
use super::harness::{Capture, run, sql};

/// It is refused like any other mistake in the configuration, and nothing of it is left.
#[tokio::test]
async fn a_wrong_name_is_no_lost_history() {
    for policy in POLICIES {
        let (server, directory, config) = one_row("", policy).await;
        let client = sql(&server).await;
        let wrong = Config { publication: "another".to_owned(), ..config.clone() };
        for _ in 0..2 {
            let error = Capture::launch(wrong.clone(), directory.path()).fails().await;
            assert_eq!(error.kind(), Kind::Refused);
            let words =
                "publication another does not exist; the journal's stream reads rowcast and rowcast_inserts";
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.remedy().unwrap().contains("source.publication"), "{:?}", error.remedy());
        }
        run(&client, "insert into t values (2)").await;
        let capture = Capture::start(config.clone(), directory.path()).await;
        let expected = ["insert public.t 1", "insert public.t 2"];
        stays(config, capture, &directory, &expected).await;
        // Somebody who means it.
        let capture = Capture::start(Config { adopt: true, ..wrong.clone() }, directory.path()).await;
        assert_eq!(gaps(&capture).len(), 1);
        run(&client, "insert into t values (3)").await;
        let expected = [&expected[..], &["gap source_lost", "insert public.t 3"]].concat();
        stays(Config { on_gap: OnGap::Stop, ..wrong }, capture, &directory, &expected).await;
    }
}

/// Under the same name, with the same tables: from version 18 on the server says nothing of it.
#[tokio::test]
async fn one_that_was_made_anew_while_nobody_looked_is_noticed() {
    for policy in POLICIES {
        for name in ["rowcast", "rowcast_inserts"] {
            let (server, directory, config) = one_row("", policy).await;
            let client = sql(&server).await;
            let tables = if name == "rowcast" { "for table t" } else { "" };
            run(&client, &format!("drop publication {name}")).await;
            run(&client, "insert into t values (2)").await;
            run(&client, &format!("create publication {name} {tables}")).await;
            run(&client, "insert into t values (3)").await;
            let words = format!("The publication {name} was dropped");
            let capture = goes_on(config.clone(), &directory, &words, "source_lost").await;
            run(&client, "insert into t values (4)").await;
            let expected = ["insert public.t 1", "gap source_lost", "insert public.t 4"];
            stays(config, capture, &directory, &expected).await;
        }
    }
}

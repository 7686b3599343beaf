//! Every command of the README, as it stands there.

use std::path::Path;
use std::process::Stdio;

use crate::support::process::Directory;
use crate::support::rowcast::PROGRAM;
use crate::support::{Database, Kafka, Postgres, Rowcast};

/// Commands that are run elsewhere.
const ELSEWHERE: &[(&str, &str)] = &[
    ("make demo", "it installs and builds, then runs what `demo.rs` runs"),
    ("make test", "it runs this"),
    ("make lint", "it judges the sources, not the program"),
    ("make bench-", "it takes minutes and the whole machine"),
    ("cargo install", "it builds the program that is tested here"),
    ("docker", "`make test-compose` runs it"),
];

/// Commands that go on until they are interrupted.
const ENDLESS: &[&str] = &["curl -N", "rowcast run"];
/// Seconds for the others; endless ones are interrupted.
const LIMIT: [&str; 2] = ["20", "5"];

/// The lines of the README's blocks of a language, `\` at the end joined.
fn blocks(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).expect("README.md").replace("\\\n", " ");
    let mut lines = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(word) => inside = !inside && word == language,
            None if inside && !line.trim().is_empty() && !line.starts_with('#') => {
                lines.push(line.to_owned())
            }
            None => {}
        }
    }
    lines
}

/// Runs a line in a shell, with the example's addresses replaced by those of the test.
async fn run(line: &str, directory: &Path) {
    let endless = ENDLESS.iter().any(|start| line.starts_with(start));
    let programs = Path::new(PROGRAM).parent().expect("a directory").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let output = tokio::process::Command::new("timeout")
        .args(["--preserve-status", "--signal=INT", LIMIT[usize::from(endless)], "sh", "-c"])
        .arg(if endless { format!("exec {line}") } else { line.to_owned() })
        .current_dir(directory)
        .env("PATH", path)
        // Somebody else's rowcast may have the usual one on the server of the tests.
        .env("ROWCAST__SOURCE__SLOT", format!("readme_{}", std::process::id()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("timeout and sh");
    // An interrupted curl is killed by the signal.
    let code = output.status.code().unwrap_or(130);
    assert!(code == 0 || endless && line.starts_with("curl") && code == 130, "{line}: {code}, {output:?}");
    assert!(!output.stdout.is_empty() || line.starts_with("rowcast run"), "{line} says nothing: {output:?}");
}

/// The program as the README starts it, with enough in it for its examples.
async fn shop() -> (Database, Rowcast, Directory) {
    let database = Postgres::shared().await.create_database("shop").await;
    database.execute("create table orders (id integer primary key, total numeric)").await;
    let kafka = Kafka::shared().await;
    let rowcast = Rowcast::of(&database).kafka(kafka, &kafka.prefix("shop")).start().await;
    database.execute("insert into orders select i, i * 1.5 from generate_series(1, 10) i").await;
    let directory = Directory::new("readme");
    std::os::unix::fs::symlink(rowcast.data(), directory.path().join("rowcast-data")).expect("a link");
    (database, rowcast, directory)
}

#[tokio::test]
async fn every_command_of_the_readme_works() {
    let (database, rowcast, directory) = shop().await;
    for statement in blocks("sql") {
        database.execute(&statement).await;
    }
    let other = Postgres::shared().await.create_database("shop").await;
    let commands = blocks("sh");
    assert!(commands.len() > 10, "{commands:?}");
    for (number, line) in commands.iter().enumerate() {
        if let Some((_, why)) = ELSEWHERE.iter().find(|(start, _)| line.starts_with(start)) {
            println!("{line}: not here, since {why}");
            continue;
        }
        let mut line = line.replace("127.0.0.1:8080", &rowcast.address().to_string());
        if line.contains("127.0.0.1:9092") {
            line = line.replace("127.0.0.1:9092", Kafka::shared().await.brokers());
        }
        // A second program needs a place, a database and a slot of its own.
        let run_own = line.starts_with("rowcast run");
        let source = if run_own { &other } else { &database };
        line = line.replace("postgres://postgres@127.0.0.1:5432/shop", source.url());
        if run_own {
            line += &format!(
                " --listen 127.0.0.1:0 --data run-{number} --set source.slot={}_{number}",
                other.name()
            );
        }
        println!("{line}");
        run(&line, directory.path()).await;
    }
}

//! Every command of the README, as it stands there.

use std::path::Path;
use std::process::Stdio;

use crate::support::process::Directory;
use crate::support::rowcast::{PROGRAM, command, command_in};
use crate::support::{Database, Kafka, Postgres, Rowcast, browser};

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

/// The README's blocks of a language, as they stand there.
fn blocks(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).expect("README.md");
    let mut found = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut inside) {
            (Some(word), None) => inside = Some((word == language, String::new())),
            (Some(_), Some((wanted, block))) => {
                if *wanted {
                    found.push(std::mem::take(block));
                }
                inside = None;
            }
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(!found.is_empty(), "no block of {language}");
    found
}

/// The commands in the blocks of a language, `\` at the end joined.
fn lines(language: &str) -> Vec<String> {
    let text = blocks(language).concat().replace("\\\n", " ");
    let commands = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    commands.map(ToOwned::to_owned).collect()
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
    for statement in lines("sql") {
        database.execute(&statement).await;
    }
    let other = Postgres::shared().await.create_database("shop").await;
    let commands = lines("sh");
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

/// In a real browser, on a page of rowcast's own.
#[tokio::test]
async fn the_script_of_the_readme_shows_changes() {
    let database = Postgres::shared().await.create_database("script").await;
    database.execute("create table orders (id integer primary key)").await;
    let rowcast = Rowcast::of(&database).start().await;
    let address = rowcast.address().to_string();
    let directory = Directory::new("script");
    let scripts = blocks("js");
    assert_eq!(scripts.len(), 1, "{scripts:?}");
    let script = scripts[0].replace("127.0.0.1:8080", &address);
    assert!(script.contains(&address), "{script}");
    let file = directory.path().join("readme.js").display().to_string();
    std::fs::write(&file, script).expect("a file");
    let url = format!("http://{address}/");
    let told = tokio::spawn(async move { browser::node("script.mjs", &[&url, &file, "3"]).await });
    // Whenever it is ready, something changes.
    let (client, mut id) = (database.client().await, 0);
    while !told.is_finished() {
        id += 1;
        client.execute("insert into orders values ($1)", &[&id]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let told = told.await.expect("the browser");
    let ids: Vec<_> = told.iter().filter_map(|event| event["after"]["id"].as_i64()).collect();
    assert_eq!(ids.len(), 3, "{told:?}");
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "none is left out: {ids:?}");
    assert!(told.iter().all(|event| event["channel"] == "public.orders" && event["op"] == "insert"));
}

#[tokio::test]
async fn the_configuration_of_the_readme_is_one() {
    let directory = Directory::new("configuration");
    for (number, text) in blocks("toml").into_iter().enumerate() {
        let secrets = directory.path().display().to_string();
        let text = text.replace("/run/secrets", &secrets);
        assert!(text.contains(&secrets), "{text}");
        for (name, secret) in [("source", "postgres://postgres@127.0.0.1:5432/shop"), ("kafka", "sesame")] {
            std::fs::write(directory.path().join(name), secret).expect("a file");
        }
        // What is commented out is an example, too.
        for (way, text) in [("given", text.clone()), ("all", text.replace("\n# ", "\n"))] {
            let file = format!("{way}-{number}.toml");
            std::fs::write(directory.path().join(&file), &text).expect("a file");
            let checked = command_in(directory.path(), &["config", "check", "--config", &file]).await;
            assert_eq!(checked.code, 0, "{text}\n{checked:?}");
            let shown = command_in(directory.path(), &["config", "show", "--config", &file]).await;
            let streaming =
                shown.stdout.lines().any(|line| line.trim_start().starts_with("streaming = \"on\""));
            assert_eq!((shown.code, streaming), (0, way == "all"), "{shown:?}");
        }
    }
}

/// Whoever writes a setting down finds it, with the default that it has.
#[tokio::test]
async fn the_reference_has_every_setting_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let reference = std::fs::read_to_string(path).expect("docs/reference.md");
    let arguments = ["config", "show", "--source", "postgres://me@h/d", "--kafka", "k:9092"];
    let shown = command(&arguments).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let (mut section, mut settings) = ("", 0);
    for line in shown.stdout.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let Some((key, value)) = line.split_once(" = ").filter(|_| !section.is_empty()) else { continue };
        let value = value.split("  # ").next().unwrap_or_default();
        let start = reference.find(&format!("### `[{section}]`")).unwrap_or_else(|| panic!("no [{section}]"));
        let table = reference[start..].lines().skip_while(|line| !line.starts_with('|'));
        let mut rows = table.take_while(|line| line.starts_with('|'));
        let row = rows.find(|row| row.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("{section}.{key} is not in docs/reference.md"));
        // What is given here has no default to tell.
        if !["url", "brokers"].contains(&key) {
            assert!(
                row.split('|').nth(2).is_some_and(|cell| cell.contains(&format!("`{value}`"))),
                "{key} = {value}: {row}"
            );
            settings += 1;
        }
    }
    assert!(settings > 30, "{settings} settings");
}

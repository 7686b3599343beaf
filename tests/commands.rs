//! Every command of the program, and every command of the README.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::port::free_port;
use crate::support::process::Directory;
use crate::support::rowcast::{Output, PROGRAM, command, command_in};
use crate::support::{Database, Postgres, Rowcast, SOON, soon, wait_for};

async fn captured(name: &str) -> (Database, Rowcast) {
    let database = Postgres::shared().await.create_database(name).await;
    database.execute("create table orders (id integer primary key, note text)").await;
    let rowcast = Rowcast::of(&database).start().await;
    (database, rowcast)
}

/// Runs a command that has to succeed.
async fn done(arguments: &[&str]) -> Output {
    let output = command(arguments).await;
    assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
    output
}

fn lines(output: &Output) -> Vec<Value> {
    output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[tokio::test]
async fn check_says_what_is_missing_and_changes_nothing() {
    let database = Postgres::shared().await.create_database("check").await;
    database.execute("create table plain (a integer)").await;
    let slot = format!("source.slot={}", database.name());
    let ready = done(&["check", "--source", database.url(), "--set", &slot]).await;
    assert!(ready.stdout.contains("Ready") && ready.stdout.contains("wal_level"), "{}", ready.stdout);
    let json = done(&["check", "--source", database.url(), "--set", &slot, "--json"]).await.stdout;
    let found: Vec<Value> = serde_json::from_str(&json).unwrap();
    let plain = found.iter().find(|found| found["name"].as_str().unwrap().contains("public.plain"));
    assert!(
        plain.is_some_and(|plain| plain["remedy"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("replica identity")),
        "{json}"
    );
    let client = database.client().await;
    let made = "select count(*) from pg_namespace where nspname = 'rowcast'";
    assert_eq!(client.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 0);

    let nobody = format!("postgres://postgres@127.0.0.1:{}/shop", free_port());
    let output = command(&["check", "--source", &nobody]).await;
    assert!(output.code == 1 && output.stdout.contains("unreachable"), "{output:?}");
}

#[tokio::test]
async fn uninstall_asks_first_and_leaves_nothing() {
    let (database, mut rowcast) = captured("uninstall").await;
    let slot = format!("source.slot={}", database.name());
    let uninstall = ["uninstall", "--source", database.url(), "--set", &slot];
    let running = command(&[&uninstall[..], &["--yes"]].concat()).await;
    assert!(running.code == 3 && running.stderr.contains("is being read by"), "{running:?}");
    assert_eq!(rowcast.terminate().await, 0);

    let asked = done(&uninstall).await.stdout;
    assert!(asked.contains("to remove: schema rowcast") && asked.contains("add --yes"), "{asked}");
    assert!(asked.contains(&format!("DROP PUBLICATION \"{}\";", database.name())), "{asked}");
    let json = done(&[&uninstall[..], &["--json"]].concat()).await.stdout;
    let found: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(found[0]["name"], format!("replication slot {}", database.name()), "{json}");
    let removed = done(&[&uninstall[..], &["--yes"]].concat()).await.stdout;
    assert!(removed.contains("removed: event trigger rowcast\n"), "{removed}");
    let client = database.client().await;
    let left = "select (select count(*) from pg_namespace where nspname = 'rowcast')
        + (select count(*) from pg_publication) + (select count(*) from pg_event_trigger)
        + (select count(*) from pg_replication_slots where database = current_database())";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(done(&[&uninstall[..], &["--yes"]].concat()).await.stdout.contains("Nothing here"));
}

#[tokio::test]
async fn tail_writes_lines_of_json_into_a_pipe() {
    let (database, rowcast) = captured("tail").await;
    let url = format!("http://{}", rowcast.address());
    let live = async {
        done(&["tail", "public.orders", "notes", "--url", &url, "--from", "earliest", "-n", "3"]).await
    };
    let change = async {
        wait_for("tail to connect", SOON, async || {
            let status = rowcast.status().await;
            if status["clients"]["ndjson"] == 1 { Ok(()) } else { Err(status["clients"].to_string()) }
        })
        .await;
        database.execute("insert into orders values (1, 'é'), (2, E'two\\nlines'); select rowcast.publish('notes', '3')").await;
    };
    let (output, ()) = tokio::join!(live, change);
    let found = lines(&output);
    let after: Vec<_> = found
        .iter()
        .map(|event| if event["op"] == "message" { &event["payload"] } else { &event["after"] })
        .collect();
    assert_eq!(after, [&json!({"id": 1, "note": "é"}), &json!({"id": 2, "note": "two\nlines"}), &json!(3)]);
    assert_eq!(output.stderr, "");

    let data = rowcast.data().display().to_string();
    let again =
        done(&["tail", "*", "--data", &data, "--from", "earliest", "--op", "insert", "-n", "2", "--json"])
            .await;
    assert_eq!(lines(&again), found[..2]);
    let wrong = command(&["tail", "*", "--url", &url, "--from", "yesterday"]).await;
    assert!(wrong.code != 0 && wrong.stderr.contains("not a place to start from"), "{wrong:?}");
    let wrong = command(&["tail", "*.x", "--url", &url]).await;
    assert!(wrong.code == 2 && wrong.stderr.contains("\"*.x\" is not a channel"), "{wrong:?}");
    assert!(
        wrong.stderr.contains("hint: Write a channel's whole name (public.orders), public.*"),
        "{wrong:?}"
    );
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let away = command(&["tail", "*", "--url", &nobody]).await;
    assert!(away.code == 1 && away.stderr.contains("hint:"), "{away:?}");
}

#[tokio::test]
async fn tail_is_for_people_on_a_terminal() {
    let (database, rowcast) = captured("colours").await;
    database.execute("insert into orders values (1, 'é'); delete from orders").await;
    let url = format!("http://{}", rowcast.address());
    let tail = format!("{PROGRAM} tail public.orders --from earliest -n 2 --url {url}");
    let on_terminal = async |command: String, variable: (&str, &str)| {
        let output = tokio::process::Command::new("script")
            .args(["-qec", &format!("stty cols 60; {command}"), "/dev/null"])
            .env(variable.0, variable.1)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = soon("tail on a terminal", output).await.expect("script");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").replace('\r', "")
    };
    let coloured = on_terminal(tail.clone(), ("TERM", "xterm")).await;
    let [insert, delete] = coloured.lines().collect::<Vec<_>>()[..] else { panic!("{coloured}") };
    assert!(insert.contains("\u{1b}[32minsert    \u{1b}[0m\u{1b}[1mpublic.orders  \u{1b}[0m"), "{insert:?}");
    assert!(
        insert.ends_with("note=\"é\"") && delete.contains("\u{1b}[31mdelete    \u{1b}[0m"),
        "{coloured:?}"
    );

    let plain = on_terminal(tail.clone(), ("NO_COLOR", "1")).await;
    assert!(
        plain.contains("insert    public.orders  id=1  note=\"é\"\n") && !plain.contains('\u{1b}'),
        "{plain}"
    );
    let json = on_terminal(format!("{tail} --json"), ("TERM", "xterm")).await;
    let first: Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["after"], json!({"id": 1, "note": "é"}));
    database.execute("insert into orders values (2, repeat('x', 100))").await;
    let narrow = on_terminal(tail.replace("-n 2", "-n 3"), ("NO_COLOR", "1")).await;
    let last = narrow.lines().last().expect("a line");
    assert!(last.chars().count() == 60 && last.ends_with('…'), "{narrow}");
}

#[tokio::test]
async fn publish_prints_the_number_of_a_durable_event() {
    let (_database, rowcast) = captured("publish").await;
    let url = format!("http://{}", rowcast.address());
    let output = done(&["publish", "greetings", "{\"hello\": -1}", "--url", &url]).await;
    let id: u64 = output.stdout.trim().parse().unwrap();
    let held = done(&["tail", "greetings", "--url", &url, "--from", "earliest", "-n", "1"]).await;
    let event = &lines(&held)[0];
    assert_eq!((&event["id"], &event["payload"]), (&json!(id), &json!({"hello": -1})));
    for (channel, payload, words) in
        [("public.orders", "{}", "captured table"), ("greetings", "{", "not JSON")]
    {
        let output = command(&["publish", channel, payload, "--url", &url]).await;
        assert!(output.code != 0 && output.stderr.contains(words) && output.stdout.is_empty(), "{output:?}");
    }
}

#[tokio::test]
async fn status_ends_with_one_when_something_is_wrong() {
    let (database, rowcast) = captured("status").await;
    let data = rowcast.data().display().to_string();
    let output = done(&["status", "--data", &data]).await;
    assert!(
        output.stdout.contains("is healthy") && output.stdout.contains(database.name()),
        "{}",
        output.stdout
    );
    let json = done(&["status", "--data", &data, "--json"]).await.stdout;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["source"]["state"], "streaming");

    let other = Postgres::shared().await.create_database("ill").await;
    let brokers = format!("127.0.0.1:{}", free_port());
    let ill = Rowcast::of(&other).with(&["--kafka", &brokers, "--topic-prefix", "x"]).start().await;
    let data = ill.data().display().to_string();
    wait_for("the missing broker to be told", SOON * 2, async || {
        let output = command(&["status", "--data", &data]).await;
        let told =
            output.code == 1 && output.stdout.contains("not healthy") && output.stdout.contains("kafka");
        if told { Ok(()) } else { Err(format!("{output:?}")) }
    })
    .await;
    assert_eq!(ill.get("/readyz").await.status, 200, "a stuck door does not take the others down");
    let nobody = command(&["status", "--data", "/nonexistent"]).await;
    assert!(nobody.code == 1 && nobody.stderr.contains("hint:"), "{nobody:?}");
}

#[tokio::test]
async fn the_journal_can_be_looked_at_and_damage_is_found() {
    let (database, mut rowcast) = captured("journal").await;
    for part in 0..10 {
        let rows = format!("generate_series({}, {}) i", part * 100 + 1, part * 100 + 100);
        database.execute(&format!("insert into orders select i, repeat('x', 100) from {rows}")).await;
    }
    let data = rowcast.data().display().to_string();
    wait_for("the events", SOON, async || {
        let output = command(&["journal", "check", "--data", &data, "--json"]).await;
        let report: Value =
            serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
        if report["events"] == 1000 { Ok(()) } else { Err(report.to_string()) }
    })
    .await;
    let shown = lines(&done(&["journal", "show", "--data", &data, "--limit", "3"]).await);
    assert_eq!(
        shown.iter().map(|event| event["after"]["id"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let from = shown[2]["id"].to_string();
    assert_eq!(
        lines(&done(&["journal", "show", "--data", &data, "--from", &from, "-n", "1"]).await),
        shown[2..]
    );
    let held = lines(&done(&["tail", "*", "--data", &data, "--from", "earliest", "-n", "3"]).await);
    assert_eq!(held, shown, "the file and the stream say the same");
    assert_eq!(rowcast.terminate().await, 0);
    let sound = done(&["journal", "check", "--data", &data]).await.stdout;
    assert!(sound.contains("The journal is sound: 1000 events"), "{sound}");

    let segments =
        std::fs::read_dir(rowcast.data().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let largest =
        segments.filter(|path| path.is_file()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    // With whole batches behind it, this is not what a crash leaves.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&largest, bytes).unwrap();
    let damaged = command(&["journal", "check", "--data", &data]).await;
    let name = largest.file_name().unwrap().to_str().unwrap();
    assert!(damaged.code == 4 && damaged.stderr.contains(name) && damaged.stdout.is_empty(), "{damaged:?}");
}

#[tokio::test]
async fn the_configuration_is_checked_and_shown_without_secrets() {
    let directory = Directory::new("config");
    let file = "[source]\nurl = \"postgres://app:hunter2@db.example/shop\"\ntables = [\"public.*\"]\n
        [journal]\nretention = \"36h\"\n[kafka]\nbrokers = \"k:9092\"\n[kafka.properties]\n\"sasl.password\" = \"hunter3\"\n";
    std::fs::write(directory.path().join("rowcast.toml"), file).unwrap();
    let run = async |arguments: &[&str]| command_in(directory.path(), arguments).await;
    let checked = run(&["config", "check", "--config", "rowcast.toml"]).await;
    assert_eq!((checked.code, checked.stdout.as_str()), (0, "The configuration is sound\n"), "{checked:?}");
    let shown =
        run(&["config", "show", "--config", "rowcast.toml", "--set", "http.listen=127.0.0.1:9"]).await;
    for word in ["36h", "127.0.0.1:9", "--set", "rowcast.toml, line 6", "db.example"] {
        assert!(shown.code == 0 && shown.stdout.contains(word), "{word} is missing: {shown:?}");
    }
    assert!(!shown.stdout.contains("hunter"), "{}", shown.stdout);
    for (wrong, words) in [
        ("[journal]\nretenton = \"1h\"\n", ["journal.retenton", "Did you mean journal.retention?"]),
        ("[http]\nlisten = 8080\n", ["http.listen", "line 2"]),
        ("[journal]\nretention = \"soon\"\n", ["journal.retention", "soon"]),
        ("[source]\nurl = \"mysql://x\"\n", ["postgres://", "hint:"]),
        ("[http]\nlisten = \"foo\"\n", ["\"foo\" is not an address", "127.0.0.1:8080"]),
        ("[http]\nauth = \"foo\"\n", ["http.auth (wrong.toml, line 2)", "hint: It can be \"none\""]),
        ("[http]\nlisten = \"a\"\nlisten = \"b\"\n", ["line 3", "hint: A key or a section stands once"]),
        ("[http\n", ["is not TOML", "hint: A section is a name in brackets"]),
        ("[http]\nlisten = \"\"\n", ["\"\" is not an address", "127.0.0.1:8080"]),
        ("[http]\nlisten = \"0.0.0.0:8\"\n", ["open to other machines", "auth = \"none\""]),
    ] {
        let source = if wrong.contains("[source]") { "" } else { "[source]\nurl = \"postgres://me@h/d\"\n" };
        let wrong = format!("{wrong}{source}");
        std::fs::write(directory.path().join("wrong.toml"), &wrong).unwrap();
        let output = run(&["config", "check", "--config", "wrong.toml"]).await;
        let told = words.iter().all(|word| output.stderr.contains(word));
        assert!(output.code == 2 && told, "{wrong}: {output:?}");
    }
    for (arguments, hint) in [
        (["--config", "nowhere.toml"], "hint: Name one that is there"),
        (["--set", "source.url_file=/nowhere/url"], "hint: Write the value into it"),
    ] {
        let output = run(&[&["config", "check"][..], &arguments].concat()).await;
        assert!(output.code == 2 && output.stderr.contains(hint), "{output:?}");
    }
    let shown = run(&["config", "show"]).await;
    assert!(shown.code == 0 && shown.stdout.contains("[source]\n# url is not set\n"), "{shown:?}");
    // Nothing is made or started before.
    let listen = ["--listen", "127.0.0.1:99999"];
    let output = run(&[&["run", "--source", "postgres://me@127.0.0.1:1/d"], &listen[..]].concat()).await;
    assert!(output.code == 2 && output.stderr.contains("is not an address"), "{output:?}");
    assert!(!directory.path().join("rowcast-data").exists());
    let output = run(&["demo", "--listen", "foo"]).await;
    assert!(output.code == 2 && !output.stderr.contains("Starting"), "{output:?}");
}

#[tokio::test]
async fn help_teaches_and_shells_complete() {
    let help = done(&["--help"]).await.stdout;
    let commands = [
        "demo",
        "run",
        "check",
        "tail",
        "publish",
        "status",
        "sink",
        "journal",
        "uninstall",
        "config",
        "completions",
    ];
    for name in commands {
        assert!(help.contains(&format!("\n  {name}")), "{name} is missing in {help}");
        assert!(done(&[name, "--help"]).await.stdout.contains("Usage: rowcast"), "{name}");
    }
    for name in ["demo", "run", "check", "tail", "publish", "status", "uninstall"] {
        assert!(done(&[name, "--help"]).await.stdout.contains("Examples:\n  rowcast "), "{name}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(&["completions", shell]).await.stdout.contains("rowcast"), "{shell}");
    }
    assert!(done(&["--version"]).await.stdout.starts_with("rowcast "));
    assert!(Path::new(crate::support::rowcast::PROGRAM).exists());
}

//! The demo, as a newcomer runs it: it starts, what it prints works, and Ctrl-C leaves nothing behind.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::process::{Directory, Launch, Process};
use crate::support::rowcast::PROGRAM;
use crate::support::sse::Sse;
use crate::support::{SOON, own_servers, wait_for};

/// What the demo prints, once it is complete.
async fn welcome(process: &mut Process, log: &Path) -> String {
    wait_for("the demo's welcome", SOON * 3, async || {
        let text = std::fs::read_to_string(log).map_err(|error| error.to_string())?;
        assert!(process.ended().is_none(), "The demo ended: {text}");
        if text.contains("psql") { Ok(text) } else { Err(text) }
    })
    .await
}

/// The processes that name a directory in their arguments or in their environment.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().expect("a path in UTF-8");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).replace('\0', " ");
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) && text.contains(name) {
            found.push(text);
        }
    }
    found
}

#[tokio::test]
async fn the_demo_starts_flows_and_leaves_nothing_behind() {
    if !own_servers("the_demo") {
        return;
    }
    let (directory, temporary) = (Directory::new("demo"), Directory::new("demo-tmp"));
    // The demo's server has a user of its own when root starts it.
    std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o1777)).expect("a directory");
    let log = directory.path().join("demo.log");
    let command = [PROGRAM, "demo", "--listen", "127.0.0.1:0"].map(ToOwned::to_owned);
    let env = [("TMPDIR".to_owned(), temporary.path().display().to_string())];
    let launch =
        Launch { command: &command, env: &env, log: &log, last_signal: "KILL", directory: directory.path() };
    let mut process = Process::start(&launch);
    let text = welcome(&mut process, &log).await;

    let curls: Vec<&str> = text.lines().filter_map(|line| line.find("curl ").map(|at| &line[at..])).collect();
    assert!(curls.len() >= 2, "{text}");
    for curl in &curls {
        let output = tokio::process::Command::new("timeout")
            .args(["--signal=INT", "3", "sh", "-c", &format!("exec {curl}")])
            .output()
            .await
            .expect("timeout and sh");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("\"id\":") || told.contains("\"newest\":"), "{curl}: {told}{output:?}");
    }

    let url = curls[0].split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let mut events = Sse::open(url.parse().expect("an address"), "/v1/events?channel=*&from=earliest").await;
    let (mut ops, mut largest, start) = (BTreeSet::new(), 0, Instant::now());
    let all = |ops: &BTreeSet<String>| ["insert", "update", "delete"].iter().all(|op| ops.contains(*op));
    while !all(&ops) || largest < 2 {
        assert!(start.elapsed() < SOON * 3, "Only {ops:?}, transactions of at most {} rows", largest + 1);
        let event: Value = events.expect_event("message").await.json();
        ops.insert(event["op"].as_str().expect("an op").to_owned());
        largest = largest.max(event["tx"]["seq"].as_u64().unwrap_or(0));
    }
    assert!(!processes_of(temporary.path()).is_empty());

    process.signal(Signal::INT);
    assert_eq!(process.wait(Duration::from_secs(30)).await, 0);
    wait_for("everything to be gone", SOON, async || {
        let left: Vec<_> =
            std::fs::read_dir(temporary.path()).expect("a directory").flatten().map(|e| e.path()).collect();
        let running = processes_of(temporary.path());
        if left.is_empty() && running.is_empty() { Ok(()) } else { Err(format!("{left:?}, {running:?}")) }
    })
    .await;
}

//! Scripts of `tests/browser` under Node.js: a real Chromium, and clients that others wrote.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

/// Starting a browser takes its time on a busy machine.
const LIMIT: Duration = Duration::from_mins(2);

/// Runs `tests/browser/{script}` to its end and returns the JSON lines that it printed. The script finds the
/// browser in `CHROMIUM`.
pub(crate) async fn node(script: &str, arguments: &[&str]) -> Vec<Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let output = tokio::process::Command::new("node")
        .arg(script)
        .args(arguments)
        .current_dir(directory)
        .env("CHROMIUM", chromium())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, output).await.unwrap_or_else(|_| panic!("{script} hangs"));
    let output = output.expect("node: run scripts/install-browser.sh");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} failed: {stdout}{stderr}");
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{script}: {error}: {line}"));
    stdout.lines().map(line).collect()
}

/// `ROWCAST_TEST_CHROMIUM`, else the first of the usual names on the search path.
fn chromium() -> PathBuf {
    if let Some(given) = std::env::var_os("ROWCAST_TEST_CHROMIUM") {
        return given.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().flat_map(|name| std::env::split_paths(&path).map(move |path| path.join(name)));
    found.into_iter().find(|path| path.exists()).expect("chromium: run scripts/install-browser.sh")
}

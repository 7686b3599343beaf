//! Programs that never outlive the tests.
//!
//! Every program runs under a small shell that holds the reading end of a pipe. When this process drops the
//! writing end, or dies in whatever way, the shell ends the program and removes its directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A shell starts background programs deaf to SIGINT and SIGQUIT; `env --default-signal` mends that.
const GUARD: &str = r#"
signal=$1 directory=$2 log=$3; shift 3
exec 3<&0 </dev/null
env --default-signal=INT,QUIT "$@" 3<&- >>"$log" 2>&1 &
child=$!
echo $child
exec >/dev/null 2>&1
{ read -r _ <&3
  trap '' TERM
  kill -s "$signal" $child
  while kill -0 $child; do sleep 0.02; done
  rm -rf "$directory"
} &
watcher=$!
wait $child; code=$?
kill $watcher
wait $watcher
exit $code
"#;

/// How a program is started.
pub(crate) struct Launch<'a> {
    /// Program and arguments.
    pub(crate) command: &'a [String],
    /// Additional environment.
    pub(crate) env: &'a [(String, String)],
    /// Where its output goes (appended).
    pub(crate) log: &'a Path,
    /// The signal that ends it when the test is gone: `KILL`, `QUIT` …
    pub(crate) last_signal: &'a str,
    /// What is removed after that.
    pub(crate) directory: &'a Path,
}

/// A running program.
pub(crate) struct Process {
    guard: Child,
    lifeline: Option<ChildStdin>,
    pid: Pid,
    code: Option<i32>,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(launch: &Launch<'_>) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard", launch.last_signal])
            .args([launch.directory, launch.log])
            .args(launch.command)
            .envs(launch.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // A Ctrl-C on the terminal is for the tests; they end what they started.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let lifeline = guard.stdin.take();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("a pipe")).read_line(&mut line).expect("the guard speaks");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("the program's process id");
        Self { guard, lifeline, pid, code: None }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Sends a signal. A program that has ended already is no error.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Its exit code when it has ended (128 + the signal's number when a signal ended it).
    pub(crate) fn ended(&mut self) -> Option<i32> {
        if self.code.is_none() {
            let status = self.guard.try_wait().expect("the guard is our child")?;
            self.code = Some(status.code().unwrap_or(-1));
        }
        self.code
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self, deadline: Duration) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(code) = self.ended() {
                return code;
            }
            assert!(start.elapsed() < deadline, "Process {} did not end within {deadline:?}", self.pid());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.guard.wait();
    }
}

/// A directory that goes when it is dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// A new empty directory.
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rowcast-test-{}-{count}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The last part of a log, for a person who looks at a failed test.
pub(crate) fn tail(log: &Path) -> String {
    const SHOWN: u64 = 16 * 1024;
    let Ok(mut file) = File::open(log) else { return String::from("(no log)") };
    let length = file.metadata().map_or(0, |data| data.len());
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)));
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a program to its end; its output is shown when it fails.
pub(crate) fn run(command: &[String]) {
    let output = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("Cannot run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

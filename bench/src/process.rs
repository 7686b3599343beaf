//! Programs that end with us, and what they have used.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rowcast_engine::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A program that was told to end has this long; then it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at whether a program has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Who a program runs as, and what it gets when this program dies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// The user; ours where `None`.
    pub(crate) user: Option<&'static str>,
    /// Ends it in order.
    pub(crate) end: Signal,
}

/// A running program; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    end: Signal,
}

/// A command that the kernel ends when we die, whatever we die of.
pub(crate) fn command(program: &Path, manners: Manners) -> Command {
    let mut command = Command::new("setpriv");
    let signal = if manners.end == Signal::INT { "INT" } else { "TERM" };
    command.args(["--pdeathsig", signal]);
    if let Some(user) = manners.user {
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]);
    }
    command.arg("--").arg(program).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts a command; its output goes to the file `log`.
    pub(crate) fn start(command: &mut Command, end: Signal, log: &Path) -> Result<Self> {
        let cannot = |error| Error::failed(format!("Cannot write {}", log.display())).because(error);
        let out = File::options().create(true).append(true).open(log).map_err(cannot)?;
        let err = out.try_clone().map_err(cannot)?;
        let child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| cannot_run(command.get_program(), error))?;
        Ok(Self { child, end })
    }

    /// Starts a command and gives its output; what it says of errors goes to the file `log`.
    pub(crate) fn piped(command: &mut Command, end: Signal, log: &Path) -> Result<(Self, ChildStdout)> {
        let cannot = |error| Error::failed(format!("Cannot write {}", log.display())).because(error);
        let err = File::options().create(true).append(true).open(log).map_err(cannot)?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(err)
            .spawn()
            .map_err(|error| cannot_run(command.get_program(), error))?;
        let output = child.stdout.take().ok_or_else(|| Error::failed("The program has no output"))?;
        Ok((Self { child, end }, output))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let pid = Pid::from_child(&self.child);
        let start = Instant::now();
        // A program that has ended already cannot be told to.
        let _ = kill_process(pid, self.end);
        while self.ended().is_none() {
            if start.elapsed() > END_TIMEOUT {
                let _ = self.child.kill();
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.end();
        }
    }
}

/// Runs a command to its end; an error shows what it printed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    printed(command).map(drop)
}

/// Runs a command to its end, and gives what it printed.
pub(crate) fn printed(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| cannot_run(command.get_program(), error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::failed(format!("{} has failed", shown(command))).because(printed))
}

fn cannot_run(program: &OsStr, error: std::io::Error) -> Error {
    Error::failed(format!("Cannot run {}", program.display())).because(error)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Processor time of a process so far; `None` when it has ended.
pub(crate) fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis((user + system) * 1000 / ticks))
}

/// The most memory that a process has had, in bytes.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

//! The program at a terminal, and what a person sees there.

use std::path::PathBuf;

use super::SOON;
use super::process::{Directory, Launch, Process};
use super::rowcast::PROGRAM;

/// Columns of the screen: fewer than what is drawn over has, so that a line that goes on in the next would show.
const COLUMNS: usize = 50;

/// The program on a pseudo terminal of its own.
pub(crate) struct Terminal {
    process: Process,
    told: PathBuf,
    directory: Directory,
}

impl Terminal {
    /// Starts it.
    pub(crate) fn run(arguments: &[&str]) -> Self {
        let quoted = |argument: &&str| format!("'{}'", argument.replace('\'', "'\\''"));
        let line: Vec<String> = [PROGRAM].iter().chain(arguments).map(quoted).collect();
        // `exec`: its exit code is what `script` ends with.
        let command = ["script", "-qec", &format!("exec {}", line.join(" ")), "/dev/null"].map(str::to_owned);
        let env = [("SHELL".to_owned(), "/bin/sh".to_owned())];
        let directory = Directory::new("terminal");
        let told = directory.path().join("told");
        let (log, directory_path) = (&told, directory.path());
        let launch =
            Launch { command: &command, env: &env, log, last_signal: "TERM", directory: directory_path };
        Self { process: Process::start(&launch), told, directory }
    }

    /// Everything that the terminal was told so far.
    pub(crate) fn told(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.told).unwrap_or_default()).into_owned()
    }

    /// Waits for the program's end; its exit code.
    pub(crate) async fn wait_end(&mut self) -> i32 {
        self.process.wait(SOON).await
    }
}

/// A terminal's screen, with those control sequences of the VT100 that are used. Another one is a failure.
#[derive(Default)]
pub(crate) struct Screen {
    lines: Vec<Vec<char>>,
    line: usize,
    column: usize,
    /// DECAWM: the sequence for "off" was the last one.
    cuts: bool,
}

impl Screen {
    /// What it shows when it was told this.
    pub(crate) fn showing(told: &str) -> Self {
        let mut screen = Self::default();
        let mut rest = told;
        while let Some(next) = rest.chars().next() {
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).expect("a whole sequence") + 1;
                screen.obey(&sequence[..end]);
                rest = &sequence[end..];
                continue;
            }
            screen.print(next);
            rest = &rest[next.len_utf8()..];
        }
        screen
    }

    fn obey(&mut self, sequence: &str) {
        match (sequence, sequence.strip_suffix('A').map(str::parse::<usize>)) {
            ("J", _) => {
                self.lines.truncate(self.line + 1);
                if let Some(line) = self.lines.get_mut(self.line) {
                    line.truncate(self.column);
                }
            }
            ("?7l", _) => self.cuts = true,
            ("?7h", _) => self.cuts = false,
            (_, Some(Ok(up))) => self.line = self.line.checked_sub(up).expect("a line above"),
            _ => panic!("The terminal was told {sequence:?}"),
        }
    }

    fn print(&mut self, c: char) {
        match c {
            '\r' => self.column = 0,
            '\n' => self.line += 1,
            _ if c.is_control() => panic!("The terminal was told {c:?}"),
            _ => self.put(c),
        }
    }

    fn put(&mut self, c: char) {
        if self.column == COLUMNS {
            if self.cuts {
                self.column -= 1;
            } else {
                (self.line, self.column) = (self.line + 1, 0);
            }
        }
        self.lines.resize(self.lines.len().max(self.line + 1), Vec::new());
        let line = &mut self.lines[self.line];
        line.resize(line.len().max(self.column + 1), ' ');
        line[self.column] = c;
        self.column += 1;
    }

    /// Its lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.iter().collect()).collect()
    }

    /// Asserts that whoever is next finds it as it was: at the beginning of a line, and long lines go on in the next.
    pub(crate) fn assert_is_left_well(&self) {
        assert!(self.column == 0 && !self.cuts, "{:#?}, column {}", self.lines(), self.column);
    }
}

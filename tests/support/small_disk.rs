//! A file system of 48 MB that can be full without harm to anybody else.
//!
//! A tmpfs in a mount namespace of a helper process, reached through `/proc/PID/root`: it goes with that process,
//! which goes with the test, and an ordinary user may have one where user namespaces are allowed. Where they are not
//! (in a container), `ROWCAST_TEST_SMALL_DISK` names a tmpfs of this size that somebody else has mounted.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::sync::{Mutex, MutexGuard};

use super::process::Directory;

/// Where a small disk is mounted already.
pub(crate) const GIVEN: &str = "ROWCAST_TEST_SMALL_DISK";

/// Mounts, says so, and stays until the test is gone.
const HOLDER: &str =
    "mount -t tmpfs -o size=48m,mode=0700 small \"$1\" && echo mounted && exec cat >/dev/null";

/// A small disk of the test's own, empty at first.
pub(crate) struct SmallDisk {
    root: PathBuf,
    holder: Option<Child>,
    /// Where the tmpfs is mounted, in the holder's eyes.
    _mounted: Option<Directory>,
    /// The given one is for one test at a time.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl SmallDisk {
    pub(crate) async fn new() -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        if let Some(given) = std::env::var_os(GIVEN) {
            let turn = TURN.lock().await;
            let disk = Self { root: given.into(), holder: None, _mounted: None, _turn: Some(turn) };
            disk.clear();
            return disk;
        }
        let directory = Directory::new("small");
        let holder = hold(directory.path(), &["--mount"])
            .or_else(|_| hold(directory.path(), &["--map-root-user", "--mount"]))
            .unwrap_or_else(|error| {
                panic!("Cannot mount a small disk ({error}): mount a tmpfs of 48 MB and name it in {GIVEN}")
            });
        let root = Path::new("/proc").join(holder.id().to_string()).join("root");
        let root = root.join(directory.path().strip_prefix("/").expect("an absolute path"));
        Self { root, holder: Some(holder), _mounted: Some(directory), _turn: None }
    }

    /// Its root directory.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Bytes that may still be written.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.root).expect("a file system");
        stat.f_bavail * stat.f_frsize
    }

    /// Writes a file of somebody else's so large that only `left` bytes stay free.
    pub(crate) fn fill_up_to(&self, left: u64) {
        let mut file = File::options().create(true).append(true).open(self.filler()).expect("a file");
        let page = [b'x'; 4096];
        while self.free() > left {
            match file.write_all(&page) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("Cannot fill the small disk: {error}"),
            }
        }
    }

    /// Removes that file.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the disk was filled");
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    fn clear(&self) {
        for entry in fs::read_dir(&self.root).expect("the small disk").flatten() {
            let path = entry.path();
            // The program that is ending may be faster.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// A process in whose view of the files a tmpfs lies at `path`.
fn hold(path: &Path, namespaces: &[&str]) -> Result<Child, String> {
    let mut holder = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", HOLDER, "holder"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    let mut line = String::new();
    let said = BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut line);
    if said.is_ok() && line == "mounted\n" {
        return Ok(holder);
    }
    let status = holder.wait().map_err(|error| error.to_string())?;
    Err(format!("unshare {}: {status}", namespaces.join(" ")))
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.clear();
        if let Some(mut holder) = self.holder.take() {
            // Its input ends, so it does, and the mount with it.
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}

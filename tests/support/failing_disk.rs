//! File systems that take no writes: one that never does, and one that ends taking them while it is used, as ext4 does
//! when its disk fails (`errors=remount-ro`).
//!
//! Mounted in a mount namespace of a helper process, as the small disk is. Root alone may mount them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::process::Directory;

/// Mounts what its first argument says, says so, and does what it is told until the test is gone. `/dev/loop` is the
/// machine's: the mount gives it back when it goes.
const HOLDER: &str = r#"
case $1 in
  never) mount -t tmpfs -o ro,mode=0755 never "$2";;
  fails) truncate -s 256M "$2.image" && mkfs.ext4 -q -F "$2.image" &&
    mount -t ext4 -o loop,errors=remount-ro "$2.image" "$2"; rm -f "$2.image";;
esac || exit 1
mountpoint -q "$2" || exit 1
echo mounted
while read -r _; do mount -o remount,abort "$2" && echo failed; done
umount -l "$2"
"#;

/// A file system of the test's own.
pub(crate) struct FailingDisk {
    root: PathBuf,
    holder: Child,
    said: BufReader<ChildStdout>,
    _mounted: Directory,
}

impl FailingDisk {
    /// One that is read-only from the start; `None`, and a line that says why, where it cannot be had.
    pub(crate) fn read_only(test: &str) -> Option<Self> {
        Self::mount(test, "never")
    }

    /// One that takes writes until [`Self::fail`]; likewise.
    pub(crate) fn sound(test: &str) -> Option<Self> {
        Self::mount(test, "fails")
    }

    fn mount(test: &str, kind: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let directory = Directory::new(kind);
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", HOLDER, "holder", kind])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut said = BufReader::new(holder.stdout.take().expect("a pipe"));
        let mut line = String::new();
        if said.read_line(&mut line).is_err() || line != "mounted\n" {
            let _ = holder.wait();
            println!(
                "{test}: skipped, since no file system can be mounted here (a container without the right)"
            );
            return None;
        }
        let root = Path::new("/proc").join(holder.id().to_string()).join("root");
        let root = root.join(directory.path().strip_prefix("/").expect("an absolute path"));
        Some(Self { root, holder, said, _mounted: directory })
    }

    /// Its root directory.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// From now on it is read-only, also for those who have files open for writing.
    pub(crate) fn fail(&mut self) {
        writeln!(self.holder.stdin.as_mut().expect("a pipe"), "fail").expect("the holder listens");
        let mut line = String::new();
        self.said.read_line(&mut line).expect("the holder answers");
        assert_eq!(line, "failed\n");
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Whether the test may mount and be somebody else; says so when not.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("{test}: skipped, since only root may mount a file system, or run rowcast as somebody else");
    }
    root
}

//! Where Postgres' own programs are, and who may run them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rowcast_engine::{Error, Result};

/// The directory that holds `initdb` and `postgres`.
pub(super) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(versions("/usr/lib/postgresql", ""));
    places.extend(versions("/usr", "pgsql-"));
    places.extend(configured());
    let complete = |place: &PathBuf| ["initdb", "postgres"].iter().all(|name| place.join(name).is_file());
    places.into_iter().find(complete).ok_or_else(|| {
        Error::failed("The programs of Postgres (initdb, postgres) are not installed here").hint(
            "Debian, Ubuntu: sudo apt install postgresql; Fedora: sudo dnf install postgresql-server; macOS: brew \
             install postgresql@17. Or, in the sources of rowcast: make demo",
        )
    })
}

/// `bin` of each version in a directory, the newest first.
fn versions(directory: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let version = |name: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((version(entry.file_name().to_str()?)?, entry.path().join("bin"))))
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, path)| path).collect()
}

fn configured() -> Option<PathBuf> {
    let asked = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim()))
}

/// A user that is not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Who runs the server: Postgres refuses root. `None` when that is ourselves.
pub(super) fn owner() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let found = ["postgres", "nobody"].iter().find_map(|name| user(&users, name));
    found.map(Some).ok_or_else(|| {
        Error::failed("Postgres does not run as root, and there is no user postgres or nobody")
            .hint("Run rowcast demo as an ordinary user")
    })
}

fn user(users: &str, wanted: &str) -> Option<User> {
    let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (uid != 0).then_some(User { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_from_passwd() {
        let users = "root:x:0:0::/:/bin/sh\npostgres:x:101:104:a,,:/var:/bin/sh\nshort:x\n";
        assert_eq!(user(users, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!((user(users, "root"), user(users, "short"), user(users, "nobody")), (None, None, None));
    }

    #[test]
    fn the_newest_version_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["pgsql-9", "pgsql-15", "pgsql-x", "other"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let found = versions(directory.path().to_str().unwrap(), "pgsql-");
        assert_eq!(found, ["pgsql-15/bin", "pgsql-9/bin"].map(|name| directory.path().join(name)));
    }
}

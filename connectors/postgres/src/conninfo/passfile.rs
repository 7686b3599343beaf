//! The password file, `~/.pgpass`: lines `host:port:database:user:password`, `*` matching anything.
//! Source: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Host, assemble};

/// A password file is a few lines; what lies beyond this is not read.
const MAX_FILE: u64 = 1024 * 1024;

/// What nobody but the owner may do.
const OTHERS: u32 = 0o077;

/// Why it is not used although it is there, and what to do.
pub(super) fn unusable(path: &Path) -> Option<(String, String)> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            let why = format!("the password file {shown} cannot be read ({error})");
            return Some((why, format!("Give {shown} to the user that runs rowcast: chown USER {shown}")));
        }
    };
    let about = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let why = format!("the password file {shown} is not used, since others may read it");
    (about.mode() & OTHERS != 0).then(|| (why, format!("chmod 0600 {shown}")))
}

/// The first matching line's password. A file that others may read is ignored with a warning, as in libpq.
pub(super) fn lookup(path: &Path, host: &Host, dbname: &str, user: &str) -> Option<String> {
    let file = File::open(path).ok()?;
    let about = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    if about.mode() & OTHERS != 0 {
        let path = path.display();
        tracing::warn!("Password file {path} is ignored: others may read it (chmod 0600 {path})");
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    find(&bytes, host, dbname, user)
}

fn find(bytes: &[u8], host: &Host, dbname: &str, user: &str) -> Option<String> {
    let port = host.port().to_string();
    // A line that is no text is nobody's; the others are as good without it.
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let lines = lines.map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.filter(|line| !line.starts_with('#')).find_map(|line| {
        let [h, p, d, u, password] = fields(line)?;
        let named = matches(&p, &port) && matches(&d, dbname) && matches(&u, user) && host_matches(&h, host);
        (named && !password.text.is_empty()).then_some(password.text)
    })
}

struct Field {
    text: String,
    any: bool,
}

fn matches(field: &Field, wanted: &str) -> bool {
    field.any || field.text == wanted
}

/// `localhost` stands for a socket in the default directory, too.
fn host_matches(field: &Field, host: &Host) -> bool {
    match host {
        Host::Tcp { name, .. } => matches(field, name),
        Host::Unix { dir, .. } => {
            let default = assemble::SOCKET_DIRS.iter().any(|d| dir == Path::new(d));
            matches(field, &dir.to_string_lossy()) || (default && field.text == "localhost")
        }
    }
}

/// Splits at colons; a backslash takes the next character as it is. The password keeps later colons.
fn fields(line: &str) -> Option<[Field; 5]> {
    let mut chars = line.chars();
    let mut next = |last: bool| {
        let (mut text, mut escaped, mut ended) = (String::new(), false, last);
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    escaped = true;
                    text.extend(chars.next());
                }
                ':' if !last => {
                    ended = true;
                    break;
                }
                c => text.push(c),
            }
        }
        ended.then(|| Field { any: text == "*" && !escaped, text })
    };
    Some([next(false)?, next(false)?, next(false)?, next(false)?, next(true)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str, port: u16) -> Host {
        Host::Tcp { name: name.into(), address: None, port }
    }

    #[test]
    fn takes_the_first_matching_line() {
        let text = "# comment\nother:5432:*:*:no\n*:5433:shop:anna:wrong port\ndb:*:sh\\:op:anna:a:b\\:c\\\\\n\
                    localhost:*:*:*:sock\n";
        let find = |host: &Host, db: &str, user: &str| find(text.as_bytes(), host, db, user);
        assert_eq!(find(&tcp("db", 5432), "sh:op", "anna").as_deref(), Some("a:b:c\\"));
        assert_eq!(find(&tcp("db", 5432), "shop", "anna"), None);
        assert_eq!(find(&tcp("db", 5433), "shop", "anna").as_deref(), Some("wrong port"));
        let unix = Host::Unix { dir: "/var/run/postgresql".into(), port: 1 };
        assert_eq!(find(&unix, "x", "y").as_deref(), Some("sock"));
        let elsewhere = Host::Unix { dir: "/srv/sockets".into(), port: 1 };
        assert_eq!(find(&elsewhere, "x", "y"), None);
    }

    #[test]
    fn a_line_that_is_no_text_is_passed_over() {
        let text = b"# f\xfcr die Tests\r\ndb:*:*:anna:gro\xdf\ndb:*:*:anna:good\r\n";
        assert_eq!(find(text, &tcp("db", 1), "shop", "anna").as_deref(), Some("good"));
    }

    #[test]
    fn an_escaped_star_is_a_star() {
        assert_eq!(find(b"\\*:*:*:*:p", &tcp("db", 1), "d", "u"), None);
        assert_eq!(find(b"\\*:*:*:*:p", &tcp("*", 1), "d", "u").as_deref(), Some("p"));
    }
}

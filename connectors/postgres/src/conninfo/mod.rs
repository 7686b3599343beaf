//! Where the source is and how to get in: connection strings as libpq reads them.
//!
//! Both forms are understood, `postgres://user@host/db?sslmode=verify-full` and `host=… user=…`. What the
//! string leaves out comes from the service that it or `PGSERVICE` names, then from the `PG…` environment variables
//! (`keywords` lists them), then from defaults. Parameters that libpq has and this connector cannot honour are
//! refused rather than ignored, wherever they stand.
//! Source: <https://www.postgresql.org/docs/current/libpq-connect.html>.

mod assemble;
mod keepalive;
mod keyvalue;
mod keywords;
mod passfile;
mod service;
mod show;
#[cfg(test)]
mod tests;
mod uri;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rowcast_engine::{Error, Result, in_quotes};

pub use keepalive::Keepalive;

/// Everything needed to log in. `Display` and `Debug` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Servers to try, in this order; at least one.
    pub hosts: Vec<Host>,
    /// Role to log in as.
    pub user: String,
    /// Database to connect to.
    pub dbname: String,
    /// From the string or `PGPASSWORD`; the password file is read at each login instead.
    pub(crate) password: Option<String>,
    /// Searched when there is no password.
    pub(crate) passfile: Option<PathBuf>,
    /// TLS settings.
    pub tls: Tls,
    /// Whether SCRAM must be bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// For the name lookup of a host, and for each of its addresses up to the end of the login. Never zero.
    pub connect_timeout: Duration,
    /// How a TCP peer that has vanished is noticed.
    pub keepalive: Keepalive,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Command-line options for the session, such as `-c work_mem=64MB`.
    pub options: Option<String>,
    /// Which servers are acceptable.
    pub target: TargetServer,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Over TCP. `address` (libpq's `hostaddr`) is connected to instead of looking up `name`.
    Tcp {
        /// Host name or address; what a certificate must be made out to.
        name: String,
        /// Numeric address that saves the lookup.
        address: Option<std::net::IpAddr>,
        /// TCP port.
        port: u16,
    },
    /// The directory that holds the Unix socket `.s.PGSQL.<port>`.
    Unix {
        /// Directory of the socket.
        dir: PathBuf,
        /// Port number, part of the socket's name.
        port: u16,
    },
}

/// TLS settings, as libpq names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// How much protection is asked for.
    pub mode: SslMode,
    /// Where trusted root certificates come from, if any were named or found.
    pub roots: Option<Roots>,
    /// Client certificate and its key.
    pub identity: Option<Identity>,
    /// PEM file of revoked certificates (`sslcrl`): each authority of the chain needs its list there, as in libpq.
    pub revoked: Option<PathBuf>,
    /// TLS from the first byte (`sslnegotiation=direct`), which takes Postgres 17.
    pub direct: bool,
}

/// `sslmode`. libpq's `allow` (plain first) is refused: it protects nothing and hides that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it, else plain. The certificate is not checked.
    Prefer,
    /// TLS. The certificate is checked only if a root certificate file is there, as in libpq.
    Require,
    /// TLS, with a certificate from a trusted authority.
    VerifyCa,
    /// The same, made out to the host's name.
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The platform's trust store (`sslrootcert=system`).
    System,
    /// A PEM file.
    File(PathBuf),
}

/// `sslcert` and `sslkey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file with the certificate, then intermediate ones.
    pub cert: PathBuf,
    /// PEM file with the private key, unencrypted.
    pub key: PathBuf,
}

/// What is checked of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing: protects against listening, not against an impostor.
    Nothing,
    /// That a trusted authority issued it.
    Chain,
    /// That a trusted authority issued it to this host.
    ChainAndName,
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Not used.
    Disable,
    /// Used where server and certificate allow it.
    Prefer,
    /// The login fails without it.
    Require,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetServer {
    /// Any server.
    Any,
    /// One that accepts writes by default.
    ReadWrite,
    /// One that does not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery; if there is none, any.
    PreferStandby,
    /// One that is not in recovery; if there is none, any. What `any` means to who needs a primary and can say better
    /// what is wrong with a standby; libpq has no name for it.
    PreferPrimary,
}

/// No statement of ours waits longer for a lock, but for those that say so; with some time to spare.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(40);

/// An answer may take so many times what a login may.
const ANSWER_SHARE: u32 = 12;

/// Parameters as read, before defaults: keyword to value.
type Parameters = BTreeMap<&'static str, String>;

impl Conninfo {
    /// Reads a connection string and fills in what it leaves out from the process environment.
    ///
    /// # Errors
    ///
    /// `Kind::Usage` for a string that is malformed, a keyword that is unknown (the nearest known one is
    /// named) or a setting that is not supported. The message never holds the password.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, &|name| std::env::var(name).ok())
    }

    fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let text = text.trim();
        let mut parameters = match uri::strip_scheme(text) {
            Some(rest) => uri::parse(rest)?,
            None => {
                refuse_foreign_form(text)?;
                keyvalue::parse(text)?
            }
        };
        service::fill_from(env, &mut parameters)?;
        assemble::assemble(parameters, env)
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_dbname(&self, dbname: impl Into<String>) -> Self {
        Self { dbname: dbname.into(), ..self.clone() }
    }

    /// The same role and database, on this server alone.
    #[must_use]
    pub(crate) fn at(&self, host: &Host) -> Self {
        Self { hosts: vec![host.clone()], ..self.clone() }
    }

    /// For so long nothing may come of an answer that is due: two minutes unless `connect_timeout` says otherwise.
    pub(crate) fn answer_limit(&self) -> Duration {
        self.connect_timeout.saturating_mul(ANSWER_SHARE).max(LONGEST_LOCK_WAIT)
    }

    /// A URL for people and logs, without password and secrets.
    pub fn redacted(&self) -> String {
        self.to_string()
    }

    /// The password for a login at `host`: the given one, else the password file's.
    pub(crate) fn password_for(&self, host: &Host) -> Option<String> {
        let from_file = || passfile::lookup(self.passfile.as_deref()?, host, &self.dbname, &self.user);
        self.password.clone().or_else(from_file)
    }

    /// Why there is none, and what to do.
    pub(crate) fn why_no_password(&self) -> (String, String) {
        let Some(path) = self.passfile.as_deref() else {
            let remedy = "Set PGPASSWORD, or name a file with passfile=FILE".to_owned();
            return ("neither the source URL nor PGPASSWORD has it".to_owned(), remedy);
        };
        passfile::unusable(path).unwrap_or_else(|| {
            let path = path.display();
            let remedy =
                format!("Set PGPASSWORD, or write HOST:PORT:DATABASE:USER:PASSWORD into {path} (mode 0600)");
            (format!("neither the source URL nor PGPASSWORD has it, nor a line of {path}"), remedy)
        })
    }
}

impl Tls {
    /// What is checked of the server's certificate in this mode.
    pub fn verify(&self) -> Verify {
        match (self.mode, &self.roots) {
            (SslMode::VerifyFull, _) => Verify::ChainAndName,
            (SslMode::VerifyCa, _) | (SslMode::Require, Some(Roots::File(_))) => Verify::Chain,
            _ => Verify::Nothing,
        }
    }
}

/// Names the mistake where the text is neither form but something people do paste.
fn refuse_foreign_form(text: &str) -> Result<()> {
    const EXAMPLE: &str = "Write it as postgres://USER@HOST:5432/DATABASE";
    if let Some((scheme, _)) = text.split_once("://").filter(|(s, _)| !s.contains(['=', ' ', '\''])) {
        let known = scheme.starts_with("jdbc:") || scheme.starts_with("postgres");
        let which = if known { "has a driver's prefix" } else { "is not a Postgres URL" };
        return Err(Error::usage(format!("The source URL {which}: {}", in_quotes(&format!("{scheme}://"))))
            .hint(EXAMPLE));
    }
    if !text.is_empty() && !text.contains('=') {
        return Err(
            Error::usage("The source is neither a Postgres URL nor keyword=value pairs").hint(EXAMPLE)
        );
    }
    Ok(())
}

//! From parameters to a [`Conninfo`]: environment, defaults, and settings that contradict each other.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rowcast_engine::{Error, Result};

use super::{
    ChannelBinding, Conninfo, Host, Identity, Keepalive, Parameters, Roots, SslMode, TargetServer, Tls,
    keywords,
};

/// Where packaged servers (Debian, Red Hat) and self-built ones put their sockets.
pub(super) const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A login over a slow link takes a second or two; a host that drops packets should not cost a minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// libpq's own lower bound.
const SHORTEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const DEFAULT_PORT: u16 = 5432;

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn assemble(mut parameters: Parameters, env: Env<'_>) -> Result<Conninfo> {
    keywords::fill_from(env, &mut parameters)?;
    parameters.retain(|_, value| !value.is_empty());
    let home = env("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
    let user = match parameters.remove("user").or_else(|| env("USER")).or_else(|| env("LOGNAME")) {
        Some(user) if !user.is_empty() => user,
        _ => {
            return Err(
                Error::usage("The source names no user").hint("Write it as postgres://USER@HOST/DATABASE")
            );
        }
    };
    let application_name = parameters
        .remove("application_name")
        .or_else(|| parameters.remove("fallback_application_name"))
        .unwrap_or_else(|| "rowcast".to_owned());
    let passfile = parameters.remove("passfile").map(PathBuf::from);
    Ok(Conninfo {
        hosts: hosts(&parameters)?,
        tls: tls(&parameters, home.as_deref())?,
        channel_binding: choice(&parameters, "channel_binding", ChannelBinding::Prefer)?,
        connect_timeout: connect_timeout(&parameters)?,
        keepalive: Keepalive::read(&parameters)?,
        target: choice(&parameters, "target_session_attrs", TargetServer::Any)?,
        dbname: parameters.remove("dbname").unwrap_or_else(|| user.clone()),
        password: parameters.remove("password"),
        passfile: passfile.or_else(|| Some(home?.join(".pgpass"))),
        options: parameters.remove("options"),
        application_name,
        user,
    })
}

/// Pairs up libpq's lists: one port serves all hosts, otherwise the lists must be of one length.
fn hosts(parameters: &Parameters) -> Result<Vec<Host>> {
    let list = |name| parameters.get(name).map(|v| v.split(',').collect::<Vec<_>>()).unwrap_or_default();
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len()).max(1);
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(Error::usage("The source has not as many host addresses as hosts"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::usage("The source has not as many ports as hosts")
            .hint("Give one port for all hosts, or one for each"));
    }
    (0..count)
        .map(|i| {
            let item = |list: &[&str]| list.get(i).map_or("", |v| v.trim()).to_owned();
            let port = if ports.len() == 1 { ports[0].trim().to_owned() } else { item(&ports) };
            host(item(&names), &item(&addresses), port_number(&port)?)
        })
        .collect()
}

fn port_number(text: &str) -> Result<u16> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        Error::usage("The source has a port that is not a number from 1 to 65535")
            .hint("In a URL, write : / @ # ? and % in the user name or password as %XX")
    })
}

fn host(name: String, address: &str, port: u16) -> Result<Host> {
    if name.starts_with('/') {
        return Ok(Host::Unix { dir: name.into(), port });
    }
    if !address.is_empty() {
        let address: IpAddr = address
            .parse()
            .map_err(|_| Error::usage("hostaddr is not a numeric address").hint("Give host names as host"))?;
        let name = if name.is_empty() { address.to_string() } else { name };
        return Ok(Host::Tcp { name, address: Some(address), port });
    }
    if !name.is_empty() {
        return Ok(Host::Tcp { name, address: None, port });
    }
    let socket = |dir: &&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    Ok(match SOCKET_DIRS.into_iter().find(socket) {
        Some(dir) => Host::Unix { dir: dir.into(), port },
        None => Host::Tcp { name: "localhost".to_owned(), address: None, port },
    })
}

fn connect_timeout(parameters: &Parameters) -> Result<Duration> {
    let Some(text) = parameters.get("connect_timeout") else { return Ok(CONNECT_TIMEOUT) };
    let seconds: i32 = text.trim().parse().map_err(|_| {
        Error::usage("connect_timeout is not a number of seconds").hint("Such as connect_timeout=10")
    })?;
    // In libpq zero waits for ever; here every wait has an end.
    Ok(match u64::try_from(seconds) {
        Ok(0) | Err(_) => CONNECT_TIMEOUT,
        Ok(seconds) => Duration::from_secs(seconds).max(SHORTEST_CONNECT_TIMEOUT),
    })
}

fn tls(parameters: &Parameters, home: Option<&Path>) -> Result<Tls> {
    let path = |name: &str| parameters.get(name).map(PathBuf::from);
    let default = |file: &str| home.map(|h| h.join(".postgresql").join(file)).filter(|p| p.exists());
    let roots = match parameters.get("sslrootcert") {
        Some(text) if text == "system" => Some(Roots::System),
        Some(text) => Some(Roots::File(text.into())),
        None => default("root.crt").map(Roots::File),
    };
    // As in libpq: trusting every public authority is only safe with the name checked.
    let fallback = if roots == Some(Roots::System) { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = choice(parameters, "sslmode", fallback)?;
    if roots == Some(Roots::System) && !matches!(mode, SslMode::VerifyFull | SslMode::Disable) {
        return Err(Error::usage("sslrootcert=system needs sslmode=verify-full")
            .hint("Any public authority's certificate would do otherwise: use sslmode=verify-full"));
    }
    if mode == SslMode::VerifyCa && roots.is_none() {
        return Err(Error::usage("sslmode=verify-ca needs the authority's certificate")
            .hint("Name the file with sslrootcert=FILE, or use sslmode=verify-full sslrootcert=system"));
    }
    let identity = match (path("sslcert"), path("sslkey")) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => {
            default("postgresql.crt").zip(default("postgresql.key")).map(|(cert, key)| Identity { cert, key })
        }
        (Some(_), None) => {
            return Err(
                Error::usage("sslcert is given without sslkey").hint("Name the key's file with sslkey=FILE")
            );
        }
        (None, Some(_)) => {
            return Err(Error::usage("sslkey is given without sslcert")
                .hint("Name the certificate's file with sslcert=FILE"));
        }
    };
    let revoked = path("sslcrl").or_else(|| default("root.crl"));
    Ok(Tls { mode, roots, identity, revoked, direct: direct(parameters, mode)? })
}

/// `sslnegotiation`. As in libpq, without asking there is no going back to a connection without TLS.
fn direct(parameters: &Parameters, mode: SslMode) -> Result<bool> {
    match parameters.get("sslnegotiation").map(String::as_str) {
        None | Some("postgres") => Ok(false),
        Some("direct") if matches!(mode, SslMode::Disable | SslMode::Prefer) => {
            Err(Error::usage(format!("sslnegotiation=direct does not go with sslmode={}", mode.as_str()))
                .hint("Use sslmode=require, or better sslmode=verify-full"))
        }
        Some("direct") => Ok(true),
        Some(_) => Err(no_such_value("sslnegotiation", "postgres, direct")),
    }
}

/// Reads an enumerated parameter.
fn choice<T: FromStr<Err = Error>>(parameters: &Parameters, name: &str, default: T) -> Result<T> {
    parameters.get(name).map_or(Ok(default), |text| text.parse())
}

fn no_such_value(name: &str, values: &str) -> Error {
    Error::usage(format!("Unknown value of connection parameter {name}"))
        .hint(format!("It is one of {values}"))
}

impl FromStr for SslMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            "allow" => Err(Error::usage(
                "sslmode=allow is not supported, since it prefers an unprotected connection",
            )
            .hint("Use sslmode=prefer, or better sslmode=verify-full")),
            _ => Err(no_such_value("sslmode", "disable, prefer, require, verify-ca, verify-full")),
        }
    }
}

impl FromStr for ChannelBinding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            _ => Err(no_such_value("channel_binding", "disable, prefer, require")),
        }
    }
}

impl FromStr for TargetServer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "any" => Ok(Self::Any),
            "read-write" => Ok(Self::ReadWrite),
            "read-only" => Ok(Self::ReadOnly),
            "primary" => Ok(Self::Primary),
            "standby" => Ok(Self::Standby),
            "prefer-standby" => Ok(Self::PreferStandby),
            _ => Err(no_such_value(
                "target_session_attrs",
                "any, read-write, read-only, primary, standby, prefer-standby",
            )),
        }
    }
}

//! The URL form: `postgres://[user[:password]@][host][:port][,…][/dbname][?name=value&…]`.
//!
//! Read by hand, since URLs in general allow neither several hosts nor a percent-encoded path as a host.

use rowcast_engine::{Error, Result};

use super::{Parameters, keywords};

/// What follows the scheme, if the text has one of the two schemes.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Reads what follows the scheme.
pub(super) fn parse(rest: &str) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    // Like libpq: the user ends at the first @, so only what follows it is split further.
    let hosts_on = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => {
            credentials(&mut parameters, &rest[..at])?;
            &rest[at + 1..]
        }
        _ => rest,
    };
    let (path, query) = split(hosts_on, '?');
    let (hosts, dbname) = split(path, '/');
    host_list(&mut parameters, hosts)?;
    if let Some(dbname) = dbname.filter(|d| !d.is_empty()) {
        keywords::set(&mut parameters, "dbname", decode(dbname, "database name")?)?;
    }
    for pair in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        query_parameter(&mut parameters, pair)?;
    }
    Ok(parameters)
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn credentials(parameters: &mut Parameters, text: &str) -> Result<()> {
    let (user, password) = split(text, ':');
    if !user.is_empty() {
        keywords::set(parameters, "user", decode(user, "user name")?)?;
    }
    if let Some(password) = password.filter(|p| !p.is_empty()) {
        keywords::set(parameters, "password", decode(password, "password")?)?;
    }
    Ok(())
}

/// Writes the hosts and ports as libpq's two comma-separated lists.
fn host_list(parameters: &mut Parameters, text: &str) -> Result<()> {
    if text.contains('@') {
        return Err(Error::usage("The source URL has more than one @ before the database name")
            .hint("Write an @ in the user name or password as %40"));
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for item in text.split(',') {
        let (host, port) = host_and_port(item)?;
        hosts.push(decode(host, "host name")?);
        ports.push(decode(port, "port")?);
    }
    if hosts.iter().any(|h| !h.is_empty()) || hosts.len() > 1 {
        keywords::set(parameters, "host", hosts.join(","))?;
    }
    if ports.iter().any(|p| !p.is_empty()) {
        keywords::set(parameters, "port", ports.join(","))?;
    }
    Ok(())
}

fn host_and_port(item: &str) -> Result<(&str, &str)> {
    let Some(rest) = item.strip_prefix('[') else {
        return Ok(item.split_once(':').unwrap_or((item, "")));
    };
    let (address, after) = rest.split_once(']').ok_or_else(|| {
        Error::usage("An IPv6 address in the source URL has no closing ]").hint("Write it as [::1]:5432")
    })?;
    match after.strip_prefix(':') {
        Some(port) => Ok((address, port)),
        None if after.is_empty() => Ok((address, "")),
        None => Err(Error::usage("The source URL has text between ] and the port")
            .hint("Write an IPv6 address as [::1]:5432")),
    }
}

fn query_parameter(parameters: &mut Parameters, pair: &str) -> Result<()> {
    let Some((name, value)) = pair.split_once('=').filter(|(_, v)| !v.contains('=')) else {
        return Err(Error::usage("A parameter in the source URL is not of the form name=value")
            .hint("Write = inside a value as %3D and & as %26"));
    };
    let (name, value) = (decode(name, "parameter name")?, decode(value, "parameter")?);
    // The spelling of JDBC URLs, which libpq accepts, too.
    if name == "ssl" && value == "true" {
        return keywords::set(parameters, "sslmode", "require".to_owned());
    }
    keywords::set(parameters, &name, value)
}

/// Undoes percent-encoding. `part` names the place in an error, since the text itself may be secret.
fn decode(text: &str, part: &str) -> Result<String> {
    let bad = || {
        Error::usage(format!("The {part} in the source URL is not valid percent-encoding"))
            .hint("Write a literal % as %25; other special characters as % and two hexadecimal digits")
    };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(bad);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok().filter(|v| *v != 0).ok_or_else(bad)?);
    }
    String::from_utf8(decoded).map_err(|_| bad())
}

//! The parameters that libpq knows, and what becomes of each here.

use rowcast_engine::{Error, Result};

use super::Parameters;

/// What a keyword means to this connector.
enum Use {
    /// Honoured; the environment variable gives its default.
    Honoured(Option<&'static str>),
    /// Accepted with these values, which change nothing; any other is refused, also in the environment variable.
    Only(Option<&'static str>, &'static [&'static str]),
}

use Use::{Honoured, Only};

const KEYWORDS: &[(&str, Use)] = &[
    ("application_name", Honoured(Some("PGAPPNAME"))),
    ("channel_binding", Honoured(Some("PGCHANNELBINDING"))),
    ("connect_timeout", Honoured(Some("PGCONNECT_TIMEOUT"))),
    ("dbname", Honoured(Some("PGDATABASE"))),
    ("fallback_application_name", Honoured(None)),
    ("host", Honoured(Some("PGHOST"))),
    ("hostaddr", Honoured(Some("PGHOSTADDR"))),
    ("options", Honoured(Some("PGOPTIONS"))),
    ("passfile", Honoured(Some("PGPASSFILE"))),
    ("password", Honoured(Some("PGPASSWORD"))),
    ("port", Honoured(Some("PGPORT"))),
    ("sslcert", Honoured(Some("PGSSLCERT"))),
    ("sslkey", Honoured(Some("PGSSLKEY"))),
    ("sslmode", Honoured(Some("PGSSLMODE"))),
    ("sslrootcert", Honoured(Some("PGSSLROOTCERT"))),
    ("target_session_attrs", Honoured(Some("PGTARGETSESSIONATTRS"))),
    ("user", Honoured(Some("PGUSER"))),
    ("keepalives", Honoured(None)),
    ("keepalives_count", Honoured(None)),
    ("keepalives_idle", Honoured(None)),
    ("keepalives_interval", Honoured(None)),
    ("tcp_user_timeout", Honoured(None)),
    ("service", Honoured(Some("PGSERVICE"))),
    ("servicefile", Honoured(Some("PGSERVICEFILE"))),
    ("sslcrl", Honoured(Some("PGSSLCRL"))),
    ("sslnegotiation", Honoured(Some("PGSSLNEGOTIATION"))),
    ("client_encoding", Only(None, &["UTF8", "utf8", "UTF-8", "utf-8", "auto"])),
    ("gssencmode", Only(Some("PGGSSENCMODE"), &["disable", "prefer"])),
    ("load_balance_hosts", Only(Some("PGLOADBALANCEHOSTS"), &["disable"])),
    ("max_protocol_version", Only(Some("PGMAXPROTOCOLVERSION"), &["3.0", "3.2", "latest"])),
    ("min_protocol_version", Only(Some("PGMINPROTOCOLVERSION"), &["3.0"])),
    ("replication", Only(None, &["database"])),
    ("sslcompression", Only(Some("PGSSLCOMPRESSION"), &["0"])),
    ("sslsni", Only(Some("PGSSLSNI"), &["1"])),
    // TLS below 1.2 is never spoken.
    ("ssl_min_protocol_version", Only(Some("PGSSLMINPROTOCOLVERSION"), &["TLSv1", "TLSv1.1", "TLSv1.2"])),
    ("gssdelegation", Only(Some("PGGSSDELEGATION"), &["0"])),
    ("gsslib", Only(None, &[])),
    ("krbsrvname", Only(None, &[])),
    ("requirepeer", Only(Some("PGREQUIREPEER"), &[])),
    ("require_auth", Only(Some("PGREQUIREAUTH"), &[])),
    ("scram_client_key", Only(None, &[])),
    ("scram_server_key", Only(None, &[])),
    ("ssl_max_protocol_version", Only(Some("PGSSLMAXPROTOCOLVERSION"), &["TLSv1.3"])),
    ("sslcertmode", Only(Some("PGSSLCERTMODE"), &["allow"])),
    ("sslcrldir", Only(Some("PGSSLCRLDIR"), &[])),
    ("sslpassword", Only(None, &[])),
];

/// Stores one parameter of a connection string; the last of two wins, as in libpq.
pub(super) fn set(parameters: &mut Parameters, name: &str, value: String) -> Result<()> {
    let Some((name, usage)) = KEYWORDS.iter().find(|(known, _)| *known == name) else {
        return Err(unknown(name));
    };
    if value.contains('\0') {
        return Err(Error::usage(format!("Connection parameter {name} contains a zero byte")));
    }
    match usage {
        Honoured(_) => {
            parameters.insert(name, value);
        }
        Only(_, values) if value.is_empty() || values.contains(&value.as_str()) => {}
        Only(..) => return Err(unsupported(name)),
    }
    Ok(())
}

/// Fills in what the environment says about parameters that the string left out.
///
/// # Errors
///
/// `Kind::Usage` when it asks for what cannot be honoured.
pub(super) fn fill_from(env: &dyn Fn(&str) -> Option<String>, parameters: &mut Parameters) -> Result<()> {
    // A host in the string must not meet an address from the environment.
    let has_host = parameters.contains_key("host");
    for (name, usage) in KEYWORDS {
        let (Honoured(variable) | Only(variable, _)) = usage;
        if parameters.contains_key(name) || (has_host && *name == "hostaddr") {
            continue;
        }
        let value = variable.and_then(env).filter(|v| !v.is_empty() && !v.contains('\0'));
        match (value, usage) {
            (Some(value), Honoured(_)) => {
                parameters.insert(name, value);
            }
            (Some(value), Only(Some(variable), values)) if !values.contains(&value.as_str()) => {
                let what = format!("The value of {variable} in the environment is not supported");
                return Err(Error::usage(what).hint(instead(name)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    // The name comes from a string that holds a password: show only what can be a keyword.
    if name.is_empty() || name.len() > 40 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Error::usage("The source has a parameter whose name cannot be a keyword")
            .hint("Put values with spaces in single quotes; in a URL write special characters as %XX");
    }
    let nearest =
        KEYWORDS.iter().map(|(k, _)| (strsim::jaro_winkler(k, name), *k)).max_by(|a, b| a.0.total_cmp(&b.0));
    let error = Error::usage(format!("Unknown connection parameter {name}"));
    match nearest {
        Some((likeness, keyword)) if likeness > 0.8 => error.hint(format!("Did you mean {keyword}?")),
        _ => error.hint("Remove it: parameters are those of libpq, such as sslmode or connect_timeout"),
    }
}

fn unsupported(name: &str) -> Error {
    Error::usage(format!("This value of connection parameter {name} is not supported")).hint(instead(name))
}

/// What to do in place of something unsupported.
fn instead(name: &str) -> &'static str {
    match name {
        "gssencmode" | "gssdelegation" | "gsslib" | "krbsrvname" => {
            "Leave it out: log in with a password (SCRAM) or a client certificate instead of Kerberos"
        }
        "load_balance_hosts" => {
            "Leave it out: hosts are tried in their order, so that SQL and stream meet on one server, and after a \
             break on the same one as before"
        }
        "sslpassword" => "Give sslkey an unencrypted key: openssl pkey -in client.key -out plain.key",
        "sslcrldir" => "Put the lists into one PEM file and name it with sslcrl=FILE",
        "requirepeer" => "Leave it out: a Unix socket is as safe as the directory it lies in",
        "require_auth" => "Leave it out; channel_binding=require admits nothing but SCRAM over TLS",
        "min_protocol_version" => "Leave it out: protocol 3.0 is spoken, which every server knows",
        _ => "Leave it out",
    }
}

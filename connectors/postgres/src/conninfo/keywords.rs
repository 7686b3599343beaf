//! The parameters that libpq knows, and what becomes of each here.

use rowcast_engine::{Error, Result};

use super::Parameters;

/// What a keyword means to this connector.
enum Use {
    /// Honoured; the environment variable gives its default.
    Honoured(Option<&'static str>),
    /// Accepted without effect, because the connection settles it by itself.
    Settled,
    /// Accepted with these values, which change nothing; any other is refused.
    Only(&'static [&'static str]),
}

use Use::{Honoured, Only, Settled};

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
    // The connection sets its own, bounded ones.
    ("keepalives", Settled),
    ("keepalives_count", Settled),
    ("keepalives_idle", Settled),
    ("keepalives_interval", Settled),
    ("tcp_user_timeout", Settled),
    ("client_encoding", Only(&["UTF8", "utf8", "UTF-8", "utf-8", "auto"])),
    ("gssencmode", Only(&["disable", "prefer"])),
    ("load_balance_hosts", Only(&["disable"])),
    ("replication", Only(&["database"])),
    ("sslcompression", Only(&["0"])),
    ("sslnegotiation", Only(&["postgres"])),
    ("sslsni", Only(&["1"])),
    // TLS below 1.2 is never spoken.
    ("ssl_min_protocol_version", Only(&["TLSv1", "TLSv1.1", "TLSv1.2"])),
    ("gssdelegation", Only(&[])),
    ("gsslib", Only(&[])),
    ("krbsrvname", Only(&[])),
    ("requirepeer", Only(&[])),
    ("require_auth", Only(&[])),
    ("scram_client_key", Only(&[])),
    ("scram_server_key", Only(&[])),
    ("service", Only(&[])),
    ("servicefile", Only(&[])),
    ("ssl_max_protocol_version", Only(&[])),
    ("sslcertmode", Only(&[])),
    ("sslcrl", Only(&[])),
    ("sslcrldir", Only(&[])),
    ("sslpassword", Only(&[])),
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
        Settled => {}
        Only(values) if value.is_empty() || values.contains(&value.as_str()) => {}
        Only(_) => return Err(unsupported(name)),
    }
    Ok(())
}

/// Fills in what the environment says about parameters that the string left out.
pub(super) fn fill_from(env: &dyn Fn(&str) -> Option<String>, parameters: &mut Parameters) {
    // A host in the string must not meet an address from the environment.
    let has_host = parameters.contains_key("host");
    for (name, usage) in KEYWORDS {
        let Honoured(Some(variable)) = usage else { continue };
        if parameters.contains_key(name) || (has_host && *name == "hostaddr") {
            continue;
        }
        if let Some(value) = env(variable).filter(|v| !v.is_empty() && !v.contains('\0')) {
            parameters.insert(name, value);
        }
    }
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
    let hint = match name {
        "sslnegotiation" => "Leave it out: TLS is negotiated in the session (sslnegotiation=postgres)",
        "gssencmode" | "gssdelegation" | "gsslib" | "krbsrvname" => {
            "Leave it out: log in with a password (SCRAM) or a client certificate instead of Kerberos"
        }
        "service" | "servicefile" => "Write the service's settings into the URL",
        "sslpassword" => "Give sslkey an unencrypted key: openssl pkey -in client.key -out plain.key",
        _ => "Leave it out",
    };
    Error::usage(format!("This value of connection parameter {name} is not supported")).hint(hint)
}

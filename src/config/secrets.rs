//! Secrets come from files, and never come out again.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rowcast_engine::{Error, Result};

use super::value::{Node, Origin, Table, Value};

/// Before the path of a file that holds the value of an option of librdkafka.
#[cfg(feature = "kafka")]
const FILE: &str = "file:";

/// What such a file is.
const WHAT: &str = "It holds the value alone: an address like postgres://USER@HOST/DATABASE, or a password";

/// What stands for a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// Puts the address that `source.url_file` holds into `source.url`.
pub(crate) fn resolve_url(source: &mut Table) -> Result<()> {
    let Some(Node { value, origin }) = source.remove("url_file") else { return Ok(()) };
    let (Value::Text(path) | Value::String(path)) = value else {
        return Err(Error::usage(format!("Wrong value for source.url_file ({origin}): it is not a path")));
    };
    let url = read("source.url_file", Path::new(&path), &origin)?;
    source.insert("url".to_owned(), Node { value: Value::String(url), origin });
    Ok(())
}

/// Replaces each value `file:PATH` by what the file holds.
#[cfg(feature = "kafka")]
pub(crate) fn resolve_properties(section: &str, properties: &mut Table) -> Result<()> {
    for (name, Node { value, origin }) in properties {
        if let Value::Text(text) | Value::String(text) = value
            && let Some(path) = text.strip_prefix(FILE)
        {
            *text = read(&format!("{section}.properties.{name}"), Path::new(path), origin)?;
        }
    }
    Ok(())
}

fn read(key: &str, path: &Path, origin: &Origin) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => format!("Write the value into it, or name the file that holds it. {WHAT}"),
            ErrorKind::PermissionDenied => "Let the user that rowcast runs as read it".to_owned(),
            _ => format!("Name a file in UTF-8 that can be read. {WHAT}"),
        };
        Error::usage(format!("Cannot read {}, which {key} names ({origin})", path.display()))
            .because(error)
            .hint(hint)
    })?;
    // Editors and `echo` end a file with a newline that is no part of the secret.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Error::usage(format!("{}, which {key} names ({origin}), is empty", path.display()))
            .hint(format!("Write the value into it. {WHAT}")));
    }
    Ok(text.to_owned())
}

/// Whether an option of librdkafka holds a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    ["password", "passphrase", "secret", "key.pem", "oauthbearer.config", "sasl.jaas.config"]
        .iter()
        .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, value: &str) -> Table {
        Table::from([(name.to_owned(), Node { value: Value::Text(value.into()), origin: Origin::Set })])
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn values_come_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "sesame\n").unwrap();
        let mut properties = table("sasl.password", &format!("file:{}", file.display()));
        resolve_properties("kafka", &mut properties).unwrap();
        assert_eq!(properties["sasl.password"].value, Value::Text("sesame".into()));
    }

    #[test]
    fn the_address_comes_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "postgres://me:sesame@h/d\n").unwrap();
        let mut source = table("url_file", file.to_str().unwrap());
        resolve_url(&mut source).unwrap();
        assert_eq!(source.keys().collect::<Vec<_>>(), ["url"]);
        fs::write(&file, "\n").unwrap();
        let empty = resolve_url(&mut table("url_file", file.to_str().unwrap())).unwrap_err();
        assert!(empty.remedy().unwrap().contains("postgres://"), "{empty}");
        let error = resolve_url(&mut table("url_file", "/nowhere")).unwrap_err();
        assert!(error.to_string().starts_with("Cannot read /nowhere, which source.url_file names (--set): "));
        assert!(error.remedy().unwrap().contains("postgres://"), "{error}");
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "ssl.key.pem",
        ] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("ssl.key.location") && !is_secret("linger.ms"));
    }
}

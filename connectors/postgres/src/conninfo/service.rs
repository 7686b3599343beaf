//! Services: sets of parameters under a name, in `~/.pg_service.conf` or a file of the whole machine.
//! Source: <https://www.postgresql.org/docs/current/libpq-pgservice.html>.

use std::io;
use std::path::{Path, PathBuf};

use rowcast_engine::{Error, Result, in_quotes};

use super::{Parameters, keywords};

/// Where packaged clients (Debian, Red Hat) look for the machine's file unless `PGSYSCONFDIR` says so.
const SYSTEM_DIRS: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in what the service says about parameters that the string left out, if one is named.
///
/// # Errors
///
/// `Kind::Usage` when it is in no file, or its lines cannot be read.
pub(super) fn fill_from(env: Env<'_>, parameters: &mut Parameters) -> Result<()> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let given = |parameters: &mut Parameters, name, variable| {
        parameters.remove(name).filter(|value| !value.is_empty()).or_else(|| set(variable))
    };
    let file = given(parameters, "servicefile", "PGSERVICEFILE").map(PathBuf::from);
    let Some(service) = given(parameters, "service", "PGSERVICE") else { return Ok(()) };
    let own = set("HOME").map(|home| Path::new(&home).join(".pg_service.conf"));
    let system = match set("PGSYSCONFDIR") {
        Some(dir) => vec![PathBuf::from(dir)],
        None => SYSTEM_DIRS.map(PathBuf::from).into(),
    };
    let is_named = file.is_some();
    let places: Vec<PathBuf> =
        file.or(own).into_iter().chain(system.into_iter().map(|dir| dir.join("pg_service.conf"))).collect();
    for (index, path) in places.iter().enumerate() {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !(is_named && index == 0) => continue,
            Err(e) => {
                return Err(
                    Error::usage(format!("Cannot read the service file {}", path.display())).because(e)
                );
            }
        };
        if let Some(found) = section(&text, &service, path)? {
            merge(parameters, found);
            return Ok(());
        }
    }
    let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    Err(Error::usage(format!("There is no service {} in {}", in_quotes(&service), places.join(", ")))
        .hint(format!("Write [{service}] into one of them, and below it lines such as host=HOST")))
}

/// The string wins over the service, and its host is not mixed with the service's address.
fn merge(parameters: &mut Parameters, service: Parameters) {
    let has_host = parameters.contains_key("host");
    for (name, value) in service {
        if !(has_host && name == "hostaddr") {
            parameters.entry(name).or_insert(value);
        }
    }
}

/// The parameters below `[name]`; the first of two wins, as in libpq. Errors name the line, never what is in it.
fn section(text: &str, name: &str, path: &Path) -> Result<Option<Parameters>> {
    let mut found = None;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let wrong = |what: &str| {
            Error::usage(format!("Line {} of the service file {} {what}", number + 1, path.display()))
        };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            let is_it = header.strip_prefix(name).is_some_and(|rest| rest.starts_with(']'));
            found = is_it.then(Parameters::new);
            continue;
        }
        let Some(parameters) = &mut found else { continue };
        if line.starts_with("ldap") {
            return Err(
                wrong("asks an LDAP server, which is not supported").hint("Write the parameters there")
            );
        }
        let Some((keyword, value)) = line.split_once('=') else {
            return Err(wrong("is not of the form keyword=value"));
        };
        if matches!(keyword, "service" | "servicefile") {
            return Err(wrong("names another service, which is not supported"));
        }
        let mut one = Parameters::new();
        keywords::set(&mut one, keyword, value.to_owned()).map_err(|error| {
            let hint = error.remedy().unwrap_or_default().to_owned();
            wrong("cannot be used").because(error).hint(hint)
        })?;
        one.into_iter().for_each(|(keyword, value)| {
            parameters.entry(keyword).or_insert(value);
        });
    }
    Ok(found)
}

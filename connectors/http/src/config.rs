//! The section `[http]`.

use std::net::IpAddr;
use std::time::Duration;

use rowcast_engine::{Error, Result, in_quotes};
use serde::{Deserialize, Serialize};

use crate::duration;

/// How the door is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Address and port to listen on; port 0 draws a free one.
    pub listen: String,
    /// Who may come in. Only loopback can do without.
    pub auth: Option<Auth>,
    /// Names, with or without port, that this server is asked for by, beside `localhost` and IP addresses. Any
    /// other name is refused: a web page can point a name of its own at this machine.
    pub hosts: Vec<String>,
    /// Origins, like `https://app.example.com`, of web pages that may read and publish, beside this server's own.
    pub origins: Vec<String>,
    /// Streams, WebSockets and long polls at once.
    pub max_connections: usize,
    /// Subscriptions at once on one WebSocket.
    pub max_subscriptions: usize,
    /// Streams end after about this long, give or take a fifth, and their clients go on in a new one: so load
    /// balances itself and a restart is nothing new to any client.
    #[serde(with = "duration")]
    pub rotate: Duration,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Everybody who reaches the port.
    None,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            auth: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            max_connections: 10_000,
            max_subscriptions: 100,
            rotate: Duration::from_secs(60 * 60),
        }
    }
}

impl Config {
    /// Refuses what cannot work, before anything is opened.
    ///
    /// # Errors
    /// A usage error that names the key.
    pub fn check(&self) -> Result<()> {
        if let Some(origin) = self.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(Error::usage(format!("{} in http.origins is not an origin", in_quotes(origin)))
                .hint("Write scheme, host and port as a browser does: https://app.example.com or http://localhost:3000."));
        }
        if let Some(host) = self.hosts.iter().find(|host| host.is_empty() || host.contains(['/', '*', ' '])) {
            return Err(Error::usage(format!("{} in http.hosts is not a host name", in_quotes(host)))
                .hint("Write the name alone, without scheme and path: rowcast.example.com."));
        }
        if self.rotate < Duration::from_secs(1) {
            return Err(Error::usage("http.rotate must be at least 1s"));
        }
        Ok(())
    }

    /// Refuses an address that cannot be, and one that lets strangers in. What a name stands for shows when the door
    /// is opened.
    ///
    /// # Errors
    /// A usage error that names the key.
    pub fn check_listen(&self) -> Result<()> {
        let parts = self.listen.rsplit_once(':');
        let parts = parts.filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let (host, _) = parts.ok_or_else(|| no_address(&self.listen))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().map_or(Ok(()), |ip| self.check_reach(ip))
    }

    /// Refuses to let strangers in unless it is asked for in so many words.
    pub(crate) fn check_reach(&self, ip: IpAddr) -> Result<()> {
        if ip.is_loopback() || self.auth == Some(Auth::None) {
            return Ok(());
        }
        Err(Error::usage(format!("http.listen = \"{}\" is open to other machines, and nobody is asked who they are", self.listen))
            .hint(
                "Listen on 127.0.0.1, or write auth = \"none\" under [http] (--set http.auth=none) if everybody who \
                 reaches the port may read every captured table.",
            ))
    }
}

/// The error for what is not an address.
pub(crate) fn no_address(listen: &str) -> Error {
    Error::usage(format!("http.listen = {} is not an address to listen on", in_quotes(listen)))
        .hint("Write host and port: 127.0.0.1:8080, or [::1]:8080.")
}

fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, authority)| {
        !scheme.is_empty() && !authority.is_empty() && !authority.contains(['/', '*', '?', '#', '@', ' '])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work() {
        let config = Config::default();
        assert!(config.check().is_ok());
        for origin in ["*", "app.example.com", "https://app.example.com/", "https://*.example.com"] {
            let config = Config { origins: vec![origin.to_owned()], ..Config::default() };
            assert!(config.check().is_err_and(|error| error.remedy().is_some()), "{origin}");
        }
        let config = Config { hosts: vec!["http://rowcast".to_owned()], ..config };
        assert!(config.check().is_err());
    }

    #[test]
    fn opens_to_strangers_only_when_told() {
        let open = IpAddr::from([0, 0, 0, 0]);
        let config = Config::default();
        assert!(config.check_reach(IpAddr::from([127, 0, 0, 1])).is_ok());
        let error = config.check_reach(open).expect_err("no auth");
        assert!(error.remedy().is_some_and(|hint| hint.contains("auth = \"none\"")));
        assert!(Config { auth: Some(Auth::None), ..config }.check_reach(open).is_ok());
    }

    #[test]
    fn an_address_is_one() {
        let check = |listen: &str| Config { listen: listen.to_owned(), ..Config::default() }.check_listen();
        for listen in ["127.0.0.1:0", "[::1]:8080", "localhost:80", "rowcast.example:65535"] {
            assert!(check(listen).is_ok(), "{listen}");
        }
        for listen in ["", "foo", "8080", ":8080", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:http"] {
            let error = check(listen).expect_err(listen);
            assert!(error.to_string().contains("is not an address"), "{error}");
        }
        for listen in ["0.0.0.0:8", "[::]:8", "10.0.0.1:8"] {
            let error = check(listen).expect_err(listen);
            assert!(error.to_string().contains("open to other machines"), "{error}");
        }
    }

    #[test]
    fn reads_as_written() {
        let text = r#"{"auth": "none", "rotate": "90s", "hosts": ["rowcast"]}"#;
        let config: Config = serde_json::from_str(text).expect("a config");
        assert_eq!(config.auth, Some(Auth::None));
        assert_eq!(config.rotate, Duration::from_secs(90));
        assert_eq!(config.listen, "127.0.0.1:8080");
        let back = serde_json::to_value(&config).expect("JSON");
        assert_eq!(back["rotate"], "90s");
    }
}

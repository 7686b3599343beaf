//! Keeps other people's web pages out. Any page that a browser shows can send requests to this machine, and without
//! a password between them only two headers tell them apart: Origin says whose page it is, Host under which name
//! the page reached us. A page that points a name of its own at this machine (DNS rebinding) has a right Origin and
//! a wrong Host.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rowcast_engine::in_quotes;

use crate::config::Config;
use crate::refusal::Refusal;

/// What a page of an allowed origin may use.
const METHODS: &str = "GET, POST";
const HEADERS: &str = "accept, cache-control, content-type, last-event-id";
const EXPOSED: &str = "rowcast-last-event-id, retry-after";
/// Seconds that a browser may remember a preflight's answer: Chromium's limit.
const PREFLIGHT_AGE: &str = "7200";

/// Who may come in, by name.
#[derive(Debug)]
pub(crate) struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Guard {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { hosts: lower(&config.hosts), origins: lower(&config.origins) }
    }

    /// Refuses a request by another name, or from another's page.
    pub(crate) fn check(&self, headers: &HeaderMap, authority: Option<&Authority>) -> Result<(), Refusal> {
        if headers.get_all(header::HOST).iter().count() > 1 {
            // Proxies disagree on which of them counts (RFC 9112, 3.2).
            return Err(Refusal::bad_request("There are two Host headers").hint("Send one."));
        }
        let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
        let host = host.or_else(|| authority.map(Authority::as_str)).unwrap_or_default().to_ascii_lowercase();
        if !self.knows(&host) {
            let message = format!("This server is not known as {}", in_quotes(&host));
            return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden_host", message)
                .hint("Ask for localhost or an IP address, or add the name to hosts under [http]."));
        }
        match headers.get(header::ORIGIN) {
            None => Ok(()),
            Some(origin) => self.check_origin(origin.to_str().unwrap_or_default(), &host),
        }
    }

    fn check_origin(&self, origin: &str, host: &str) -> Result<(), Refusal> {
        let origin = origin.to_ascii_lowercase();
        let own = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
        if own || self.origins.contains(&origin) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "forbidden_origin",
            format!("Pages of {} may not come in here", in_quotes(&origin)),
        )
        .hint("Add the origin to origins under [http] if its pages may read every captured table."))
    }

    /// A page that rebinds a name always has a name, so addresses are fine.
    fn knows(&self, host: &str) -> bool {
        let name = name_of(host);
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.hosts.iter().any(|known| known == name || known == host)
    }
}

/// Without the port.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Stands before everything under `/v1`.
pub(crate) async fn stand(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Err(refusal) = guard.check(request.headers(), request.uri().authority()) {
        // A browser shows a page nothing of a refused upgrade; a WebSocket that is closed tells it why.
        if origin.is_some() && request.headers().contains_key(header::SEC_WEBSOCKET_KEY) {
            request.extensions_mut().insert(refusal);
            return next.run(request).await;
        }
        return refusal.into_response();
    }
    let Some(origin) = origin else { return next.run(request).await };
    let preflight = request.method() == Method::OPTIONS;
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    if preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>) -> Result<(), &'static str> {
        let config = Config {
            hosts: vec!["rowcast".to_owned(), "Events.example.com:8443".to_owned()],
            origins: vec!["https://app.example.com".to_owned()],
            ..Config::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a host"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().expect("an origin"));
        }
        Guard::new(&config).check(&headers, None).map_err(|refusal| refusal.code)
    }

    #[test]
    fn names_that_are_not_ours_are_refused() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "10.0.0.7:80",
        ] {
            assert_eq!(check(host, None), Ok(()), "{host}");
        }
        assert_eq!(check("rowcast:8080", None), Ok(()));
        assert_eq!(check("events.example.com:8443", None), Ok(()));
        for host in
            ["events.example.com", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""]
        {
            assert_eq!(check(host, None), Err("forbidden_host"), "{host}");
        }
        assert_eq!(check("evil.example:8080", Some("http://evil.example:8080")), Err("forbidden_host"));
    }

    #[test]
    fn two_names_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        let refused = Guard::new(&Config::default()).check(&headers, None);
        assert_eq!(refused.map_err(|refusal| refusal.code), Err("bad_request"));
    }

    #[test]
    fn pages_of_others_are_refused() {
        let host = "localhost:8080";
        for origin in ["http://localhost:8080", "https://app.example.com", "HTTPS://APP.EXAMPLE.COM"] {
            assert_eq!(check(host, Some(origin)), Ok(()), "{origin}");
        }
        for origin in
            ["http://localhost:3000", "http://localhost", "null", "https://evil.example", "localhost:8080"]
        {
            assert_eq!(check(host, Some(origin)), Err("forbidden_origin"), "{origin}");
        }
    }
}

//! The commands' way to the running program: its Unix socket, or HTTP.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rowcast_engine::{Error, Result, in_quotes};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config;

/// Where it listens unless told otherwise.
const DEFAULT: &str = "127.0.0.1:8080";
/// Names its data directory, as it does for the program itself.
const DATA_VARIABLE: &str = "ROWCAST__DATA";
/// For a connection, and for the head of an answer: longer means that nobody is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that is read as a whole.
const ANSWER_MAX: usize = 16 << 20;

/// Which rowcast is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which rowcast")]
pub(crate) struct Target {
    /// Its address [default: the socket in the data directory, else http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Its data directory [env: ROWCAST__DATA] [default: ./rowcast-data]
    // Not by clap's `env`: what stands in the environment is not said beside --url, and does not contradict it.
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data: Option<PathBuf>,
}

/// Where the program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Host and port, and what stands before every path.
    Http {
        /// `127.0.0.1:8080`.
        authority: String,
        /// Without a slash at its end.
        prefix: String,
    },
}

impl Target {
    /// Looks where it is.
    pub(crate) fn client(&self) -> Result<Client> {
        self.client_where(std::env::var_os(DATA_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from))
    }

    /// The same, with the data directory that the environment names.
    fn client_where(&self, given: Option<PathBuf>) -> Result<Client> {
        if let Some(url) = &self.url {
            return parse(url);
        }
        let data = self.data.clone().or(given);
        let socket = config::socket(data.as_deref().unwrap_or(Path::new(config::DATA)));
        if socket.exists() || data.is_some() {
            return Ok(Client::Socket(socket));
        }
        Ok(Client::Http { authority: DEFAULT.to_owned(), prefix: String::new() })
    }
}

fn parse(url: &str) -> Result<Client> {
    let wrong = || {
        Error::usage(format!("{} is not the address of a rowcast", in_quotes(url)))
            .hint("Write it like http://127.0.0.1:8080")
    };
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => {
            return Err(Error::usage("The commands speak HTTP without TLS").hint(
                "Name the program's own address (http://…), or run the command on its machine with --data DIR",
            ));
        }
        Some(_) => return Err(wrong()),
        None => url,
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let bare = authority.rsplit_once(']').map_or(authority, |(_, port)| port);
    if authority.is_empty() || authority.contains(['@', ' ', '?', '#']) || path.contains(['?', '#']) {
        return Err(wrong());
    }
    let authority = if bare.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let prefix = path.trim_end_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    Ok(Client::Http { authority, prefix })
}

impl Client {
    /// Asks, and gives the answer when its head is there; its body may go on for ever.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>> {
        self.send_within(PATIENCE, method, path, headers, body).await
    }

    async fn send_within(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>> {
        let (host, prefix) = match self {
            Self::Socket(_) => ("localhost", ""),
            Self::Http { authority, prefix } => (authority.as_str(), prefix.as_str()),
        };
        let mut request =
            Request::builder().method(method).uri(format!("{prefix}{path}")).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body.into()))
            .map_err(|error| Error::usage(format!("Cannot ask for {path}")).because(error))?;
        let reached = AtomicBool::new(false);
        timeout(patience, self.exchange(request, &reached))
            .await
            .map_err(|_| self.silent(patience, reached.load(Ordering::Relaxed)))?
    }

    /// `reached`: somebody is there, who has taken the connection.
    fn silent(&self, patience: Duration, reached: bool) -> Error {
        if !reached {
            return Error::transient(format!("{} does not answer", self.name())).hint(self.hint());
        }
        let what = format!("{} has not answered within {} s", self.name(), patience.as_secs());
        Error::transient(what).hint(
            "Something is there: `rowcast status` says whether rowcast waits for something. What was ordered may have \
             been done; look before you order it again",
        )
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        reached: &AtomicBool,
    ) -> Result<Response<Incoming>> {
        let unreachable = |error: std::io::Error| {
            let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
            let what = if gone { "No rowcast runs at" } else { "Cannot connect to" };
            Error::transient(format!("{what} {}", self.name())).because(error).hint(self.hint())
        };
        match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                reached.store(true, Ordering::Relaxed);
                speak(stream, request).await
            }
            Self::Http { authority, .. } => {
                let stream = TcpStream::connect(authority.as_str()).await.map_err(unreachable)?;
                reached.store(true, Ordering::Relaxed);
                speak(stream, request).await
            }
        }
    }

    /// Asks, and reads the whole answer. Anything but success is an error with what the program says about it.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        self.ask_within(PATIENCE, method, path, body).await
    }

    /// The same, for what takes longer.
    pub(crate) async fn ask_within(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Bytes> {
        let response =
            self.send_within(patience, method, path, &[("accept", "application/json")], body).await?;
        let status = response.status();
        let body = whole(response).await?;
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Http { authority, prefix } => format!("http://{authority}{prefix}"),
        }
    }

    fn hint(&self) -> String {
        match self {
            // It writes that file when it listens.
            Self::Socket(path) if path.with_file_name("http.addr").exists() => {
                "Start it with rowcast run, or name its address: --url http://HOST:PORT. If it runs, it has found no room for \
                 its socket: make room on the file system of its data directory, and restart it"
            }
            Self::Socket(_) => "Start it with rowcast run, or name its address: --url http://HOST:PORT",
            Self::Http { .. } => {
                "Start it with rowcast run or rowcast demo, or say where it is: --url http://HOST:PORT, or --data \
                 DIR with its data directory"
            }
        }
        .to_owned()
    }
}

async fn speak<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Error::transient("The connection broke").because(error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the connection; an error shows in the answer's body.
    tokio::spawn(async move { connection.await.is_ok() });
    sender.send_request(request).await.map_err(broken)
}

/// The body of an answer that ends.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    let read = timeout(PATIENCE, Limited::new(response.into_body(), ANSWER_MAX).collect()).await;
    let read = read.map_err(|_| Error::transient("The answer does not end"))?;
    Ok(read.map_err(|error| Error::transient("The answer broke off").because(error))?.to_bytes())
}

/// What the program says when it refuses.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Body {
        error: Refusal,
    }
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
        hint: Option<String>,
    }
    let Ok(Body { error }) = serde_json::from_slice::<Body>(body) else {
        return Error::failed(format!("The answer is {status}, and it is not rowcast's")).hint(
            "Another program may have the port: say where rowcast is with --url http://HOST:PORT or --data DIR",
        );
    };
    let make = match status {
        StatusCode::BAD_REQUEST => Error::usage,
        _ if status.is_server_error() => Error::transient,
        _ => Error::failed,
    };
    match error.hint {
        Some(hint) => make(error.message).hint(hint),
        None => make(error.message),
    }
}

/// Percent-encodes a part of a path or of a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let http = |authority: &str, prefix: &str| Client::Http {
            authority: authority.into(),
            prefix: prefix.into(),
        };
        for (url, client) in [
            ("http://127.0.0.1:8080", http("127.0.0.1:8080", "")),
            ("http://h/", http("h:80", "")),
            ("h:1", http("h:1", "")),
            ("http://[::1]:8080/a/b/", http("[::1]:8080", "/a/b")),
            ("http://[::1]", http("[::1]:80", "")),
        ] {
            assert_eq!(parse(url).unwrap(), client, "{url}");
        }
        for wrong in ["https://h", "ftp://h", "http://", "http://me@h", "http://h/?a"] {
            assert_eq!(parse(wrong).unwrap_err().kind(), rowcast_engine::Kind::Usage, "{wrong}");
        }
    }

    /// The environment speaks where nothing is typed.
    #[test]
    fn what_is_typed_decides_where_it_is() {
        #[derive(Debug, clap::Parser)]
        struct Program {
            #[command(flatten)]
            target: Target,
        }
        let typed = |arguments: &[&str]| {
            let arguments = ["rowcast"].iter().chain(arguments);
            <Program as clap::Parser>::try_parse_from(arguments).map(|program| program.target)
        };
        let socket = |dir: &str| Client::Socket(config::socket(Path::new(dir)));
        let given = || Some(PathBuf::from("/given"));
        let url = typed(&["--url", "h:1"]).unwrap().client_where(given()).unwrap();
        assert_eq!(url, Client::Http { authority: "h:1".into(), prefix: String::new() });
        assert_eq!(typed(&["--data", "/typed"]).unwrap().client_where(given()).unwrap(), socket("/typed"));
        assert_eq!(typed(&[]).unwrap().client_where(given()).unwrap(), socket("/given"));
        let both = typed(&["--url", "h:1", "--data", "/typed"]).unwrap_err();
        assert_eq!(both.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    /// Whoever is there and busy is not to be started once more.
    #[tokio::test]
    async fn who_takes_a_connection_is_there() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let patience = Duration::from_millis(200);
        let silent = client.send_within(patience, Method::GET, "/", &[], Bytes::new()).await.unwrap_err();
        let remedy = silent.remedy().unwrap_or_default();
        assert!(silent.to_string().contains("has not answered within"), "{silent}");
        assert!(remedy.contains("rowcast status") && !remedy.contains("Start it"), "{remedy}");
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("public.\"A b\"/*é"), "public.%22A%20b%22%2F%2A%C3%A9");
    }

    #[test]
    fn refusals_are_passed_on() {
        let body = br#"{"error":{"code":"x","message":"No","hint":"Do","field":null}}"#;
        let error = refusal(StatusCode::CONFLICT, body);
        assert_eq!((error.to_string().as_str(), error.remedy()), ("No", Some("Do")));
        assert!(refusal(StatusCode::NOT_FOUND, b"<html>").to_string().contains("404 Not Found"));
    }
}

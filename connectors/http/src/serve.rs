//! Connections: taken, served, and ended in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rowcast_engine::Stop;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// At the end, streams have this long to say their last word. Below the five seconds after which the program
/// goes on without the door.
pub(crate) const GRACE: Duration = Duration::from_secs(4);
/// Connections beside the streams: requests that come and go, and ones kept open between two requests.
const CONNECTIONS_BESIDE: usize = 512;
/// A connection that says nothing for this long between or within request heads is closed.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// What may wait in memory for a socket that takes no more, and the limit of a request's head. A slow reader
/// costs this and the batch that it is being sent.
const WRITE_BUFFER: usize = 64 << 10;
/// When taking a connection fails, for want of file descriptors mostly, it is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that has vanished without a word is noticed after 60 s + 3 * 15 s.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;

/// Where connections come from.
pub(crate) trait Listener {
    /// A connection.
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next one. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>>;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _peer): (_, SocketAddr) = Self::accept(self).await?;
        // An event goes out when it is written, not when the one before has been acknowledged.
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// EMFILE and ENFILE: the process, or the system, has as many open files as it may.
const FILES: [i32; 2] = [24, 23];

/// Serves until the stop, then until the last connection has ended or [`GRACE`] is over.
pub(crate) async fn serve(listener: impl Listener, router: Router, streams_max: usize, stop: Stop) {
    let room =
        Arc::new(Semaphore::new(streams_max.saturating_add(CONNECTIONS_BESIDE).min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut told = false;
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.stopped() => break,
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        match accepted {
            Ok(stream) => {
                told = false;
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    converse(stream, router, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // A hundred times a second it would be the same.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, hint = hint(&error), "Cannot take connections; it is tried again and again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn hint(error: &io::Error) -> Option<&'static str> {
    let is_files = error.raw_os_error().is_some_and(|code| FILES.contains(&code));
    is_files
        .then_some("Raise the limit of open files (ulimit -n, LimitNOFILE=), or lower http.max_connections")
}

async fn converse<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, router: Router, stop: Stop) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(WRITE_BUFFER)
        .http2()
        .timer(TokioTimer::new())
        .max_send_buf_size(WRITE_BUFFER);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // How a connection breaks is its client's business.
        _ = connection.as_mut() => return,
        () = stop.stopped() => connection.as_mut().graceful_shutdown(),
    }
    // Who does not take its last word by then is cut off.
    let _ = tokio::time::timeout(GRACE, connection).await;
}

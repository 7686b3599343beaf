//! Connections: taken, served, and ended in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rowcast_engine::Stop;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// At the end, streams have this long to say their last word. Below the five seconds after which the program
/// goes on without the door.
pub(crate) const GRACE: Duration = Duration::from_secs(4);
/// Connections beside the streams: requests that come and go, and ones kept open between two requests.
const CONNECTIONS_BESIDE: usize = 512;
/// A connection that says nothing for this long before, between or within request heads is closed.
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

/// Ends when nobody has asked anything in time; else never.
async fn silence(asked: &AtomicBool) {
    tokio::time::sleep(HEAD_WITHIN).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// EMFILE and ENFILE: the process, or the system, has as many open files as it may.
const FILES: [i32; 2] = [24, 23];

/// Serves until the stop, then until the last connection has ended or [`GRACE`] is over.
pub(crate) async fn serve(listener: impl Listener, router: Router, streams_max: usize, stop: Stop) {
    let room =
        Arc::new(Semaphore::new(streams_max.saturating_add(CONNECTIONS_BESIDE).min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let (mut told, mut full) = (false, false);
    loop {
        if room.available_permits() > 0 {
            full = false;
        } else if !std::mem::replace(&mut full, true) {
            tracing::warn!(
                hint = "See who holds them (ss -tn), or raise http.max_connections",
                "All connections are taken, others wait until one ends"
            );
        }
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
                // The room is never closed.
                let Ok(permit) = permit else { break };
                let seat = Seat(Arc::new(permit));
                connections.spawn(converse(stream, router, stop, seat));
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

/// A connection's place among those that may be open. Each request carries it: one that becomes a WebSocket keeps it, when
/// its connection has ended as far as HTTP goes.
#[derive(Clone, Debug)]
pub(crate) struct Seat(#[expect(dead_code, reason = "it is held")] Arc<OwnedSemaphorePermit>);

async fn converse<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    router: Router,
    stop: Stop,
    seat: Seat,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (asked, router) = (Arc::clone(&asked), TowerToHyperService::new(router));
        service_fn(move |mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(seat.clone());
            router.call(request)
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(WRITE_BUFFER)
        .http2()
        .timer(TokioTimer::new())
        // As with TCP's: it may be a proxy that answers those.
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_INTERVAL * KEEPALIVE_PROBES)
        .max_send_buf_size(WRITE_BUFFER);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // How a connection breaks is its client's business.
        _ = connection.as_mut() => return,
        () = stop.stopped() => connection.as_mut().graceful_shutdown(),
        // It is not known yet which HTTP it is, so no timer of hyper's runs.
        () = silence(&asked) => return,
    }
    // Who does not take its last word by then is cut off.
    let _ = tokio::time::timeout(GRACE, connection).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use rowcast_engine::stop;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    use super::*;

    fn room() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(1))
    }

    fn seat(room: &Arc<Semaphore>) -> Seat {
        Seat(Arc::new(Arc::clone(room).try_acquire_owned().unwrap()))
    }

    /// HTTP has done with it when it becomes something else; its file is open still.
    #[tokio::test]
    async fn who_leaves_http_keeps_the_seat() {
        let (room, leave) = (room(), Arc::new(tokio::sync::Notify::new()));
        let left = Arc::clone(&leave);
        let route = move |mut request: axum::extract::Request| async move {
            let seat = request.extensions().get::<Seat>().cloned();
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let _upgraded = upgrade.await;
                left.notified().await;
                drop(seat);
            });
            (axum::http::StatusCode::SWITCHING_PROTOCOLS, [("upgrade", "x"), ("connection", "upgrade")])
        };
        let (mut client, server) = duplex(1 << 10);
        let ask = b"GET / HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        client.write_all(ask).await.unwrap();
        let (_stopper, stop) = stop();
        converse(server, Router::new().route("/", get(route)), stop, seat(&room)).await;
        assert_eq!(room.available_permits(), 0);
        leave.notify_one();
        let _ = room.acquire().await.unwrap();
    }

    /// Whether a connection over which this is sent is open for long.
    async fn lasts(said: &[u8]) -> bool {
        let (mut client, server) = duplex(1 << 10);
        client.write_all(said).await.unwrap();
        let unending = || async {
            axum::body::Body::from_stream(futures_util::stream::pending::<io::Result<Vec<u8>>>())
        };
        let router = Router::new().route("/", get(unending));
        let (_stopper, stop) = stop();
        let conversation = tokio::spawn(converse(server, router, stop, seat(&room())));
        let ended = timeout(HEAD_WITHIN * 4, conversation).await;
        let mut heard = Vec::new();
        let _ = timeout(HEAD_WITHIN, client.read_to_end(&mut heard)).await;
        ended.is_err()
    }

    /// Of a connection without a word, or with half of one that any HTTP may begin with, no other limit knows.
    #[tokio::test(start_paused = true)]
    async fn who_never_asks_is_not_waited_for() {
        for said in ["", "PRI * HT", "G", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            assert!(!lasts(said.as_bytes()).await, "{said:?}");
        }
        assert!(lasts(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await);
    }
}

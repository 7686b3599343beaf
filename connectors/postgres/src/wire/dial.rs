//! Opening the socket to one host, with the options that a long-lived stream needs.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rowcast_engine::{Error, Result};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

use super::remedy;
use super::socket::Socket;
use crate::conninfo::Host;

/// A silent peer is probed after this long, so that a vanished one is noticed within a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects to `host`. `receive_buffer` fixes SO_RCVBUF in bytes, which a kernel tunes by itself otherwise.
///
/// The caller bounds the time.
pub(super) async fn dial(host: &Host, receive_buffer: Option<u32>) -> Result<Socket> {
    match host {
        Host::Unix { dir, port } => {
            let path = dir.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(|e| remedy::unreachable(host, e))?;
            Ok(Socket::Unix(stream))
        }
        Host::Tcp { name, address, port } => {
            let addresses: Vec<_> = match address {
                Some(address) => vec![SocketAddr::new(*address, *port)],
                None => {
                    lookup_host((name.as_str(), *port)).await.map_err(|e| unknown_name(name, e))?.collect()
                }
            };
            first_that_answers(&addresses, receive_buffer)
                .await
                .map_err(|e| remedy::unreachable(host, e))
                .map(Socket::Tcp)
        }
    }
}

fn unknown_name(name: &str, cause: io::Error) -> Error {
    Error::transient(format!("Postgres is unreachable: the host name {name:?} cannot be resolved"))
        .because(cause)
        .hint("Check the host name in the source URL, and DNS")
}

async fn first_that_answers(addresses: &[SocketAddr], receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for address in addresses {
        match connect(*address, receive_buffer).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(size) = receive_buffer {
        // Before connecting, since the window scale is agreed on in the handshake.
        socket.set_recv_buffer_size(size)?;
        warn_if_clipped(size, socket.recv_buffer_size()?);
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let options = SockRef::from(&stream);
    options.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

/// Linux reports twice the size that was asked for, and silently grants less than that above `rmem_max`.
fn warn_if_clipped(asked: u32, granted: u32) {
    if granted < asked {
        tracing::info!(
            granted,
            "The kernel limits the receive buffer, which slows catching up; sysctl net.core.rmem_max={asked} lifts it"
        );
    }
}

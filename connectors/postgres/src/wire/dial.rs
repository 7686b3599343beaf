//! Opening the socket to one host, with the options that a long-lived stream needs.

use std::io;
use std::net::SocketAddr;

use rowcast_engine::{Error, Result, in_quotes};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

use super::remedy;
use super::socket::Socket;
use crate::conninfo::{Host, Keepalive};

/// A name with more addresses than these is a load balancer's; the rest is not tried.
const MAX_ADDRESSES: usize = 16;

/// The host once for each of its addresses, in the resolver's order. The caller bounds the time.
pub(super) async fn addresses(host: &Host) -> Result<Vec<Host>> {
    let Host::Tcp { name, address: None, port } = host else { return Ok(vec![host.clone()]) };
    let found = lookup_host((name.as_str(), *port)).await.map_err(|e| unknown_name(name, e))?;
    let mut hosts: Vec<Host> = Vec::new();
    for address in found {
        let host = Host::Tcp { name: name.clone(), address: Some(address.ip()), port: *port };
        if hosts.len() < MAX_ADDRESSES && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        return Err(unknown_name(name, io::Error::other("it has no address")));
    }
    Ok(hosts)
}

/// Connects to `host`. `receive_buffer` fixes SO_RCVBUF in bytes, which a kernel tunes by itself otherwise.
///
/// The caller bounds the time.
pub(super) async fn dial(host: &Host, keepalive: &Keepalive, receive_buffer: Option<u32>) -> Result<Socket> {
    match host {
        Host::Unix { dir, port } => {
            let path = dir.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(|e| remedy::unreachable(host, e))?;
            Ok(Socket::Unix(stream))
        }
        Host::Tcp { address: Some(address), port, .. } => {
            let stream = connect(SocketAddr::new(*address, *port), keepalive, receive_buffer).await;
            stream.map(Socket::Tcp).map_err(|e| remedy::unreachable(host, e))
        }
        Host::Tcp { name, address: None, .. } => {
            Err(unknown_name(name, io::Error::other("it was not looked up")))
        }
    }
}

fn unknown_name(name: &str, cause: io::Error) -> Error {
    Error::transient(format!("Postgres is unreachable: the host name {} cannot be resolved", in_quotes(name)))
        .because(cause)
        .hint("Check the host name in the source URL, and DNS")
}

async fn connect(
    address: SocketAddr,
    keepalive: &Keepalive,
    receive_buffer: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(size) = receive_buffer {
        // Before connecting, since the window scale is agreed on in the handshake.
        socket.set_recv_buffer_size(size)?;
        warn_if_clipped(size, socket.recv_buffer_size()?);
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    notice_a_vanished_peer(&SockRef::from(&stream), keepalive)?;
    Ok(stream)
}

fn notice_a_vanished_peer(socket: &SockRef<'_>, keepalive: &Keepalive) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if let Some(limit) = keepalive.user_timeout {
        socket.set_tcp_user_timeout(Some(limit))?;
    }
    if !keepalive.on {
        return Ok(());
    }
    socket.set_keepalive(true)?;
    let mut settings = TcpKeepalive::new();
    settings = keepalive.idle.map_or(settings.clone(), |idle| settings.with_time(idle));
    settings = keepalive.interval.map_or(settings.clone(), |interval| settings.with_interval(interval));
    settings = keepalive.count.map_or(settings.clone(), |count| settings.with_retries(count));
    socket.set_tcp_keepalive(&settings)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::conninfo::Conninfo;

    async fn options(text: &str) -> (bool, Duration, Duration, u32, Option<Duration>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!("host=127.0.0.1 port={} user=u {text}", listener.local_addr().unwrap().port());
        let info = Conninfo::parse(&text).unwrap();
        let hosts = addresses(&info.hosts[0]).await.unwrap();
        let Socket::Tcp(stream) = dial(&hosts[0], &info.keepalive, None).await.unwrap() else { panic!() };
        let socket = SockRef::from(&stream);
        (
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
            socket.tcp_user_timeout().unwrap(),
        )
    }

    #[tokio::test]
    async fn the_kernel_is_told_how_to_notice_a_vanished_peer() {
        let seconds = Duration::from_secs;
        let set = "keepalives_idle=7 keepalives_interval=2 keepalives_count=5 tcp_user_timeout=9000";
        assert_eq!(options(set).await, (true, seconds(7), seconds(2), 5, Some(seconds(9))));
        assert_eq!(options("").await, (true, seconds(30), seconds(10), 3, Some(seconds(60))));
        // Zero is the system's own.
        let (on, idle, _, _, user) =
            options("keepalives_idle=0 keepalives_interval=0 keepalives_count=0 tcp_user_timeout=0").await;
        assert!(on && idle > seconds(30) && user.is_none_or(|user| user.is_zero()), "{idle:?} {user:?}");
        assert!(!options("keepalives=0").await.0);
    }
}

//! Ports to listen on.

use std::sync::atomic::{AtomicU32, Ordering};

/// A TCP port of the loopback that is free. It lies below those that the system chooses, so that nobody is given it in the
/// meantime, or while whoever listens there is started again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs beside each other begin at different places.
    let first = std::process::id().wrapping_mul(97);
    let mut ports = (0..20_000).map(|_| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        10_000 + u16::try_from(number).expect("less than 20,000")
    });
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

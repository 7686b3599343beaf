//! StandbyStatusUpdate: how far we are, told to the server.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rowcast_engine::Lsn;
use tokio::io::AsyncWriteExt;

use super::socket::Socket;

/// Its length in its CopyData frame.
const LENGTH: usize = 39;

/// Seconds from 1970 to 2000, where Postgres' clock starts.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// One status on its way out. A write that was cut short goes on where it stopped, since half a frame would
/// break the stream.
pub(super) struct Status {
    bytes: [u8; LENGTH],
    sent: usize,
}

impl Status {
    /// Nothing to send.
    pub(super) fn none() -> Self {
        Self { bytes: [0; LENGTH], sent: LENGTH }
    }

    /// Positions written, durable and applied, and whether an answer is wanted.
    pub(super) fn new(write: Lsn, flush: Lsn, apply: Lsn, reply_requested: bool) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = since_1970.saturating_sub(POSTGRES_EPOCH).as_micros();
        let mut bytes = [0; LENGTH];
        bytes[0] = b'd';
        // All but the type byte.
        bytes[4] = 38;
        bytes[5] = b'r';
        let numbers = [write.0, flush.0, apply.0, u64::try_from(now).unwrap_or(u64::MAX)];
        for (place, number) in bytes[6..38].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes[38] = u8::from(reply_requested);
        Self { bytes, sent: 0 }
    }

    /// Sends what is left of it. Cancel safe.
    pub(super) async fn send(&mut self, socket: &mut Socket) -> io::Result<()> {
        while self.sent < LENGTH {
            match socket.write(&self.bytes[self.sent..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.sent += count,
            }
        }
        socket.flush().await
    }
}

use proptest::prelude::*;
use rowcast_engine::{Error, Kind, Lsn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::copy::{CopyFrame, CopyStream};
use super::messages::Messages;
use super::socket::Socket;

fn pair() -> (CopyStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (CopyStream::new(Messages::new(Socket::Unix(ours))), theirs)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], u32::try_from(body.len() + 4).unwrap().to_be_bytes().as_slice(), body].concat()
}

fn data(start: u64, payload: &[u8]) -> Vec<u8> {
    let head = [start, start + 1, 7].map(u64::to_be_bytes).concat();
    message(b'd', &[b"w", head.as_slice(), payload].concat())
}

fn keepalive(end: u64, reply: bool) -> Vec<u8> {
    message(b'd', &[b"k", [end, 8].map(u64::to_be_bytes).concat().as_slice(), &[u8::from(reply)]].concat())
}

/// All that comes until the stream ends: (position, payload) and the reason.
async fn drain(stream: &mut CopyStream) -> (Vec<(u64, Vec<u8>)>, Error) {
    let mut seen = Vec::new();
    loop {
        loop {
            match stream.next() {
                Ok(Some(CopyFrame::Data { start, end, sent, body })) => {
                    assert_eq!((end.0, sent), (start.0 + 1, 7));
                    seen.push((start.0, body.to_vec()));
                }
                Ok(Some(CopyFrame::Keepalive { end, sent, reply })) => {
                    assert_eq!(sent, 8);
                    seen.push((end.0, vec![u8::from(reply)]));
                }
                Ok(None) => break,
                Err(error) => return (seen, error),
            }
        }
        if let Err(error) = stream.fill().await {
            return (seen, error);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frames_come_whole_however_they_are_cut(
        lengths in proptest::collection::vec(0usize..400_000, 1..12),
        piece in 1usize..300_000,
    ) {
        let sent: Vec<_> = lengths.iter().enumerate().map(|(i, n)| (i as u64, vec![i as u8; *n])).collect();
        let mut bytes = Vec::new();
        for (start, payload) in &sent {
            bytes.extend(message(b'S', b"a\0b\0"));
            bytes.extend(data(*start, payload));
        }
        runtime().block_on(async {
            let (mut stream, mut server) = pair();
            let writing = async move {
                for part in bytes.chunks(piece) {
                    server.write_all(part).await.unwrap();
                }
            };
            let (seen, ()) = tokio::join!(drain(&mut stream), writing);
            assert_eq!(seen.0, sent);
            assert!(seen.1.to_string().contains("closed the replication connection"), "{}", seen.1);
        });
    }

    #[test]
    fn any_bytes_end_in_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        runtime().block_on(async {
            let (mut stream, mut server) = pair();
            server.write_all(&bytes).await.unwrap();
            drop(server);
            drain(&mut stream).await;
        });
    }
}

#[tokio::test]
async fn ends_are_told_apart_and_stay() {
    let error = b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0".as_slice();
    let notice = b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0".as_slice();
    let cases = [
        (message(b'E', error), Kind::Transient, "going down (SQLSTATE 57P01)"),
        (message(b'E', b"VERROR\0C42704\0Mno publication\0\0"), Kind::Refused, "no publication"),
        (message(b'c', b""), Kind::Transient, "when it shuts down"),
        (message(b'C', b"COPY 0\0"), Kind::Transient, "when it shuts down"),
        (message(b'd', b"w too short"), Kind::Transient, "broke the protocol"),
        (message(b'd', b""), Kind::Transient, "broke the protocol"),
        (message(b'?', b""), Kind::Transient, "broke the protocol"),
        (b"d\x7F\xFF\xFF\xFF".to_vec(), Kind::Transient, "beyond what Postgres can send"),
        (b"d\0\0\0\x03".to_vec(), Kind::Transient, "beyond what Postgres can send"),
    ];
    for (end, kind, words) in cases {
        let (mut stream, mut server) = pair();
        let bytes = [message(b'N', notice), keepalive(5, true), data(6, b"x"), end].concat();
        server.write_all(&bytes).await.unwrap();
        let (seen, error) = drain(&mut stream).await;
        assert_eq!(seen, [(5, vec![1]), (6, b"x".to_vec())]);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(stream.next().unwrap_err().to_string().contains(words));
        assert!(stream.fill().await.unwrap_err().to_string().contains(words));
        let lsn = Lsn(1);
        assert!(stream.send_status(lsn, lsn, lsn, false).await.unwrap_err().to_string().contains(words));
    }
}

#[tokio::test]
async fn a_status_is_written_as_the_protocol_says() {
    let (mut stream, mut server) = pair();
    stream.send_status(Lsn(3), Lsn(2), Lsn(1), true).await.unwrap();
    let mut bytes = [0; 39];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..6], [b'd', 0, 0, 0, 38, b'r']);
    assert_eq!(bytes[6..30], [3u64, 2, 1].map(u64::to_be_bytes).concat());
    let clock = i64::from_be_bytes(bytes[30..38].try_into().unwrap());
    // Between 2020 and 2100.
    assert!((631_152_000_000_000..3_155_760_000_000_000).contains(&clock), "{clock}");
    assert_eq!(bytes[38], 1);
    let finishing = stream.finish();
    let reading = async {
        let mut farewell = [0; 10];
        server.read_exact(&mut farewell).await.unwrap();
        assert_eq!(&farewell, b"c\0\0\0\x04X\0\0\0\x04");
        drop(server);
    };
    tokio::join!(finishing, reading);
}

#[tokio::test]
async fn a_status_cut_short_is_finished_first() {
    let (mut stream, mut server) = pair();
    let lsn = Lsn(9);
    let mut count = 0;
    // Fills the socket, then drops the call that cannot go on.
    let short = std::time::Duration::from_millis(50);
    while tokio::time::timeout(short, stream.send_status(lsn, lsn, lsn, false)).await.is_ok() {
        count += 1;
    }
    let reading = async {
        let mut bytes = vec![0; (count + 2) * 39];
        server.read_exact(&mut bytes).await.unwrap();
        assert!(bytes.chunks(39).all(|status| status[..6] == [b'd', 0, 0, 0, 38, b'r']));
    };
    let (sent, ()) = tokio::join!(stream.send_status(lsn, lsn, lsn, true), reading);
    sent.unwrap();
}

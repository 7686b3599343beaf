//! Messages as the documentation draws them, and what happens when bytes are changed.

use proptest::prelude::*;
use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::schema::Identity;

use super::{Malformed, Message, Within, decode, decode_within};

const EPOCH: i64 = 946_684_800_000_000;

fn text(value: &str) -> Vec<u8> {
    let mut bytes = vec![b't'];
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

fn tuple(values: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    values.iter().for_each(|value| bytes.extend_from_slice(value));
    bytes
}

fn begin() -> Vec<u8> {
    [&b"B"[..], &0x1234_u64.to_be_bytes(), &5_i64.to_be_bytes(), &77_u32.to_be_bytes()].concat()
}

fn commit() -> Vec<u8> {
    [&b"C\0"[..], &0x1234_u64.to_be_bytes(), &0x1300_u64.to_be_bytes(), &5_i64.to_be_bytes()].concat()
}

fn relation() -> Vec<u8> {
    let mut bytes =
        [&b"R"[..], &16_400_u32.to_be_bytes(), b"public\0orders\0d", &2_u16.to_be_bytes()].concat();
    for (flag, name, oid, typmod) in [(1_u8, "id", 20_u32, -1_i32), (0, "price", 1700, 655_366)] {
        bytes.push(flag);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&oid.to_be_bytes());
        bytes.extend_from_slice(&typmod.to_be_bytes());
    }
    bytes
}

fn insert() -> Vec<u8> {
    [&b"I"[..], &16_400_u32.to_be_bytes(), b"N", &tuple(&[text("1"), vec![b'n']])].concat()
}

fn update(old: Option<u8>) -> Vec<u8> {
    let mut bytes = [&b"U"[..], &16_400_u32.to_be_bytes()].concat();
    if let Some(tag) = old {
        bytes.push(tag);
        bytes.extend_from_slice(&tuple(&[text("1"), vec![b'n']]));
    }
    bytes.push(b'N');
    bytes.extend_from_slice(&tuple(&[text("2"), vec![b'u']]));
    bytes
}

fn delete() -> Vec<u8> {
    [&b"D"[..], &16_400_u32.to_be_bytes(), b"O", &tuple(&[text("1"), text("9.50")])].concat()
}

fn truncate() -> Vec<u8> {
    [&b"T"[..], &2_u32.to_be_bytes(), &[3], &16_400_u32.to_be_bytes(), &16_410_u32.to_be_bytes()].concat()
}

fn logical() -> Vec<u8> {
    [&b"M\x01"[..], &0x99_u64.to_be_bytes(), b"rowcast.event.a\0", &2_u32.to_be_bytes(), b"{}"].concat()
}

fn origin() -> Vec<u8> {
    [&b"O"[..], &1_u64.to_be_bytes(), b"elsewhere\0"].concat()
}

fn ty() -> Vec<u8> {
    [&b"Y"[..], &16_500_u32.to_be_bytes(), b"public\0mood\0"].concat()
}

fn all() -> Vec<Vec<u8>> {
    vec![
        begin(),
        commit(),
        relation(),
        insert(),
        update(None),
        update(Some(b'K')),
        update(Some(b'O')),
        delete(),
        truncate(),
        logical(),
        origin(),
        ty(),
        stream_start(),
        stream_commit(),
        stream_abort(),
    ]
}

fn stream_start() -> Vec<u8> {
    [&b"S"[..], &77_u32.to_be_bytes(), b"\x01"].concat()
}

fn stream_commit() -> Vec<u8> {
    let commit = commit();
    [&b"c"[..], &77_u32.to_be_bytes(), &commit[1..]].concat()
}

fn stream_abort() -> Vec<u8> {
    [&b"A"[..], &77_u32.to_be_bytes(), &79_u32.to_be_bytes()].concat()
}

/// The same message between `S` and `E`, of subtransaction 79.
fn within(message: &[u8]) -> Vec<u8> {
    [&message[..1], &79_u32.to_be_bytes(), &message[1..]].concat()
}

#[test]
fn open_transactions() {
    let committed = EPOCH + 5;
    assert_eq!(decode(&stream_start()), Ok(Message::StreamStart { xid: 77, first: true }));
    assert_eq!(decode(b"E"), Ok(Message::StreamStop));
    assert_eq!(decode_within(b"E"), Ok(Within { xid: 0, message: Message::StreamStop }));
    let whole = Message::StreamCommit { xid: 77, commit_lsn: Lsn(0x1234), end_lsn: Lsn(0x1300), committed };
    assert_eq!(decode(&stream_commit()), Ok(whole));
    assert_eq!(decode(&stream_abort()), Ok(Message::StreamAbort { xid: 77, subxid: 79 }));
    for message in [relation(), insert(), update(Some(b'K')), delete(), truncate(), logical(), ty()] {
        let same = decode(&message).unwrap();
        assert_eq!(decode_within(&within(&message)), Ok(Within { xid: 79, message: same }));
    }
    assert_eq!(decode_within(&origin()).unwrap().xid, 0);
    for message in [begin(), commit(), stream_start(), stream_commit(), stream_abort()] {
        assert!(decode_within(&message).is_err());
    }
}

#[test]
fn the_ends_of_a_transaction() {
    assert_eq!(
        decode(&begin()),
        Ok(Message::Begin { final_lsn: Lsn(0x1234), committed: EPOCH + 5, xid: 77 })
    );
    let committed = EPOCH + 5;
    assert_eq!(
        decode(&commit()),
        Ok(Message::Commit { commit_lsn: Lsn(0x1234), end_lsn: Lsn(0x1300), committed })
    );
    assert_eq!(decode(&origin()), Ok(Message::Origin { name: b"elsewhere" }));
    assert_eq!(decode(&ty()), Ok(Message::Type));
}

#[test]
fn a_relation_and_its_columns() {
    let bytes = relation();
    let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("no relation") };
    assert_eq!((relation.id, relation.schema, relation.table), (16_400, "public", "orders"));
    assert_eq!((relation.identity, relation.width()), (Identity::Default, 2));
    let columns: Vec<_> = relation.columns().map(|c| (c.identity, c.name, c.type_oid, c.typmod)).collect();
    assert_eq!(columns, [(true, "id", 20, -1), (false, "price", 1700, 655_366)]);
}

#[test]
fn the_catalog_schema_comes_empty() {
    let bytes = [&b"R"[..], &1_u32.to_be_bytes(), b"\0pg_x\0n", &0_u16.to_be_bytes()].concat();
    let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("no relation") };
    assert_eq!(relation.schema, "pg_catalog");
}

#[test]
fn changes_keep_their_bytes() {
    for (bytes, op) in [
        (insert(), Op::Insert),
        (update(None), Op::Update),
        (update(Some(b'K')), Op::Update),
        (update(Some(b'O')), Op::Update),
        (delete(), Op::Delete),
    ] {
        let Ok(Message::Change(change)) = decode(&bytes) else { panic!("no change") };
        assert_eq!((change.op, change.relation, change.columns), (op, 16_400, 2));
        assert_eq!(change.raw, &bytes[5..]);
    }
}

#[test]
fn truncates_and_messages() {
    let bytes = truncate();
    let Ok(Message::Truncate { relations, cascade, restart_identity }) = decode(&bytes) else {
        panic!("no truncate")
    };
    assert_eq!(relations.iter().collect::<Vec<_>>(), [16_400, 16_410]);
    assert!(cascade && restart_identity);
    let expected =
        Message::Logical { transactional: true, lsn: Lsn(0x99), prefix: b"rowcast.event.a", content: b"{}" };
    assert_eq!(decode(&logical()), Ok(expected));
}

/// A database without encoding sends what is in it, and every role may send a message.
#[test]
fn names_that_nobody_is_known_by_may_be_any_bytes() {
    let message = [&b"M\0"[..], &7_u64.to_be_bytes(), b"\xe4\0", &0_u32.to_be_bytes()].concat();
    let expected = Message::Logical { transactional: false, lsn: Lsn(7), prefix: b"\xe4", content: b"" };
    assert_eq!(decode(&message), Ok(expected));
    let origin = [&b"O"[..], &7_u64.to_be_bytes(), b"\xe4\0"].concat();
    assert_eq!(decode(&origin), Ok(Message::Origin { name: b"\xe4" }));
    assert_eq!(decode(&[&b"Y"[..], &7_u32.to_be_bytes(), b"\xe4\0\xf6\0"].concat()), Ok(Message::Type));
    // A table has to be one that can be named.
    let table = [&b"R"[..], &7_u32.to_be_bytes(), b"public\0\xe4\0d", &0_u16.to_be_bytes()].concat();
    assert!(decode(&table).is_err());
}

#[test]
fn unknown_tags_are_named() {
    // Prepared transactions are sent when they commit: nobody asks for more.
    let error = decode(b"P\0\0\0\0").unwrap_err();
    assert_eq!(error, Malformed::UnknownTag(b'P'));
    assert_eq!(error.to_string(), "unknown message tag \"P\" (byte 0x50)");
    assert_eq!(decode_within(b"P\0\0\0\0"), Err(Malformed::UnknownTag(b'P')));
    assert_eq!(decode(b""), Err(Malformed::Empty));
}

#[test]
fn every_cut_and_every_tail_is_refused() {
    for message in all() {
        for length in 1..message.len() {
            assert!(decode(&message[..length]).is_err(), "{:?} cut at {length}", char::from(message[0]));
        }
        let longer = [&message[..], b"x"].concat();
        assert!(decode(&longer).is_err(), "{:?} with a tail", char::from(message[0]));
    }
}

proptest! {
    #[test]
    fn changed_messages_never_panic(
        which in 0..15_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = all().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for length in [bytes.len(), cut.index(bytes.len())] {
            read_all(&bytes[..length]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }
}

/// Decodes and looks at everything that is behind the message.
fn read_all(bytes: &[u8]) {
    look(bytes, &decode(bytes));
    look(bytes, &decode_within(bytes).map(|within| within.message));
}

fn look(bytes: &[u8], message: &Result<Message<'_>, Malformed>) {
    match message {
        Ok(Message::Relation(relation)) => {
            assert_eq!(relation.columns().count(), usize::from(relation.width()));
        }
        Ok(Message::Truncate { relations, .. }) => assert!(relations.iter().count() * 4 <= bytes.len()),
        Ok(Message::Change(change)) => assert!(change.raw.len() < bytes.len()),
        Ok(_) | Err(_) => {}
    }
}

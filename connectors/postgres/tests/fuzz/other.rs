//! Another decoder of pgoutput, written by others, and whether it reads the same.

use pg_walstream::{
    LogicalReplicationMessage as Theirs, LogicalReplicationParser, StreamingReplicationMessage, TupleData,
    encode_streaming_message_to_bytes,
};
use rowcast_engine::record::{Tuple, Value};
use rowcast_engine::schema::Identity;
use rowcast_postgres::pgoutput::{Change, Malformed, Message, Relation, Within, decode, decode_within};

/// Both know these: transactions come whole; they come in pieces.
const WHOLE: u8 = 1;
const PIECES: u8 = 2;

/// Microseconds from 1970 to 2000.
const EPOCH: i64 = 946_684_800_000_000;

/// Tags of later versions of the protocol, which the other one reads in any.
const LATER: &[u8] = b"bPKrp";

/// Tags that never stand in a piece of a transaction; the other one reads them anywhere.
const BETWEEN: &[u8] = b"BCScA";

/// Decodes with both. Gives whether the bytes are a message.
///
/// # Errors
///
/// What each of them reads, when it is not the same: then one of them is wrong.
pub(crate) fn compare(bytes: &[u8]) -> Result<bool, String> {
    let ours = decode(bytes).map(|message| Within { xid: 0, message });
    judge(bytes, ours, &mut LogicalReplicationParser::with_protocol_version(WHOLE.into()), WHOLE)
}

/// The same of a message in a piece of a transaction that has not committed.
///
/// # Errors
///
/// As for [`compare`].
pub(crate) fn compare_within(bytes: &[u8]) -> Result<bool, String> {
    let ours = decode_within(bytes);
    if bytes.first().is_some_and(|tag| BETWEEN.contains(tag)) {
        return ours.map_or(Ok(false), |ours| Err(format!("in a piece: {ours:?}")));
    }
    let mut parser = LogicalReplicationParser::with_protocol_version(PIECES.into());
    parser.parse_wal_message(b"S\0\0\0\x07\x01").map_err(|error| error.to_string())?;
    judge(bytes, ours, &mut parser, PIECES)
}

fn judge(
    bytes: &[u8],
    ours: Result<Within<'_>, Malformed>,
    parser: &mut LogicalReplicationParser,
    protocol: u8,
) -> Result<bool, String> {
    let theirs = parser.parse_wal_message(bytes);
    let read = |theirs: &StreamingReplicationMessage| encode_streaming_message_to_bytes(theirs, protocol);
    let (ours, agree) = match (ours, &theirs) {
        (Ok(ours), Ok(theirs)) => {
            (format!("{ours:?}"), ours.xid == xid(theirs) && same(&ours.message, &theirs.message))
        }
        (Ok(ours), Err(_)) if is_no_text(&ours.message, bytes, protocol) => return Ok(false),
        (Ok(ours), Err(_)) => (format!("{ours:?}"), false),
        (Err(_), Err(_)) => return Ok(false),
        (Err(malformed), Ok(theirs)) if is_stricter(&malformed, bytes, &theirs.message, &read(theirs)) => {
            return Ok(false);
        }
        (Err(malformed), Ok(_)) => (malformed.to_string(), false),
    };
    if agree { Ok(true) } else { Err(format!("ours: {ours}\ntheirs: {theirs:?}\nof {bytes:02X?}")) }
}

/// The subtransaction that a message names. The other one gives the transaction's number to those that name none.
fn xid(theirs: &StreamingReplicationMessage) -> u32 {
    match theirs.message {
        Theirs::Origin { .. } | Theirs::StreamStart { .. } | Theirs::StreamStop => 0,
        _ => theirs.xid.unwrap_or(0),
    }
}

/// Whether it has a name in bytes that are no text, which a database without encoding sends, and only we let pass.
fn is_no_text(ours: &Message<'_>, bytes: &[u8], protocol: u8) -> bool {
    let name = match ours {
        Message::Origin { name } => name,
        Message::Logical { prefix, .. } => prefix,
        // Behind its tag and OID, and the number of the subtransaction.
        Message::Type => &bytes[if protocol == WHOLE { 5 } else { 9 }..],
        _ => return false,
    };
    std::str::from_utf8(name).is_err()
}

/// Whether we refuse with reason what the other one lets pass; `read` is what it has read.
fn is_stricter(malformed: &Malformed, bytes: &[u8], theirs: &Theirs, read: &[u8]) -> bool {
    match malformed {
        Malformed::UnknownTag(tag) => LATER.contains(tag),
        // Flags, and values in binary form, which are never asked for.
        Malformed::UnknownByte { byte, .. } => bytes.contains(byte),
        // What it has read is not all that was there.
        Malformed::Body { what: "it is longer than it says", .. } => {
            read.len() < bytes.len() && bytes.starts_with(read)
        }
        Malformed::Body { what: "it holds no old row", .. } => {
            matches!(theirs, Theirs::Delete { key_type, .. } if !matches!(key_type, 'K' | 'O'))
        }
        Malformed::Body { .. } | Malformed::Empty => false,
    }
}

fn same(ours: &Message<'_>, theirs: &Theirs) -> bool {
    match (ours, theirs) {
        (
            Message::Begin { final_lsn, committed, xid },
            Theirs::Begin { final_lsn: at, timestamp, xid: id },
        ) => (final_lsn.0, *committed, xid) == (*at, moved(*timestamp), id),
        (
            Message::Commit { commit_lsn, end_lsn, committed },
            Theirs::Commit { flags: 0, commit_lsn: at, end_lsn: end, timestamp },
        ) => (commit_lsn.0, end_lsn.0, *committed) == (*at, *end, moved(*timestamp)),
        (Message::Origin { name }, Theirs::Origin { origin_name, .. }) => *name == origin_name.as_bytes(),
        (Message::Type, Theirs::Type { .. }) => true,
        (
            Message::Truncate { relations, cascade, restart_identity },
            Theirs::Truncate { relation_ids, flags },
        ) => {
            let options = u8::from(*cascade) | u8::from(*restart_identity) << 1;
            relations.iter().eq(relation_ids.iter().copied()) && options == *flags
        }
        (
            Message::Logical { transactional, lsn, prefix, content },
            Theirs::Message { flags, lsn: at, prefix: before, content: says },
        ) => {
            let (of, as_bytes) = ((u8::from(*transactional), lsn.0), before.as_bytes());
            (of, *prefix, *content) == ((*flags, *at), as_bytes, &says[..])
        }
        (Message::StreamStart { xid, first }, Theirs::StreamStart { xid: id, first_segment }) => {
            (xid, first) == (id, first_segment)
        }
        (Message::StreamStop, Theirs::StreamStop) => true,
        (
            Message::StreamCommit { xid, commit_lsn, end_lsn, committed },
            Theirs::StreamCommit { xid: id, flags: 0, commit_lsn: at, end_lsn: end, timestamp },
        ) => (xid, commit_lsn.0, end_lsn.0, *committed) == (id, *at, *end, moved(*timestamp)),
        (Message::StreamAbort { xid, subxid }, Theirs::StreamAbort { xid: id, subtransaction_xid, .. }) => {
            (xid, subxid) == (id, subtransaction_xid)
        }
        (Message::Relation(ours), theirs) => same_relation(ours, theirs),
        (Message::Change(ours), theirs) => same_change(ours, theirs),
        _ => false,
    }
}

fn moved(timestamp: i64) -> i64 {
    timestamp.saturating_add(EPOCH)
}

fn same_relation(ours: &Relation<'_>, theirs: &Theirs) -> bool {
    let Theirs::Relation { relation_id, namespace, relation_name, replica_identity, columns } = theirs else {
        return false;
    };
    let schema = if namespace.is_empty() { "pg_catalog" } else { namespace };
    let identity = match ours.identity {
        Identity::Default => b'd',
        Identity::Nothing => b'n',
        Identity::Full => b'f',
        Identity::Index => b'i',
    };
    let ours_read = ours.columns().map(|c| (u8::from(c.identity), c.name, c.type_oid, c.typmod));
    let theirs_read = columns.iter().map(|c| (c.flags, &c.name[..], c.type_id, c.type_modifier));
    (ours.id, ours.schema, ours.table, identity)
        == (*relation_id, schema, &relation_name[..], *replica_identity)
        && ours_read.eq(theirs_read)
}

/// Ours keeps the rows as they came; they are what the journal's readers look at.
fn same_change(ours: &Change<'_>, theirs: &Theirs) -> bool {
    let tuples = rows(ours.raw);
    let widest = tuples.iter().map(|(_, tuple)| tuple.len()).max();
    let (relation, expected): (u32, Vec<(char, &TupleData)>) = match theirs {
        Theirs::Insert { relation_id, tuple } => (*relation_id, vec![('N', tuple)]),
        Theirs::Update { relation_id, old_tuple, new_tuple, key_type } => {
            let old = key_type.zip(old_tuple.as_ref());
            (*relation_id, old.into_iter().chain([('N', new_tuple)]).collect())
        }
        Theirs::Delete { relation_id, old_tuple, key_type } => (*relation_id, vec![(*key_type, old_tuple)]),
        _ => return false,
    };
    let equal = |(ours, theirs): (&(char, Tuple<'_>), &(char, &TupleData))| {
        ours.0 == theirs.0 && same_row(ours.1, theirs.1)
    };
    ours.relation == relation
        && Some(usize::from(ours.columns)) == widest
        && tuples.len() == expected.len()
        && tuples.iter().zip(&expected).all(equal)
}

fn rows(mut raw: &[u8]) -> Vec<(char, Tuple<'_>)> {
    let mut found = Vec::new();
    while let Some((tag, rest)) = raw.split_first() {
        let Some((tuple, rest)) = Tuple::split(rest) else { break };
        found.push((char::from(*tag), tuple));
        raw = rest;
    }
    found
}

fn same_row(ours: Tuple<'_>, theirs: &TupleData) -> bool {
    let equal = |(value, column): (Value<'_>, &pg_walstream::ColumnData)| match value {
        Value::Null => column.is_null(),
        Value::Unchanged => column.is_unchanged(),
        Value::Text(text) => column.is_text() && column.as_bytes() == text,
    };
    ours.len() == theirs.column_count() && ours.values().zip(&theirs.columns).all(equal)
}

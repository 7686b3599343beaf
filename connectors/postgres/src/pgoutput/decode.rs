//! From bytes to messages.

use rowcast_engine::event::Op;
use rowcast_engine::record::Tuple;
use rowcast_engine::schema::Identity;

use super::cursor::{Cursor, Malformed};
use super::{Change, Message, Relation, RelationColumn, RelationIds, Within};

const TRUNCATE_CASCADE: u8 = 1;
const TRUNCATE_RESTART_IDENTITY: u8 = 2;
const COLUMN_IDENTITY: u8 = 1;

/// Reads one message.
///
/// # Errors
///
/// When the bytes are no message of protocol versions 1 and 2; the stream cannot go on after that.
pub fn decode(body: &[u8]) -> Result<Message<'_>, Malformed> {
    let (tag, rest) = body.split_first().ok_or(Malformed::Empty)?;
    message(Cursor::new(*tag, rest), *tag)
}

/// Reads one message between `S` and `E`, where changes and descriptions say to which subtransaction they belong.
///
/// # Errors
///
/// When the bytes are no message that may stand there; the stream cannot go on after that.
pub fn decode_within(body: &[u8]) -> Result<Within<'_>, Malformed> {
    let (tag, rest) = body.split_first().ok_or(Malformed::Empty)?;
    let mut cursor = Cursor::new(*tag, rest);
    let xid = match tag {
        b'I' | b'U' | b'D' | b'T' | b'M' | b'R' | b'Y' => cursor.u32()?,
        b'O' | b'E' => 0,
        b'B' | b'C' | b'S' | b'c' | b'A' => return Err(cursor.bad("it stands within another transaction")),
        unknown => return Err(Malformed::UnknownTag(*unknown)),
    };
    message(cursor, *tag).map(|message| Within { xid, message })
}

fn message(mut cursor: Cursor<'_>, tag: u8) -> Result<Message<'_>, Malformed> {
    match tag {
        b'I' => insert(cursor).map(Message::Change),
        b'U' => update(cursor).map(Message::Change),
        b'D' => delete(cursor).map(Message::Change),
        b'B' => {
            let (final_lsn, committed, xid) = (cursor.lsn()?, cursor.time()?, cursor.u32()?);
            cursor.done().map(|()| Message::Begin { final_lsn, committed, xid })
        }
        b'C' => {
            let flags = cursor.u8()?;
            if flags != 0 {
                return Err(cursor.unknown("its flags are unknown", flags));
            }
            let (commit_lsn, end_lsn, committed) = (cursor.lsn()?, cursor.lsn()?, cursor.time()?);
            cursor.done().map(|()| Message::Commit { commit_lsn, end_lsn, committed })
        }
        b'R' => relation(cursor).map(Message::Relation),
        b'Y' => {
            cursor.u32()?;
            cursor.zero_ended()?;
            cursor.zero_ended()?;
            cursor.done().map(|()| Message::Type)
        }
        b'O' => {
            cursor.lsn()?;
            let name = cursor.zero_ended()?;
            cursor.done().map(|()| Message::Origin { name })
        }
        b'T' => truncate(cursor),
        b'M' => logical(cursor),
        b'S' => {
            let (xid, first) = (cursor.u32()?, cursor.u8()?);
            if first > 1 {
                return Err(cursor.unknown("its flags are unknown", first));
            }
            cursor.done().map(|()| Message::StreamStart { xid, first: first == 1 })
        }
        b'E' => cursor.done().map(|()| Message::StreamStop),
        b'c' => stream_commit(cursor),
        b'A' => {
            let (xid, subxid) = (cursor.u32()?, cursor.u32()?);
            cursor.done().map(|()| Message::StreamAbort { xid, subxid })
        }
        unknown => Err(Malformed::UnknownTag(unknown)),
    }
}

fn stream_commit(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let (xid, flags) = (cursor.u32()?, cursor.u8()?);
    if flags != 0 {
        return Err(cursor.unknown("its flags are unknown", flags));
    }
    let (commit_lsn, end_lsn, committed) = (cursor.lsn()?, cursor.lsn()?, cursor.time()?);
    cursor.done().map(|()| Message::StreamCommit { xid, commit_lsn, end_lsn, committed })
}

/// Takes a tuple off; gives how many columns it has.
fn tuple(cursor: &mut Cursor<'_>) -> Result<u16, Malformed> {
    let Some((tuple, rest)) = Tuple::split(cursor.rest) else {
        return Err(no_tuple(*cursor));
    };
    cursor.rest = rest;
    u16::try_from(tuple.len()).map_err(|_| cursor.bad("a row has too many columns"))
}

/// What keeps the bytes from being a tuple.
#[cold]
fn no_tuple(mut cursor: Cursor<'_>) -> Malformed {
    let mut scan = || {
        for _ in 0..cursor.u16()? {
            match cursor.u8()? {
                b'n' | b'u' => {}
                b't' => {
                    let length = cursor.u32()? as usize;
                    cursor.bytes(length)?;
                }
                kind => return Err(cursor.unknown("a value is of unknown kind", kind)),
            }
        }
        Ok(())
    };
    let found = scan();
    found.err().unwrap_or_else(|| cursor.bad("a row is cut"))
}

fn insert(mut cursor: Cursor<'_>) -> Result<Change<'_>, Malformed> {
    let relation = cursor.u32()?;
    let raw = cursor.rest;
    if cursor.u8()? != b'N' {
        return Err(cursor.bad("it holds no new row"));
    }
    let columns = tuple(&mut cursor)?;
    cursor.done().map(|()| Change { op: Op::Insert, relation, raw, columns })
}

fn update(mut cursor: Cursor<'_>) -> Result<Change<'_>, Malformed> {
    let relation = cursor.u32()?;
    let raw = cursor.rest;
    let mut columns = 0;
    let mut tag = cursor.u8()?;
    if matches!(tag, b'K' | b'O') {
        columns = tuple(&mut cursor)?;
        tag = cursor.u8()?;
    }
    if tag != b'N' {
        return Err(cursor.bad("it holds no new row"));
    }
    columns = columns.max(tuple(&mut cursor)?);
    cursor.done().map(|()| Change { op: Op::Update, relation, raw, columns })
}

fn delete(mut cursor: Cursor<'_>) -> Result<Change<'_>, Malformed> {
    let relation = cursor.u32()?;
    let raw = cursor.rest;
    if !matches!(cursor.u8()?, b'K' | b'O') {
        return Err(cursor.bad("it holds no old row"));
    }
    let columns = tuple(&mut cursor)?;
    cursor.done().map(|()| Change { op: Op::Delete, relation, raw, columns })
}

fn relation(mut cursor: Cursor<'_>) -> Result<Relation<'_>, Malformed> {
    let id = cursor.u32()?;
    let (schema, table) = (cursor.string()?, cursor.string()?);
    let identity = match cursor.u8()? {
        b'd' => Identity::Default,
        b'n' => Identity::Nothing,
        b'f' => Identity::Full,
        b'i' => Identity::Index,
        other => return Err(cursor.unknown("its replica identity is unknown", other)),
    };
    let columns = cursor.u16()?;
    let body = cursor.rest;
    for _ in 0..columns {
        column(&mut cursor)?;
    }
    let schema = if schema.is_empty() { "pg_catalog" } else { schema };
    cursor.done().map(|()| Relation { id, schema, table, identity, columns, body })
}

fn column<'a>(cursor: &mut Cursor<'a>) -> Result<RelationColumn<'a>, Malformed> {
    let flags = cursor.u8()?;
    if flags & !COLUMN_IDENTITY != 0 {
        return Err(cursor.unknown("a column's flags are unknown", flags));
    }
    let name = cursor.string()?;
    let (type_oid, typmod) = (cursor.u32()?, cursor.i32()?);
    Ok(RelationColumn { identity: flags & COLUMN_IDENTITY != 0, name, type_oid, typmod })
}

/// The columns of a Relation whose shape has been checked.
pub(super) fn columns(body: &[u8]) -> impl Iterator<Item = RelationColumn<'_>> {
    let mut cursor = Cursor::new(b'R', body);
    std::iter::from_fn(move || column(&mut cursor).ok())
}

fn truncate(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let count = cursor.u32()? as usize;
    let flags = cursor.u8()?;
    if flags & !(TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY) != 0 {
        return Err(cursor.unknown("its options are unknown", flags));
    }
    let length = count.checked_mul(4).ok_or_else(|| cursor.bad("it names too many tables"))?;
    let relations = RelationIds(cursor.bytes(length)?);
    cursor.done()?;
    Ok(Message::Truncate {
        relations,
        cascade: flags & TRUNCATE_CASCADE != 0,
        restart_identity: flags & TRUNCATE_RESTART_IDENTITY != 0,
    })
}

fn logical(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let flags = cursor.u8()?;
    if flags > 1 {
        return Err(cursor.unknown("its flags are unknown", flags));
    }
    let lsn = cursor.lsn()?;
    let prefix = cursor.zero_ended()?;
    let length = cursor.u32()? as usize;
    let content = cursor.bytes(length)?;
    cursor.done().map(|()| Message::Logical { transactional: flags == 1, lsn, prefix, content })
}

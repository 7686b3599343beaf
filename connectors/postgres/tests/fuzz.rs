//! pgoutput from bytes that a server would send, and from bytes that none would: no panic, nothing read or kept that
//! is not in the message, no memory taken, and the same understood as by another decoder.

mod encoder;
mod mutate;
pub(crate) mod other;

use rowcast_postgres::pgoutput::{Malformed, Message, decode, decode_within};

use crate::campaign::{Outcome, guard, run};
use crate::random::Random;

/// Messages a seed.
const MESSAGES: u64 = 400;

/// Each is changed so many times, from what it was made of.
const CHANGES: u64 = 4;

/// Where messages stand, and who reads them there.
struct Place {
    message: fn(&mut Random) -> Vec<u8>,
    decode: for<'a> fn(&'a [u8]) -> Result<Message<'a>, Malformed>,
    compare: fn(&[u8]) -> Result<bool, String>,
}

/// Transactions that come whole, and what stands around the pieces of others.
const WHOLE: Place = Place { message: encoder::message, decode, compare: other::compare };

/// In a piece of a transaction that has not committed.
const WITHIN: Place =
    Place { message: encoder::within, decode: message_within, compare: other::compare_within };

fn message_within(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    decode_within(bytes).map(|within| within.message)
}

#[test]
fn messages_of_pgoutput_are_understood_as_by_another_decoder() {
    run(60, 1, |seed| valid_and_changed(seed, &WHOLE));
}

#[test]
fn messages_within_open_transactions_are_understood_as_by_another_decoder() {
    run(60, 1, |seed| valid_and_changed(seed, &WITHIN));
}

fn valid_and_changed(seed: u64, place: &Place) -> Outcome {
    let mut random = Random::new(seed);
    let last = std::cell::RefCell::new(Vec::new());
    let work = || {
        let mut before = (place.message)(&mut random);
        for _ in 0..MESSAGES {
            let message = (place.message)(&mut random);
            last.borrow_mut().clone_from(&message);
            look(&message, place);
            assert_eq!((place.compare)(&message), Ok(true), "a sound message");
            for _ in 0..CHANGES {
                let mut changed = message.clone();
                mutate::change(&mut changed, &before, &mut random);
                last.borrow_mut().clone_from(&changed);
                look(&changed, place);
                if let Err(difference) = (place.compare)(&changed) {
                    panic!("{difference}");
                }
            }
            before = message;
        }
        MESSAGES * (1 + CHANGES)
    };
    guard(seed, work, || format!("{:02X?}", last.borrow()))
}

/// Decodes and looks at all that a message shows. It lies within the bytes, and nothing was allocated for it: what a
/// message says of its own size is never believed.
fn look(bytes: &[u8], place: &Place) {
    let allocated = allocation_counter::measure(|| match (place.decode)(bytes) {
        Ok(Message::Relation(relation)) => {
            within(bytes, relation.table.as_bytes());
            // Empty, it has another name, which is no part of the message.
            if relation.schema != "pg_catalog" {
                within(bytes, relation.schema.as_bytes());
            }
            let columns = relation.columns().inspect(|column| within(bytes, column.name.as_bytes())).count();
            assert!(columns == usize::from(relation.width()) && columns * 10 <= bytes.len());
        }
        Ok(Message::Truncate { relations, .. }) => assert!(relations.iter().count() * 4 < bytes.len()),
        Ok(Message::Change(change)) => {
            within(bytes, change.raw);
            assert!(usize::from(change.columns) < bytes.len());
        }
        Ok(Message::Logical { prefix, content, .. }) => {
            within(bytes, prefix);
            within(bytes, content);
        }
        Ok(Message::Origin { name }) => within(bytes, name),
        Ok(
            Message::Begin { .. }
            | Message::Commit { .. }
            | Message::Type
            | Message::StreamStart { .. }
            | Message::StreamStop
            | Message::StreamCommit { .. }
            | Message::StreamAbort { .. },
        )
        | Err(_) => {}
    });
    assert_eq!(allocated.bytes_total, 0, "{bytes:02X?}");
}

fn within(bytes: &[u8], part: &[u8]) {
    let (whole, part) = (bytes.as_ptr_range(), part.as_ptr_range());
    assert!(whole.start <= part.start && part.end <= whole.end);
}

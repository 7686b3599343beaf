//! pgoutput from bytes that a server would send, and from bytes that none would: no panic, nothing read or kept that
//! is not in the message, no memory taken, and the same understood as by another decoder.

mod encoder;
mod mutate;
pub(crate) mod other;

use rowcast_postgres::pgoutput::{Message, decode};

use crate::campaign::{Outcome, guard, run};
use crate::random::Random;

/// Messages a seed.
const MESSAGES: u64 = 400;

/// Each is changed so many times, from what it was made of.
const CHANGES: u64 = 4;

#[test]
fn messages_of_pgoutput_are_understood_as_by_another_decoder() {
    run(60, valid_and_changed);
}

fn valid_and_changed(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let last = std::cell::RefCell::new(Vec::new());
    let work = || {
        let mut before = encoder::message(&mut random);
        for _ in 0..MESSAGES {
            let message = encoder::message(&mut random);
            last.borrow_mut().clone_from(&message);
            look(&message);
            assert_eq!(other::compare(&message), Ok(true), "a sound message");
            for _ in 0..CHANGES {
                let mut changed = message.clone();
                mutate::change(&mut changed, &before, &mut random);
                last.borrow_mut().clone_from(&changed);
                look(&changed);
                if let Err(difference) = other::compare(&changed) {
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
fn look(bytes: &[u8]) {
    let allocated = allocation_counter::measure(|| match decode(bytes) {
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
            within(bytes, prefix.as_bytes());
            within(bytes, content);
        }
        Ok(Message::Origin { name }) => within(bytes, name.as_bytes()),
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

//! What a rollback to a savepoint takes back.

use rowcast_engine::record::{Live, Recast};

use super::*;
use crate::pgoutput::{Message, decode};

const TOP: u32 = u32::MAX - 1;
/// Behind the top one, across the end of numbers.
const A: u32 = u32::MAX;
const B: u32 = 3;
const C: u32 = 4;

fn described() -> (Streamed, Relations) {
    let (mut open, mut others) = (Streamed::new(TOP), Relations::default());
    describe(&mut open, &mut others);
    (open, others)
}

fn describe(open: &mut Streamed, others: &mut Relations) -> bool {
    let message =
        [&b"R"[..], &7_u32.to_be_bytes(), b"public\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff"].concat();
    let Ok(Message::Relation(relation)) = decode(&message) else { panic!("no relation") };
    open.describe(&relation, &message, others, true)
}

/// Rows of these subtransactions, each with its own position.
fn rows(open: &mut Streamed, xids: &[u32]) {
    for xid in xids {
        let message = [&b"I"[..], &7_u32.to_be_bytes(), b"N\0\x01t\0\0\0\x01a"].concat();
        let Ok(Message::Change(change)) = decode(&message) else { panic!("no change") };
        let lsn = Lsn(u64::from(open.builder.open_events()));
        open.change(*xid, lsn, &change).unwrap();
    }
}

/// The positions of what stays.
fn stays(mut open: Streamed) -> Vec<u64> {
    let (live, recast) = (open.live(), open.recast(&Found::new()));
    let mut stays = Vec::new();
    for part in open.builder.take_open() {
        recast
            .live(&part, |live| match live {
                Live::Change { lsn, .. } | Live::Message { lsn, .. } => stays.push(lsn.0),
                other => panic!("{other:?}"),
            })
            .unwrap();
    }
    assert_eq!(live as usize, stays.len());
    stays
}

#[test]
fn all_since_its_first_event() {
    let (mut open, _) = described();
    rows(&mut open, &[TOP, A, A, B, A, C]);
    open.undo(B);
    rows(&mut open, &[A, TOP]);
    assert_eq!(stays(open), [0, 1, 2, 6, 7]);
}

#[test]
fn rollbacks_within_one_that_is_rolled_back() {
    let (mut open, _) = described();
    rows(&mut open, &[TOP, A, B]);
    open.undo(B);
    rows(&mut open, &[A, C, A]);
    open.undo(C);
    // As the server says it: the subtransactions first.
    open.undo(A);
    assert!(open.kept() > 0 && !open.is_unsure());
    rows(&mut open, &[TOP]);
    assert_eq!((open.dead.len(), &open.dead[0]), (1, &(1..6)));
    assert_eq!(stays(open), [0, 6]);
}

#[test]
fn one_whose_own_first_event_comes_behind_those_within_it() {
    let (mut open, _) = described();
    rows(&mut open, &[TOP, B, A, C]);
    // C and B were released: they go with A.
    for gone in [C, B, A] {
        open.undo(gone);
    }
    rows(&mut open, &[TOP]);
    assert_eq!(stays(open), [0, 4]);
}

#[test]
fn nothing_of_it_was_wanted() {
    let (mut open, _) = described();
    rows(&mut open, &[TOP]);
    open.undo(B);
    assert!(open.is_wanted() && !open.is_unsure());
    assert_eq!(stays(open), [0]);
}

/// The journal need not have it: what was made of that is a matter of the configuration of then.
#[test]
fn what_another_configuration_told_is_not_certain() {
    let (mut open, _) = described();
    open.gap("public.t", "new_table", "");
    open.uncertain_message("a.b", Lsn(9), b"1");
    assert!(open.live() == 2 && !open.is_wanted());
    rows(&mut open, &[TOP]);
    assert!(open.is_wanted());
}

#[test]
fn a_message_may_belong_to_it() {
    let message = |open: &mut Streamed| open.message("a.b", Lsn(9), b"1");
    let (mut open, _) = described();
    rows(&mut open, &[TOP]);
    message(&mut open);
    open.undo(A);
    assert!(open.is_unsure(), "sent before it, or by it");
    let (mut open, _) = described();
    message(&mut open);
    rows(&mut open, &[A]);
    open.undo(A);
    assert!(open.is_unsure());
    let (mut open, _) = described();
    message(&mut open);
    rows(&mut open, &[TOP, A]);
    message(&mut open);
    open.undo(A);
    assert!(!open.is_unsure(), "the first was certainly not, the second certainly was");
    assert_eq!(stays(open), [9, 1]);
}

#[test]
fn a_message_goes_with_what_was_certainly_rolled_back() {
    let message = |open: &mut Streamed| open.message("a.b", Lsn(9), b"1");
    let (mut open, _) = described();
    rows(&mut open, &[TOP, A]);
    message(&mut open);
    open.undo(C);
    assert!(open.is_unsure());
    rows(&mut open, &[A]);
    assert!(open.is_unsure(), "what comes later tells nothing");
    open.undo(A);
    assert!(!open.is_unsure(), "it was rolled back, by the one or the other");
    assert_eq!(stays(open), [0]);
    let (mut open, _) = described();
    message(&mut open);
    rows(&mut open, &[A]);
    open.undo(A);
    rows(&mut open, &[TOP, B]);
    open.undo(B);
    assert!(open.is_unsure(), "the first message is still in doubt");
}

#[test]
fn descriptions_go_with_the_one_that_has_made_them() {
    let (mut open, mut others) = (Streamed::new(TOP), Relations::default());
    assert!(describe(&mut open, &mut others), "the first one may be asked for");
    rows(&mut open, &[A]);
    open.undo(A);
    assert!(open.description(7).is_none() && !open.is_wanted());
    describe(&mut open, &mut others);
    rows(&mut open, &[TOP]);
    assert!(!describe(&mut open, &mut others), "the second time something has changed");
    let doubtful: Vec<SchemaId> = open.doubtful().iter().map(|doubtful| doubtful.schema).collect();
    assert_eq!(doubtful.len(), 2);
    assert!(doubtful.iter().all(|id| *id >= UNKNOWN));
    let recast = Recast { schemas: doubtful.iter().map(|id| (*id, Some(5))).collect(), ..Recast::default() };
    assert!(!recast.changes_nothing());
}

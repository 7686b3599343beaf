//! Transactions of chance over a few keys: for the model of the rules, and for the real reader beside a real server
//! (`tests/capture/snapshot/generated.rs`, which takes this file in).

use rand::Rng;
use rand::rngs::StdRng;

pub(crate) const KEYS: u8 = 5;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Insert(u8),
    /// The large value stays.
    Update(u8),
    Rewrite(u8),
    Delete(u8),
    /// The large value stays. Nothing where the second key is taken.
    Move(u8, u8),
    Truncate,
}

/// The keys that are there at the beginning.
pub(crate) fn initial(random: &mut StdRng) -> Vec<u8> {
    (0..KEYS).filter(|_| random.random()).collect()
}

/// What is done beside the reader, in transactions that may overlap.
pub(crate) fn transactions(random: &mut StdRng) -> Vec<Vec<Change>> {
    let count = random.random_range(2..8);
    (0..count).map(|_| (0..random.random_range(1..4)).map(|_| change(random)).collect()).collect()
}

fn change(random: &mut StdRng) -> Change {
    let key = random.random_range(0..KEYS);
    match random.random_range(0..12) {
        0..2 => Change::Insert(key),
        2..6 => Change::Update(key),
        6 => Change::Rewrite(key),
        7 => Change::Delete(key),
        8..11 => Change::Move(key, random.random_range(0..KEYS)),
        _ => Change::Truncate,
    }
}

//! The journal against a plain list: random lives of random steps, on a disk that fails and forgets.
//!
//! A seed gives the same life again, step by step (but for how far the thread has come that compresses): `ROWCAST_SEED=7 cargo test -p rowcast-engine model::`.

mod expect;
mod history;
mod steps;
mod units;
mod world;

use std::cell::RefCell;

use crate::campaign::{self, Outcome};
use world::World;

/// Lives of one seed, and steps of one life, at most.
const LIVES: u64 = 6;
const STEPS: u64 = 80;

/// Runs one seed; the error tells what was done and what was wrong.
fn run(seed: u64) -> Outcome {
    let world = RefCell::new(World::new(seed));
    let done = campaign::guard(seed, || live(&mut world.borrow_mut()), || world.borrow().last_steps());
    if done.is_err() {
        // Nothing of a world that is out of joint is waited for.
        world.borrow().disk.hold(false);
        std::mem::forget(world);
    }
    done
}

fn live(world: &mut World) -> u64 {
    for life in 0..1 + world.random.below(LIVES) {
        world.note(format!("life {life}"));
        world.open();
        for _ in 0..world.random.below(STEPS) {
            world.steps += 1;
            if !world.step() {
                break;
            }
        }
        world.over();
    }
    world.steps
}

#[test]
fn random_lives_keep_every_promise() {
    campaign::run(3200, 63, run);
}

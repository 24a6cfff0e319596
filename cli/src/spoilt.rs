//! For tests: bytes that nobody would send, which are valid examples spoilt, from a seed that is
//! always the same. The targets of all other parsers are in `tests/fuzz`, which says more; these
//! parsers are nobody's but ours.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const SEED: u64 = 0x6d65_7368;

/// Runs a check on each example as it is, then on so many that are spoilt. `pieces` are what this
/// parser in particular stumbles over. A failure prints the bytes.
pub(crate) fn spoilt(
    iterations: usize,
    examples: &[&[u8]],
    pieces: &[&[u8]],
    mut check: impl FnMut(&[u8]),
) {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut run = |bytes: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(bytes))) {
            eprintln!("failed for b\"{}\"", bytes.escape_ascii());
            resume_unwind(panic);
        }
    };
    examples.iter().for_each(|example| run(example));
    for _ in 0..iterations {
        let mut bytes = examples.choose(&mut random).map_or(vec![], |e| e.to_vec());
        for _ in 0..random.random_range(1..6) {
            spoil(&mut bytes, pieces, &mut random);
        }
        run(&bytes);
    }
}

fn spoil(bytes: &mut Vec<u8>, pieces: &[&[u8]], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let until = (at + random.random_range(0..16)).min(bytes.len());
    match random.random_range(0..6) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.random();
            }
        }
        2 => drop(bytes.drain(at..until)),
        3 => bytes.truncate(at),
        4 => {
            let again = bytes[at..until].repeat(random.random_range(1..40));
            bytes.splice(at..at, again);
        }
        _ => {
            let piece = pieces.choose(random).copied().unwrap_or_default();
            bytes.splice(at..until, piece.iter().copied());
        }
    }
}

#[test]
fn the_same_bytes_are_found_again() {
    let find = || {
        let mut seen = Vec::new();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            spoilt(10_000, &[b"abcdef"], &[b"needle"], |bytes| {
                seen.push(bytes.to_vec());
                assert!(!bytes.windows(6).any(|six| six == b"needle"));
            });
        }));
        assert!(failed.is_err());
        seen
    };
    assert_eq!(find(), find());
}

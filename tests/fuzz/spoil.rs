//! Spoils valid examples. Of `tests/fuzz`, which says more, and of the tests of parsers that are
//! private to the crate they are in.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// The seed of every ordinary run.
const SEED: u64 = 0x6d65_7368;

/// No example grows beyond.
const LONGEST: usize = 8 * 1024;

/// What parsers stumble over, whatever they parse.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"/",
    b"//",
    b"..",
    b"%",
    b"%00",
    b"%2e",
    b"%zz",
    b"\"",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b"-",
    b"+",
    b"0x",
    b"0",
    b"99999999999999999999",
    b"-1",
    b"1e9",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xc3\x28",
    "\u{feff}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"&a",
    b"*a",
    b"!!",
    b"---\n",
    b"@",
    b"#",
    b"?",
];

/// Runs a target: each example as it is, then spoilt examples and bytes that were never any.
/// `pieces` are what this parser in particular stumbles over.
pub(crate) fn fuzz(
    iterations: usize,
    examples: &[&[u8]],
    pieces: &[&[u8]],
    mut check: impl FnMut(&[u8]),
) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed = number("FUZZ_SEED").unwrap_or(SEED);
    let factor = number("FUZZ_ITERATIONS").unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let spoilt = iterations as u64 * factor;
    eprintln!("seed {seed}, {spoilt} inputs");
    let mut run = |bytes: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(bytes))) {
            eprintln!("seed {seed}: failed for b\"{}\"", bytes.escape_ascii());
            resume_unwind(panic);
        }
    };
    examples.iter().for_each(|example| run(example));
    for _ in 0..spoilt {
        let mut bytes = match random.random_range(0..20) {
            0 => (0..random.random_range(0..64))
                .map(|_| random.random())
                .collect(),
            _ => examples
                .choose(&mut random)
                .map(|e| e.to_vec())
                .unwrap_or_default(),
        };
        for _ in 0..random.random_range(1..6) {
            spoil(&mut bytes, examples, pieces, &mut random);
        }
        bytes.truncate(LONGEST);
        run(&bytes);
    }
}

fn spoil(bytes: &mut Vec<u8>, examples: &[&[u8]], pieces: &[&[u8]], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let until = (at + random.random_range(0..16)).min(bytes.len());
    match random.random_range(0..8) {
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
        5 => {
            let other = examples.choose(random).copied().unwrap_or_default();
            let from = random.random_range(0..=other.len());
            bytes.splice(at..until, other[from..].iter().copied());
        }
        6 if !pieces.is_empty() => {
            let piece = pieces.choose(random).copied().unwrap_or_default();
            bytes.splice(at..until, piece.iter().copied());
        }
        _ => {
            let piece = PIECES.choose(random).copied().unwrap_or_default();
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

//! Bytes that nobody would send, for all that we parse in our own code: no panic, and what is
//! understood is understood in one way.
//!
//! Each target takes valid examples and spoils them, from a seed that is always the same, so that
//! `make test` says the same each time; `FUZZ_ITERATIONS` (a factor) and `FUZZ_SEED` search further.
//! A failure prints the bytes, to become an example of their own.
//!
//! Why no fuzzing library: those that follow coverage (cargo-fuzz, bolero's engines) need a nightly
//! compiler and instrumented builds, which `make test` must run without, and `arbitrary` only cuts
//! bytes into values. What is here is the part of them that a stable compiler can run.

mod access;
mod cache;
mod cni;
mod events;
mod first_bytes;
mod idempotency;
mod operator;
mod people;
mod proxy;
mod rate_limit;
mod spoil;
mod stream;
mod tokens;

use spoil::fuzz;

/// For targets that read text: what is none of it is left out.
pub(crate) fn text(check: impl Fn(&str)) -> impl FnMut(&[u8]) {
    move |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            check(text);
        }
    }
}

#[test]
fn a_failure_names_its_input_and_the_same_seed_finds_it_again() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let find = || {
        let mut seen = Vec::new();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            fuzz(10_000, &[b"abcdef"], &[b"needle"], |bytes| {
                seen.push(bytes.to_vec());
                assert!(!bytes.windows(6).any(|six| six == b"needle"));
            });
        }));
        assert!(failed.is_err());
        seen
    };
    assert_eq!(find(), find());
}

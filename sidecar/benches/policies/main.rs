//! What each policy adds to a request: `cargo bench -p sidecar --bench policies`. A plain program, whose
//! nanoseconds are comparable on one machine only; instructions are counted by valgrind, where it is
//! installed, and are the same everywhere.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

mod access;
mod amounts;
mod callers;

use std::process::Command;
use std::time::{Duration, Instant};

use http::Request;
use http::request::Parts;

/// A policy, and one request that it sees.
type Policy = (&'static str, fn() -> Box<dyn FnMut()>);

const POLICIES: &[Policy] = &[
    ("what holds without any policy", callers::without_policy),
    ("circuit that is closed", callers::circuit),
    ("authorization by account, 1 rule", || {
        access::authorization(1)
    }),
    ("authorization by account, 32 rules", || {
        access::authorization(32)
    }),
    ("API key", access::api_key),
    ("JWT that was seen before", || access::jwt(false)),
    ("JWT that is new (ES256)", || access::jwt(true)),
    ("limit by identity", amounts::limit),
    ("cache: what is kept is given", amounts::kept),
    ("idempotency: no key", || amounts::once(amounts::Key::None)),
    ("idempotency: the first with its key", || {
        amounts::once(amounts::Key::New)
    }),
    ("idempotency: the same again", || {
        amounts::once(amounts::Key::Same)
    }),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, place, rounds] = &arguments[..]
        && let (Ok(place), Ok(rounds)) = (place.parse::<usize>(), rounds.parse::<u32>())
    {
        let mut once = POLICIES[place].1();
        (0..rounds).for_each(|_| once());
        return;
    }
    println!(
        "{:40}{:>14}{:>14}",
        "for one request", "nanoseconds", "instructions"
    );
    for (place, (name, policy)) in POLICIES.iter().enumerate() {
        let time = median(policy());
        let counted = instructions(place).map_or("?".to_owned(), |count| count.to_string());
        println!("{name:40}{:>14}{counted:>14}", time.as_nanos());
    }
}

/// The median of rounds.
fn median(mut once: Box<dyn FnMut()>) -> Duration {
    const IN_A_ROUND: u32 = 2_000;
    let mut times: Vec<Duration> = (0..51)
        .map(|_| {
            let start = Instant::now();
            (0..IN_A_ROUND).for_each(|_| once());
            start.elapsed() / IN_A_ROUND
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// What twice as many rounds take more, as valgrind counts it.
fn instructions(place: usize) -> Option<u64> {
    const ROUNDS: u64 = 500;
    let counted = |rounds: u64| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args([place.to_string(), rounds.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find(|line| line.contains("Collected"))?;
        line.split_whitespace().last()?.parse::<u64>().ok()
    };
    Some(counted(2 * ROUNDS)?.checked_sub(counted(ROUNDS)?)? / ROUNDS)
}

fn head(lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::get("/orders/17").header("host", "orders.shop");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

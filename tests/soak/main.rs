//! Whole meshes under load for a while: nothing fails, nothing grows, nothing is kept.
//!
//! In `make test` these take half a minute. `make soak` gives them ten minutes and ten gigabytes each
//! way: by the variables [`SECONDS`] and [`BODY`].

mod applications;
mod bodies;
mod channel;
mod flows;
mod load;
mod mixed;
mod pattern;
mod transparency;
mod watch;

use std::time::Duration;

/// The variable that says for how many seconds the mixed load goes on, at the least.
const SECONDS: &str = "MESHWRIGHT_SOAK_SECONDS";

/// The variable that says how many bytes go each way in one body.
const BODY: &str = "MESHWRIGHT_SOAK_BODY_BYTES";

/// How long the mixed load goes on, at the least.
fn length() -> Duration {
    Duration::from_secs(number(SECONDS).unwrap_or(20))
}

/// How long the one large body is.
fn body() -> u64 {
    number(BODY).unwrap_or(1 << 30)
}

fn number(variable: &str) -> Option<u64> {
    let said = std::env::var(variable).ok()?;
    let number = said.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {said:?}, which is no number")))
}

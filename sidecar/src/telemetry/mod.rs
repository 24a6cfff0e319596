//! What happened: logs, metrics, and one access-log line for each request. `docs/telemetry.md` is
//! the reference.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod plaintext;
pub mod stalls;
pub mod tap;
pub mod trace;

#[cfg(test)]
mod tests;

//! What happened: logs, metrics, and one access-log line for each request.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod plaintext;

//! The sidecar's own log: JSON lines on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging; `filter` as in `RUST_LOG` (`info`, `sidecar=debug`).
///
/// A second call in one process (tests start several sidecars) changes nothing.
pub fn init(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

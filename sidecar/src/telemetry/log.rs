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

/// From now on a panic ends the process, once it is told: a sidecar without a worker, or without the
/// task that follows its configuration, would go on half, and nobody would start it anew.
pub fn end_at_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    #[test]
    fn a_panic_of_any_thread_ends_the_sidecar_and_is_told() {
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "telemetry::log::tests::panics_in_a_thread"])
            .args(["--ignored", "--nocapture"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(nix::libc::SIGABRT), "{said}");
        assert!(said.contains("a bug of a worker"), "{said}");
    }

    #[test]
    #[ignore = "ends its process: run by its caller above"]
    fn panics_in_a_thread() {
        super::end_at_panic();
        let worker = std::thread::spawn(|| panic!("a bug of a worker"));
        // Never answers.
        let _ = worker.join();
    }
}

//! The sidecar's own log: JSON lines on standard error, at a level that can change while it runs.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;

/// What is logged. One for the process, as the log is.
static LEVEL: OnceLock<Level> = OnceLock::new();

/// Parts of a filter set at run time.
const MAX_PARTS: usize = 16;

/// Our own code, of which everything may be logged.
const OURS: [&str; 2] = ["sidecar", "wire"];

struct Level {
    text: Mutex<String>,
    reload: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Starts logging; `filter` as in `RUST_LOG` (`info`, `sidecar=debug`).
///
/// A second call in one process (tests start several sidecars) changes nothing.
pub fn init(filter: &str) {
    let (text, filter) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (filter, parsed),
        Err(_) => ("info", EnvFilter::new("info")),
    };
    let builder = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(quietened(filter))
        .with_writer(std::io::stderr)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    if builder.try_init().is_ok() {
        let reload = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        let _ = LEVEL.set(Level {
            text: Mutex::new(text.to_owned()),
            reload: Box::new(reload),
        });
    }
}

/// What is logged now; `off` in a process that has no log.
pub fn level() -> String {
    match LEVEL.get() {
        Some(level) => {
            let text = level.text.lock();
            text.unwrap_or_else(PoisonError::into_inner).clone()
        }
        None => "off".to_owned(),
    }
}

/// Logs by another filter from now on: a level, or `target=level`, or several with commas.
///
/// # Errors
/// A sentence that says what to write; then nothing has changed.
pub fn set_level(text: &str) -> Result<(), String> {
    let filter = parse(text)?;
    let level = LEVEL.get().ok_or("this process has no log")?;
    let mut current = level.text.lock().unwrap_or_else(PoisonError::into_inner);
    (level.reload)(filter)?;
    text.clone_into(&mut current);
    Ok(())
}

/// Stricter than [`EnvFilter`], which takes a misspelt level for the name of a target, and which
/// can filter by the contents of fields.
fn parse(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() > MAX_PARTS {
        return Err(format!("at most {MAX_PARTS} parts"));
    }
    for part in &parts {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, *part),
        };
        if !LEVELS.contains(&level) {
            return Err(format!(
                "write {}, or TARGET=LEVEL such as sidecar=debug",
                LEVELS.join(", ")
            ));
        }
        let in_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':');
        if target.is_some_and(|name| name.is_empty() || !name.bytes().all(in_name)) {
            return Err("a target is a path such as sidecar::proxy".into());
        }
        let own = target.and_then(|target| target.split("::").next());
        if level == "trace" && !own.is_some_and(|own| OURS.contains(&own)) {
            // Libraries trace the bytes that they read: headers, and with them credentials.
            return Err("trace is for sidecar=trace and wire=trace only".into());
        }
    }
    let filter = EnvFilter::try_new(parts.join(","));
    filter.map(quietened).map_err(|error| error.to_string())
}

/// Without the clients of NATS and RabbitMQ, which tell each message and each refusal in words of their own: what matters
/// of it we say ourselves.
fn quietened(filter: EnvFilter) -> EnvFilter {
    let quiet = ["async_nats=off", "lapin=off"].into_iter();
    let quiet = quiet.filter_map(|directive| directive.parse().ok());
    quiet.fold(filter, EnvFilter::add_directive)
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

    use super::*;

    #[test]
    fn a_level_is_a_word_or_a_target_with_one() {
        for fine in [
            "info",
            "off",
            "sidecar=debug",
            "info, sidecar::proxy=trace,hyper=warn",
        ] {
            assert!(parse(fine).is_ok(), "{fine}");
        }
        for (wrong, says) in [
            ("", "write off"),
            ("debgu", "write off"),
            ("sidecar", "write off"),
            ("info,", "write off"),
            ("sidecar=loud", "write off"),
            ("[{authorization=.*}]=debug", "write off"),
            ("[{authorization}]=debug", "a target is"),
            ("=debug", "a target is"),
            ("trace", "only"),
            ("h2=trace", "only"),
            (&["info"; 17].join(","), "at most 16"),
        ] {
            let said = parse(wrong).unwrap_err();
            assert!(said.contains(says), "{wrong}: {said}");
        }
    }

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

//! Ctrl-C, for commands that have something to end first.

use tokio::signal::unix::{SignalKind, signal};

/// Returns once the process is told to end, by Ctrl-C or `kill`; from now on neither ends it by
/// itself.
///
/// # Errors
/// When the system takes no more handlers.
pub fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

//! The application of a pod that is there for its sidecar alone: a pod needs a container of its own.

use std::io;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Returns when it is told to end (SIGTERM or SIGINT).
///
/// # Errors
/// The system lets nobody wait for a signal.
pub fn until_told_to_end() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

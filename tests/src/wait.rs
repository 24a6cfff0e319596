//! Waiting for conditions, never for time.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout};

/// How often [`wait_until`] looks.
const POLL: Duration = Duration::from_millis(50);

/// Asks until there is an answer, and returns it. When time is up it says what was awaited and what
/// was last seen, which is the error of the closure. An `async` closure can borrow what is around
/// it.
pub async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        // A question that hangs is cut off as well.
        match timeout(deadline.saturating_duration_since(Instant::now()), ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            let seen =
                last.unwrap_or_else(|| anyhow!("nothing: the first look did not end in time"));
            return Err(seen.context(format!("waited {limit:?} in vain until {what}; last seen")));
        }
        sleep(POLL).await;
    }
}

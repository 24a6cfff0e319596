//! What JetStream is asked, and answers.

use std::fmt;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use serde::Deserialize;
use serde_json::Value;

use super::link::{Link, Unanswered};
use crate::events::broker::Unsubscribed;

/// How long a reason of the broker's may be, in characters.
const REASON: usize = 200;

/// An answer, good or bad.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Answer<T> {
    Bad { error: Failure },
    Good(T),
}

/// That something published is held.
#[derive(Deserialize)]
pub(super) struct Held {
    /// In which stream: it is read so that nothing else is taken for such an answer.
    #[allow(dead_code, reason = "it must be there")]
    stream: String,
    /// Whether it was before.
    #[serde(default)]
    pub(super) duplicate: bool,
}

/// What JetStream says no with.
#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    /// Which of its many.
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    description: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.description.chars().filter(|c| !c.is_control());
        let shown = String::from_iter(shown.take(REASON));
        write!(f, "{shown} ({})", self.err_code)
    }
}

/// Asks JetStream.
///
/// # Errors
/// That it does not answer.
pub(super) async fn ask(
    link: &Link,
    what: &str,
    body: &Value,
    patience: Duration,
) -> Result<Result<Value, Failure>, Unsubscribed> {
    let subject = Subject::from(format!("$JS.API.{what}"));
    let asked = link.ask(subject, HeaderMap::new(), body.to_string().into(), patience);
    let answer = asked.await.map_err(|why| match why {
        Unanswered::Away(why) => Unsubscribed::Away(why),
        Unanswered::Nobody => Unsubscribed::Refused("it has no JetStream for us".to_owned()),
        Unanswered::TooLong => Unsubscribed::Refused("what it is asked is too long".to_owned()),
        Unanswered::Refused(why) => Unsubscribed::Refused(why),
        Unanswered::Unknown(why) => Unsubscribed::Away(why.to_owned()),
    })?;
    match serde_json::from_slice(&answer.payload) {
        Ok(Answer::Good(value)) => Ok(Ok(value)),
        Ok(Answer::Bad { error }) => Ok(Err(error)),
        Err(_) => Err(Unsubscribed::Refused("its answer can't be read".to_owned())),
    }
}

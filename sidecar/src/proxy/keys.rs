//! Keeps the keys of issuers: one worker fetches each set, before anybody needs it and again and again.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{Request, StatusCode};
use wire::jwks;

use super::Proxy;
use super::fetch::fetch;
use crate::config::State;
use crate::config::remote::Remote;
use crate::policy::authentication::issuer::IssuerKeys;

/// How long an issuer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses after a try that brought nothing: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Sees to the keys of a state that nobody keeps yet.
pub fn keep(px: &Rc<Proxy>, state: &State) {
    for keys in state.issuer_keys() {
        if let Some(from) = keys.keep() {
            let keeping = rounds(px.clone(), Arc::downgrade(keys), from.clone());
            tokio::task::spawn_local(keeping);
        }
    }
}

/// One fetch after the other, as long as anybody needs the keys.
async fn rounds(px: Rc<Proxy>, keys: Weak<IssuerKeys>, from: Remote) {
    let mut failures = 0;
    while let Some(keys) = keys.upgrade() {
        keys.asking();
        let answer = ask(&px, &from).await;
        // Without its query, which may be a secret.
        let uri = from.uri();
        let (host, path) = (uri.host().unwrap_or_default(), uri.path());
        match keys.take(answer.as_deref().map_err(String::clone)) {
            Ok(()) => {
                failures = 0;
                tracing::info!(host, path, "an issuer's keys were fetched");
            }
            Err(why) => {
                failures += 1;
                let had = keys.are_here();
                tracing::warn!(
                    host,
                    path,
                    why,
                    had,
                    "an issuer's keys could not be fetched"
                );
            }
        }
        px.metrics.all().issuer_keys_fetched(failures == 0);
        let pause = (failures > 0).then(|| {
            let doubled = PAUSES.0.saturating_mul(1 << (failures - 1).min(16));
            doubled.min(PAUSES.1).mul_f64(rand::random_range(0.5..=1.0))
        });
        keys.due(pause).await;
        // Whoever needed them has gone meanwhile.
        if Arc::strong_count(&keys) == 1 {
            return;
        }
    }
}

async fn ask(px: &Rc<Proxy>, from: &Remote) -> Result<Bytes, String> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = from.uri().clone();
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(ACCEPT, json);
    match fetch(px, from, request, TIMEOUT, jwks::MAX_BYTES).await {
        Ok((StatusCode::OK, body)) => Ok(body),
        Ok((status, _)) => Err(format!("the issuer answered {status}")),
        Err(error) => Err(error.to_string()),
    }
}

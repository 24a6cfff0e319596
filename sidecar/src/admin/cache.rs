//! Answers that are kept, for people: how many there are, and that they go. What they are stays here.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{Admin, Answer, Question, json as answer, text};
use crate::config::State;
use crate::config::route::Route;
use crate::config::state::Served;
use crate::policy::cache::Cache;
use crate::policy::cache::status::Outcome;
use crate::telemetry::metrics::Direction;

/// What is kept of a port's answers.
pub(super) fn kept(served: &Served) -> Value {
    served.cache().map_or(Value::Null, |cache| one(cache))
}

/// What is kept here of the answers to calls that an ApiRoute governs; nothing of one that was not
/// called.
pub(super) fn kept_here(route: &Route) -> Value {
    let kept = route.kept.as_ref().and_then(|kept| kept.kept());
    kept.map_or(Value::Null, |cache| one(cache))
}

/// Everything that is kept, of what comes here and then of what goes out.
fn all(state: &State) -> Vec<Arc<Cache>> {
    let caches: BTreeMap<_, _> = state.built.caches.iter().collect();
    let routes: BTreeMap<_, _> = state.built.routes.iter().collect();
    let here = routes.into_values().filter_map(|route| route.kept.as_ref());
    let here = here.filter_map(|kept| kept.kept());
    caches.into_values().chain(here).cloned().collect()
}

fn one(cache: &Cache) -> Value {
    let (entries, bytes) = cache.store.size();
    let bounds = cache.store.bounds();
    let became = Outcome::ALL.map(|outcome| {
        let count = cache.counts.of(outcome);
        (outcome.name().to_owned(), json!(count))
    });
    json!({
        "route": &*cache.object,
        "at": match cache.side {
            Direction::inbound => "destination",
            Direction::outbound => "caller",
        },
        "entries": entries,
        "bytes": bytes,
        "maxEntries": bounds.entries,
        "maxBytes": bounds.bytes,
        "requests": Map::from_iter(became),
    })
}

// === impl Admin ===

impl Admin {
    /// `GET` tells what is kept, `PUT purge=/orders` drops what is kept of paths that begin so.
    pub(super) fn cache(&self, question: &Question) -> Answer {
        let state = self.readiness.state.borrow().clone();
        let caches = all(&state);
        let mut purged = None;
        if question.method == Method::PUT {
            let path = question.words().map(|words| words.strip_prefix("purge="));
            let Ok(Some(path)) = path.map(|path| path.filter(|path| path.starts_with('/'))) else {
                let wrong = "write what is to go: purge=/orders, or purge=/ for all\n";
                return text(StatusCode::BAD_REQUEST, wrong);
            };
            let Ok(path) = wire::path::normalise(path.as_bytes()) else {
                return text(StatusCode::BAD_REQUEST, "that is no path\n");
            };
            let gone = caches.iter();
            let gone = gone.map(|cache| cache.store.purge(path.as_bytes()));
            let gone: usize = gone.sum();
            tracing::info!(%path, purged = gone, "answers that were kept were purged");
            purged = Some(gone);
        }
        let caches = caches.iter().map(|cache| one(cache));
        let mut told = json!({ "caches": caches.collect::<Vec<_>>() });
        if let Some(purged) = purged {
            told["purged"] = purged.into();
        }
        answer(StatusCode::OK, &told)
    }
}

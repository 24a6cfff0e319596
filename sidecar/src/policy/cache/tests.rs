//! What is kept, for how long, and for whom; against the letters of RFC 9111, and against a model.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AGE, CACHE_CONTROL, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, Version, response};
use tokio::time::{Instant, advance};
use wire::mesh;

use super::entry::{Entry, Unfit};
use super::status::Status;
use super::*;

mod at_caller;
mod fresh;
mod kept;
mod model;

fn sent() -> mesh::Cache {
    mesh::Cache {
        namespace: "shop".into(),
        name: "orders".into(),
        max_bytes: 1 << 20,
        max_entries: 100,
        max_entry_bytes: 1 << 16,
        ..mesh::Cache::default()
    }
}

fn cache() -> Arc<Cache> {
    built(sent(), None)
}

fn built(sent: mesh::Cache, old: Option<&Cache>) -> Arc<Cache> {
    Arc::new(Cache::build(sent, old, &Counters::default()).unwrap())
}

fn get(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(target).header("host", "orders");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn answered(status: u16, headers: &[(&str, &str)]) -> response::Parts {
    let mut response = Response::builder().status(status).version(Version::HTTP_2);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

fn question(cache: &Cache, head: &Parts) -> Box<Question> {
    match cache.ask(80, head, false, false) {
        Asked::Question(question) => question,
        other => panic!("{other:?}"),
    }
}

/// What is kept of a response to a request, or why nothing is.
fn put(
    cache: &Arc<Cache>,
    head: &Parts,
    response: &response::Parts,
    body: &str,
) -> Result<(), Unfit> {
    let question = question(cache, head);
    let draft = cache.judge(&question, &head.headers, response, Instant::now())?;
    let mut fill = cache.fill(&question.wanted, draft, cache.store.begin(), None);
    assert!(fill.more(body.as_bytes()));
    fill.complete(true);
    Ok(())
}

fn says(cache: &Arc<Cache>, control: &str) -> Result<(), Unfit> {
    let response = answered(200, &[("cache-control", control), ("etag", "\"1\"")]);
    put(cache, &get("/a", &[]), &response, "a")
}

fn consult(cache: &Cache, head: &Parts) -> Verdict {
    cache.consult(&question(cache, head), &head.headers)
}

fn given(verdict: Verdict) -> Option<(Arc<Entry>, Status)> {
    match verdict {
        Verdict::Give(entry, status) | Verdict::Refresh(entry, status) => Some((entry, status)),
        Verdict::Fetch(..) | Verdict::Refuse => None,
    }
}

fn is_given(cache: &Cache, headers: &[(&str, &str)]) -> bool {
    given(consult(cache, &get("/a", headers))).is_some()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

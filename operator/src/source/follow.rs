//! Follows one kind in a cluster: list, then watch, for ever.
//!
//! Not `kube::runtime::watcher`, because that hides two versions that generations stand on: the
//! version of a list (an object deleted before it leaves no other trace of how new the list is),
//! and those of bookmarks (without them a replica can't know that it has seen everything up to a
//! version at which another kind changed, and would withhold resources from a sidecar that has
//! talked to another replica until something of this kind happens to change).

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::api_server::in_time;

/// Objects of a page of a list.
const PAGE: u32 = 500;
/// Seconds after which the API server ends a watch, and the next one begins where it ended. Two before
/// the end it says up to where nothing has happened, and else once a minute: for so long a sidecar that
/// comes from a replica that was ahead is withheld what depends on a kind of which nothing changes.
const WATCH: u32 = 20;
/// The same of what is followed in many namespaces, each for itself, as Secrets are.
const WATCH_LABELLED: u32 = 290;
/// A watch that says nothing for so much longer, not even its end, is on a dead connection.
const DEAD: Duration = Duration::from_secs(5);
/// How long a page of a list may take.
const LIST: Duration = Duration::from_secs(30);
/// How long a watch may take to begin.
const OPEN: Duration = Duration::from_secs(15);
/// Pauses before asking again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A watch that went on for so long was a good one, and what comes after it no repetition.
const LIVED: Duration = Duration::from_secs(10);
/// After so many watches in a row that were none it is listed again: the API server may never have
/// the version that they begin at, because etcd was restored from an older one.
const GIVE_UP: u32 = 3;

/// What happens to a kind's objects.
#[derive(Debug)]
pub(crate) enum Event<K> {
    /// A list begins; what an unfinished one brought is void.
    Listing,
    /// Objects of the list that began.
    Page(Vec<K>),
    /// The list is complete: there is nothing but what it brought, as of this version.
    Listed(u64),
    /// Created or changed at this version.
    Applied(K, u64),
    /// Deleted at this version.
    Deleted(K, u64),
    /// Nothing has happened up to this version that wasn't told.
    Bookmark(u64),
    /// It can't be followed; it is tried again.
    Failed(Trouble),
}

/// Why a kind can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// RBAC does not permit it.
    Forbidden,
    /// The API server knows no such kind.
    NotInstalled,
    /// Anything else, which passes.
    Passing,
}

/// Which objects are asked for; all of the API's when nothing is said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Only<'a> {
    /// Those with this label.
    pub(crate) labelled: Option<&'a str>,
    /// The one of this name.
    pub(crate) named: Option<&'a str>,
}

/// Why a list or watch ended.
enum End {
    /// As agreed: watch on from here.
    Resume(String),
    /// The version is too old to watch from: list again.
    Expired,
    Failed(Trouble, String),
}

/// Tells one attempt from one that repeats the last.
#[derive(Debug, Default)]
struct Attempts {
    /// Since the last watch that lived.
    failures: u32,
    /// Of them, watches since the last list.
    watches: u32,
}

/// Tells everything that happens to the objects of `api`. Never returns: errors are logged and
/// what ended is begun again, with growing pauses until it holds.
pub(crate) async fn follow<K>(
    api: Api<K>,
    only: Only<'_>,
    kind: &str,
    mut tell: impl FnMut(Event<K>),
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut from = None;
    let mut attempts = Attempts::default();
    loop {
        let end = match from.take() {
            None => match list(&api, only, &mut tell).await {
                // Its watch begins where the list ends, and at once.
                End::Resume(version) => {
                    from = Some(version);
                    attempts.watches = 0;
                    continue;
                }
                end => end,
            },
            Some(version) => {
                let mut began = None;
                let end = watch(
                    (&api, only),
                    version,
                    kind,
                    &mut from,
                    &mut began,
                    &mut tell,
                )
                .await;
                attempts.watched(began.is_some_and(|began| began.elapsed() >= LIVED));
                end
            }
        };
        let pause = attempts.pause();
        match end {
            End::Resume(version) => from = Some(version),
            End::Expired => {
                tracing::info!(kind, "the watch's version expired; listing again");
                from = None;
            }
            End::Failed(trouble, error) => {
                tell(Event::Failed(trouble));
                tracing::warn!(kind, error, retry_in = ?pause, "the API server can't be followed");
            }
        }
        if attempts.watches >= GIVE_UP && from.take().is_some() {
            tracing::info!(kind, "no watch holds; listing again");
        }
        sleep(pause).await;
    }
}

// === impl Only ===

impl Only<'_> {
    fn fields(self) -> Option<String> {
        self.named.map(|name| format!("metadata.name={name}"))
    }

    /// Seconds that a watch goes on.
    fn life(self) -> u32 {
        match self.labelled {
            Some(_) => WATCH_LABELLED,
            None => WATCH,
        }
    }
}

// === impl Attempts ===

impl Attempts {
    /// A watch has ended.
    fn watched(&mut self, lived: bool) {
        if lived {
            *self = Attempts::default();
        } else {
            self.watches += 1;
        }
    }

    /// How long to wait before the next one. Never nothing, and never the same for the replicas.
    fn pause(&mut self) -> Duration {
        let (first, longest) = PAUSES;
        let pause = first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        pause
            .min(longest)
            .mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

async fn list<K>(api: &Api<K>, only: Only<'_>, tell: &mut impl FnMut(Event<K>)) -> End
where
    K: Clone + Debug + DeserializeOwned,
{
    tell(Event::Listing);
    let mut params = ListParams::default().limit(PAGE);
    params.label_selector = only.labelled.map(str::to_owned);
    params.field_selector = only.fields();
    loop {
        let page = match in_time(LIST, api.list(&params)).await {
            Ok(page) => page,
            Err(error) => return failed(error),
        };
        tell(Event::Page(page.items));
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            let version = page.metadata.resource_version.unwrap_or_default();
            tell(Event::Listed(number(&version)));
            return End::Resume(version);
        }
    }
}

/// Watches from `version`; `reached` is left at the newest version seen, for the next try, and
/// `began` at when the API server began to tell.
async fn watch<K>(
    (api, only): (&Api<K>, Only<'_>),
    mut version: String,
    kind: &str,
    reached: &mut Option<String>,
    began: &mut Option<Instant>,
    tell: &mut impl FnMut(Event<K>),
) -> End
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + 'static,
{
    let params = WatchParams {
        bookmarks: true,
        timeout: Some(only.life()),
        label_selector: only.labelled.map(str::to_owned),
        field_selector: only.fields(),
        ..WatchParams::default()
    };
    *reached = Some(version.clone());
    let stream = match in_time(OPEN, api.watch(&params, &version)).await {
        Ok(stream) => stream,
        Err(error) => return failed(error),
    };
    *began = Some(Instant::now());
    let mut stream = std::pin::pin!(stream);
    let dead = Duration::from_secs(only.life().into()) + DEAD;
    while let Ok(Some(event)) = timeout(dead, stream.next()).await {
        match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                version = version_of(&object);
                tell(Event::Applied(object, number(&version)));
            }
            // A deleted object carries the version of its deletion.
            Ok(WatchEvent::Deleted(object)) => {
                version = version_of(&object);
                tell(Event::Deleted(object, number(&version)));
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                version = bookmark.metadata.resource_version;
                tell(Event::Bookmark(number(&version)));
            }
            Ok(WatchEvent::Error(status)) if status.code == 410 => return End::Expired,
            Ok(WatchEvent::Error(status)) => {
                return End::Failed(Trouble::Passing, status.message);
            }
            // One object that can't be read must not hide the others.
            Err(kube::Error::SerdeError(error)) => {
                tracing::error!(kind, %error, "an object can't be read and is left out");
            }
            Err(error) => return failed(error),
        }
        *reached = Some(version.clone());
    }
    End::Resume(version)
}

fn version_of<K: kube::Resource>(object: &K) -> String {
    object.meta().resource_version.clone().unwrap_or_default()
}

/// Kubernetes promises since 1.35 that versions of one kind are whole numbers that only grow.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

fn failed(error: kube::Error) -> End {
    match &error {
        kube::Error::Api(status) if status.code == 410 => End::Expired,
        kube::Error::Api(status) if status.code == 404 => {
            let what = "the kind isn't installed: kubectl apply -f crds/";
            End::Failed(Trouble::NotInstalled, what.to_owned())
        }
        kube::Error::Api(status) if status.code == 403 => {
            let why = &status.message;
            let what = format!("not permitted, see the chart's ClusterRole: {why}");
            End::Failed(Trouble::Forbidden, what)
        }
        _ => End::Failed(Trouble::Passing, error.to_string()),
    }
}

#[cfg(test)]
mod tests;

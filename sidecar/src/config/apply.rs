//! A delta becomes the next [`State`]: each resource built on its own, all linked, then swapped.

use std::sync::Arc;

use tokio::sync::watch;
use wire::delta::{Apply, Change, Rejected};
use wire::generation::Generation;
use wire::lookup::Question;
use wire::{Kind, ResourceId};

use super::access::{Access, Keys};
use super::followers::Followers;
use super::guard::{Guard, Workload};
use super::lookup::{Answer, Networks};
use super::publish::Publish;
use super::rate_limit::RateLimit;
use super::retry_policy::RetryPolicy;
use super::route::Route;
use super::service::Service;
use super::state::{Built, State};
use super::subscription::Subscription;
use crate::policy::cache::Cache;
use crate::policy::idempotency::Idempotency;
use crate::telemetry::metrics::{KindLabels, Metrics};

/// Builds what is received and publishes the state that follows from it.
///
/// Lives on the control thread: building never takes time from requests, and workers see either
/// the state before a delta or the one after it.
#[derive(Debug)]
pub struct Applier {
    built: Built,
    /// Which Workload is in force.
    own: Option<ResourceId>,
    state: watch::Sender<Arc<State>>,
    roots: watch::Sender<Option<Arc<Vec<Vec<u8>>>>>,
    followers: Arc<Followers>,
    metrics: Arc<Metrics>,
    published: u64,
    newest: Generation,
}

// === impl Applier ===

impl Applier {
    /// Publishes to `state`, and trust bundles to `roots`.
    pub fn new(
        state: watch::Sender<Arc<State>>,
        roots: watch::Sender<Option<Arc<Vec<Vec<u8>>>>>,
        followers: Arc<Followers>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            built: Built::default(),
            own: None,
            state,
            roots,
            followers,
            metrics,
            published: 0,
            newest: Generation::ZERO,
        }
    }

    fn change(&mut self, change: Change) -> Result<(), Rejected> {
        let id = change.id().clone();
        let changed = match change {
            Change::Put(resource) => self.put(&resource).map(|()| {
                self.newest = self.newest.merge(&resource.generation);
            }),
            Change::Remove(id) => {
                self.remove(&id);
                Ok(())
            }
        };
        changed.map_err(|reason| Rejected { id, reason })
    }

    fn put(&mut self, resource: &wire::Resource) -> Result<(), String> {
        let id = resource.id.to_string();
        let unreadable = |error: prost::DecodeError| format!("it cannot be decoded: {error}");
        match resource.id.kind {
            Kind::Endpoints => {
                let old = self.built.services.get(&id).map(|old| &**old);
                let built = Service::build(resource.decode().map_err(unreadable)?, old)?;
                self.built.services.insert(id, Arc::new(built));
            }
            Kind::Route => {
                let old = self.built.routes.get(&id).map(|old| &**old);
                let built = Route::build(resource.decode().map_err(unreadable)?, old)?;
                self.metrics.concurrency.watch(&built);
                self.built.routes.insert(id, Arc::new(built));
            }
            Kind::RetryPolicy => {
                let built = RetryPolicy::build(resource.decode().map_err(unreadable)?)?;
                self.built.retry_policies.insert(id, Arc::new(built));
            }
            Kind::RateLimit => {
                let old = self.built.rate_limits.get(&id).map(|old| &**old);
                let sent = resource.decode().map_err(unreadable)?;
                let built = RateLimit::build(sent, old, &self.metrics.rate_limit)?;
                // The limits hold without their store, as they say themselves; who wrote it is told.
                let told = built.unusable().map(str::to_owned);
                self.built.rate_limits.insert(id, Arc::new(built));
                told.map_or(Ok(()), Err)?;
            }
            Kind::Access => {
                let old = self.built.access.get(&id).map(|old| &**old);
                let sent = resource.decode().map_err(unreadable);
                let read = sent.as_ref().map_err(String::clone);
                let read = read.and_then(|sent: &wire::mesh::Access| {
                    Access::build(sent.clone(), old, &self.metrics.access)
                });
                // What was in force may let in whom this would not: nobody enters meanwhile.
                let (built, told) = match read {
                    Ok(built) => (built, Ok(())),
                    Err(why) => {
                        let closed = Access::closed(sent.ok(), old, &id, &self.metrics.access);
                        (closed, Err(why))
                    }
                };
                self.built.access.insert(id, Arc::new(built));
                told?;
            }
            Kind::Cache => {
                let old = self.built.caches.get(&id).map(|old| &**old);
                let sent = resource.decode().map_err(unreadable)?;
                let built = Cache::build(sent, old, &self.metrics.cache)?;
                self.built.caches.insert(id, Arc::new(built));
            }
            Kind::Idempotency => {
                let old = self.built.idempotency.get(&id).map(|old| &**old);
                let sent = resource.decode().map_err(unreadable);
                let counters = &self.metrics.idempotency;
                let read = sent.as_ref().map_err(String::clone);
                let read = read.and_then(|sent: &wire::mesh::Idempotency| {
                    Idempotency::build(sent.clone(), old, counters)
                });
                // Without it calls would be carried out twice: none is meanwhile.
                let (built, told) = match read {
                    Ok(built) => (built, Ok(())),
                    Err(why) => (Idempotency::closed(sent.ok(), old, &id, counters), Err(why)),
                };
                self.built.idempotency.insert(id, Arc::new(built));
                told?;
            }
            Kind::Publish => {
                let built = Publish::build(resource.decode().map_err(unreadable)?)?;
                self.built.publish.insert(id, Arc::new(built));
            }
            Kind::Subscription => {
                let built = Subscription::build(resource.decode().map_err(unreadable)?)?;
                self.built.subscriptions.insert(id, Arc::new(built));
            }
            Kind::Keys => {
                let built = Keys::build(resource.decode().map_err(unreadable)?)?;
                self.built.keys.insert(id, Arc::new(built));
            }
            Kind::Guard => {
                let built = Guard::build(resource.decode().map_err(unreadable)?)?;
                self.built.guards.insert(id, Arc::new(built));
            }
            Kind::Workload => {
                let built = Workload::build(resource.decode().map_err(unreadable)?)?;
                self.built.workload = Some(Arc::new(built));
                self.own = Some(resource.id.clone());
            }
            Kind::Networks => {
                let built = Networks::build(&resource.decode().map_err(unreadable)?)?;
                self.built.networks = Some(Arc::new(built));
            }
            Kind::Lookup => {
                let question = Question::of(&resource.id).ok_or("nobody asked that")?;
                let built = Answer::build(question, &resource.decode().map_err(unreadable)?);
                self.built.answers.insert(id, Arc::new(built));
            }
            Kind::Identity => {
                let sent: wire::mesh::Identity = resource.decode().map_err(unreadable)?;
                let roots: Vec<Vec<u8>> = sent.roots.iter().map(|root| root.to_vec()).collect();
                // Trust that cannot be used must not replace trust that can.
                crate::net::tls::root_store(&roots).map_err(|error| error.to_string())?;
                self.built.roots = Some(Arc::new(roots));
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: &ResourceId) {
        let text = id.to_string();
        match id.kind {
            Kind::Endpoints => drop(self.built.services.remove(&text)),
            Kind::Route => drop(self.built.routes.remove(&text)),
            Kind::RetryPolicy => drop(self.built.retry_policies.remove(&text)),
            Kind::RateLimit => drop(self.built.rate_limits.remove(&text)),
            Kind::Access => drop(self.built.access.remove(&text)),
            Kind::Cache => drop(self.built.caches.remove(&text)),
            Kind::Idempotency => drop(self.built.idempotency.remove(&text)),
            Kind::Publish => drop(self.built.publish.remove(&text)),
            Kind::Subscription => drop(self.built.subscriptions.remove(&text)),
            Kind::Keys => drop(self.built.keys.remove(&text)),
            Kind::Guard => drop(self.built.guards.remove(&text)),
            Kind::Networks => self.built.networks = None,
            Kind::Lookup => drop(self.built.answers.remove(&text)),
            // Another's is not the own one, whatever has been sent.
            Kind::Workload if self.own.as_ref() == Some(id) => {
                self.built.workload = None;
                self.own = None;
            }
            Kind::Workload => {}
            // A workload without trust could speak to nobody, the operator included; the bundle in
            // force stays until another comes.
            Kind::Identity => {}
        }
    }

    fn publish(&mut self) {
        let mut state = State::link(self.built.clone());
        self.published += 1;
        state.number = self.published;
        let kinds = [
            ("endpoints", self.built.services.len()),
            ("route", self.built.routes.len()),
            ("retry-policy", self.built.retry_policies.len()),
            ("rate-limit", self.built.rate_limits.len()),
            ("access", self.built.access.len()),
            ("cache", self.built.caches.len()),
            ("idempotency", self.built.idempotency.len()),
            ("publish", self.built.publish.len()),
            ("subscription", self.built.subscriptions.len()),
            ("keys", self.built.keys.len()),
            ("guard", self.built.guards.len()),
            ("workload", usize::from(self.built.workload.is_some())),
            ("identity", usize::from(self.built.roots.is_some())),
            ("networks", usize::from(self.built.networks.is_some())),
            ("lookup", self.built.answers.len()),
        ];
        for (kind, count) in kinds {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics
                .resources
                .get_or_create(&KindLabels { kind })
                .set(count);
        }
        self.state.send_replace(Arc::new(state));
        if !self.followers.wait_for(self.published) {
            tracing::error!("a worker does not follow; what it was told is not in force there yet");
        }
        self.metrics.config_in_force(self.published, &self.newest);
        if let Some(roots) = &self.built.roots {
            self.roots.send_if_modified(|current| {
                let differs = current.as_ref() != Some(roots);
                if differs {
                    *current = Some(roots.clone());
                }
                differs
            });
        }
    }
}

impl Apply for Applier {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let rejected: Vec<Rejected> = changes
            .into_iter()
            .filter_map(|change| self.change(change).err())
            .collect();
        for Rejected { id, reason } in &rejected {
            tracing::warn!(%id, %reason, "rejected; what was there before stays in force");
            self.metrics.rejected.inc();
        }
        self.publish();
        rejected
    }

    fn refused(&mut self, count: usize) {
        self.metrics.rejected.inc_by(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Generation, Resource, mesh};

    fn id(pod: &str) -> ResourceId {
        ResourceId::new(Kind::Workload, "shop", pod)
    }

    fn put(pod: &str) -> Change {
        let workload = mesh::Workload {
            namespace: "shop".into(),
            pod: pod.into(),
            ..Default::default()
        };
        Change::Put(Resource::new(id(pod), Generation::ZERO, &[], &workload))
    }

    #[test]
    fn what_cannot_be_understood_of_who_may_enter_closes_and_opens_nothing() {
        let (sender, state) = watch::channel(Arc::default());
        let (followers, metrics) = (Arc::new(Followers::new(0)), Arc::new(Metrics::new()));
        let mut applier = Applier::new(sender, watch::Sender::default(), followers, metrics);
        let access = ResourceId::new(Kind::Access, "shop", "orders");
        let send = |authorization: mesh::Authorization| {
            let sent = mesh::Access {
                namespace: "shop".into(),
                name: "orders".into(),
                services: vec![mesh::ServiceRef {
                    namespace: "shop".into(),
                    name: "orders".into(),
                }],
                authorization: Some(authorization),
                ..Default::default()
            };
            Change::Put(Resource::new(access.clone(), Generation::ZERO, &[], &sent))
        };
        let held = || {
            let state = state.borrow();
            let access = state.built.access.get("access/shop/orders").unwrap();
            (
                access.closed,
                access.services.len(),
                access.object.to_string(),
            )
        };
        assert!(applier.apply(vec![send(Default::default())]).is_empty());
        assert_eq!(held(), (false, 1, "shop/orders".to_owned()));
        // A newer operator says what this sidecar does not know.
        let unknown = mesh::Authorization {
            audit: 17,
            ..Default::default()
        };
        assert_eq!(
            applier.apply(vec![send(unknown)]).len(),
            1,
            "it is rejected"
        );
        assert_eq!(held(), (true, 2, "shop/orders".to_owned()));
        assert!(applier.apply(vec![send(Default::default())]).is_empty());
        assert_eq!(held(), (false, 1, "shop/orders".to_owned()));
    }

    #[test]
    fn what_is_rejected_before_it_is_applied_is_counted_too() {
        use wire::delta::Held;
        use wire::discovery::Delta;

        let (sender, _state) = watch::channel(Arc::default());
        let (followers, metrics) = (Arc::new(Followers::new(0)), Arc::new(Metrics::new()));
        let counted = metrics.clone();
        let mut applier = Applier::new(sender, watch::Sender::default(), followers, metrics);
        let mut held = Held::default();
        let nonce = held.hello().nonce.wrapping_add(1);
        let workload = mesh::Workload::default();
        let needs = ["what-no-sidecar-can-do"];
        let unknown = Resource::new(id("orders"), Generation::ZERO, &needs, &workload);
        let delta = Delta {
            nonce,
            resources: vec![unknown.into()],
            ..Delta::default()
        };
        let ack = held.receive(delta, &mut applier).unwrap();
        assert_eq!(ack.rejected.len(), 1);
        assert_eq!(counted.rejected.get(), 1);
    }

    #[test]
    fn what_cannot_be_understood_of_idempotency_closes_and_lets_nothing_pass_twice() {
        let (sender, state) = watch::channel(Arc::default());
        let (followers, metrics) = (Arc::new(Followers::new(0)), Arc::new(Metrics::new()));
        let mut applier = Applier::new(sender, watch::Sender::default(), followers, metrics);
        let id = ResourceId::new(Kind::Idempotency, "shop", "payments");
        let send = |method: &str| {
            let sent = mesh::Idempotency {
                namespace: "shop".into(),
                name: "payments".into(),
                header: "idempotency-key".into(),
                methods: vec![method.into()],
                window_ms: 1_000,
                timeout_ms: 1_000,
                max_request_bytes: 1,
                max_answer_bytes: 1,
                max_bytes: 1,
                ..Default::default()
            };
            Change::Put(Resource::new(id.clone(), Generation::ZERO, &[], &sent))
        };
        let closed = || {
            let state = state.borrow();
            state.built.idempotency["idempotency/shop/payments"].closed
        };
        assert_eq!(applier.apply(vec![send("A B")]).len(), 1, "it is rejected");
        assert!(closed());
        assert!(applier.apply(vec![send("POST")]).is_empty());
        assert!(!closed());
        assert_eq!(applier.apply(vec![send("A B")]).len(), 1);
        assert!(closed());
    }

    #[test]
    fn limits_hold_as_they_say_where_their_store_can_not_be_used() {
        use crate::config::rate_limit::OnFailure;

        let (sender, state) = watch::channel(Arc::default());
        let (followers, metrics) = (Arc::new(Followers::new(0)), Arc::new(Metrics::new()));
        let mut applier = Applier::new(sender, watch::Sender::default(), followers, metrics);
        let id = ResourceId::new(Kind::RateLimit, "shop", "orders");
        let send = |url: &str, ca_certificates: &str, requests| {
            let sent = mesh::RateLimit {
                namespace: "shop".into(),
                name: "orders".into(),
                headers: mesh::LimitHeaders::Draft.into(),
                limits: vec![mesh::Limit {
                    name: "all".into(),
                    rate: Some(mesh::LimitRate { requests, burst: 1 }),
                    per_ms: 1_000,
                    action: mesh::LimitAction::Reject.into(),
                    ..Default::default()
                }],
                store: Some(mesh::SharedStore {
                    url: url.into(),
                    ca_certificates: ca_certificates.into(),
                    on_failure: mesh::StoreFailure::Deny.into(),
                }),
                ..Default::default()
            };
            Change::Put(Resource::new(id.clone(), Generation::ZERO, &[], &sent))
        };
        let held = || {
            let state = state.borrow();
            let limit = &state.built.rate_limits["rate-limit/shop/orders"];
            let shared = limit.shared.as_ref().unwrap();
            (shared.address.is_some(), shared.on_failure)
        };
        for (url, authorities) in [
            ("rediss://:word@store:port", ""),
            ("rediss://store", "none"),
        ] {
            let rejected = applier.apply(vec![send(url, authorities, 1)]);
            assert_eq!(rejected.len(), 1, "who wrote it is told");
            let why = &rejected[0].reason;
            assert!(why.contains("store") && !why.contains("word"), "{why}");
            assert_eq!(held(), (false, OnFailure::Deny));
            assert!(applier.apply(vec![send("redis://store", "", 1)]).is_empty());
            assert_eq!(held(), (true, OnFailure::Deny));
        }
        // What can't be understood of the limits is no reason to hold others.
        assert_eq!(applier.apply(vec![send("redis://", "", 0)]).len(), 1);
        assert_eq!(held(), (true, OnFailure::Deny));
    }

    #[test]
    fn only_the_removal_of_the_workload_in_force_leaves_none() {
        let (sender, state) = watch::channel(Arc::default());
        let (followers, metrics) = (Arc::new(Followers::new(0)), Arc::new(Metrics::new()));
        let mut applier = Applier::new(sender, watch::Sender::default(), followers, metrics);
        let pod = || {
            let state = state.borrow();
            state.built.workload.as_ref().map(|own| own.pod.to_string())
        };
        applier.apply(vec![put("orders-1")]);
        applier.apply(vec![put("orders-2")]);

        applier.apply(vec![Change::Remove(id("orders-1"))]);
        assert_eq!(pod().as_deref(), Some("shop/orders-2"));

        applier.apply(vec![Change::Remove(id("orders-2"))]);
        assert_eq!(pod(), None);
    }
}

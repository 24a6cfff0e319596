//! The control loop: a source changed, so compile, publish, and say what became of each object.

use std::sync::Arc;
use std::time::Instant;

use compiler::{Inputs, Output, Settings, Verdict};
use tokio::sync::watch;
use wire::generation::Input;

use crate::ca::TrustBundle;
use crate::push::Streams;
use crate::source::{Seen, Source};
use crate::telemetry::Metrics;
use crate::unmeshed::Watchdog;
use crate::verdicts::Verdicts;

/// Turns what the source has seen into what the streams and the verdicts' readers are told.
pub struct Reconciler {
    /// [`compiler::compile`].
    pub compile: fn(&Inputs, Output) -> Output,
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// The DNS domain of the cluster's Services.
    pub cluster_domain: String,
    /// The namespace that the operator is installed in.
    pub namespace: String,
    /// Where resources go.
    pub streams: Arc<Streams>,
    /// Where verdicts go.
    pub verdicts: Arc<Verdicts>,
    /// Durations and counts.
    pub metrics: Arc<Metrics>,
    /// Tells of pods that should have a sidecar.
    pub watchdog: Watchdog,
    /// Where the world goes that was compiled last.
    pub world: watch::Sender<Option<Arc<Inputs>>>,
}

// === impl Reconciler ===

impl Reconciler {
    /// Runs until the source ends. `ready` becomes true once the first world was published.
    pub async fn run(
        mut self,
        mut source: impl Source,
        mut bundle: watch::Receiver<TrustBundle>,
        ready: watch::Sender<bool>,
    ) {
        let mut output = Output::default();
        let mut seen: Option<Seen> = None;
        loop {
            let first = seen.is_none();
            tokio::select! {
                changed = source.changed() => match changed {
                    Some(changed) => seen = Some(changed),
                    None => return,
                },
                Ok(()) = bundle.changed(), if !first => {}
            }
            let Some(seen) = &seen else { continue };
            self.watchdog.look(&seen.inputs);
            let mut inputs = seen.inputs.clone();
            let bundle = bundle.borrow_and_update().clone();
            inputs.seen.observe(Input::Settings, bundle.revision);
            inputs.settings = Settings {
                trust_domain: self.trust_domain.clone(),
                cluster_domain: self.cluster_domain.clone(),
                roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
                namespace: self.namespace.clone(),
            };
            output = match self.compile(inputs, output, seen).await {
                Some(output) => {
                    ready.send_replace(true);
                    output
                }
                None => Output::without_memory(self.streams.published(), self.verdicts.compiled()),
            };
        }
    }

    /// `None`: the compiler has panicked, and with it went what it remembered.
    async fn compile(&self, inputs: Inputs, before: Output, seen: &Seen) -> Option<Output> {
        let start = Instant::now();
        // Tens of milliseconds for a large world seen for the first time: not where streams are
        // served. A compile that changes little takes less than handing it over.
        let compile = self.compile;
        let work = move || {
            let output = compile(&inputs, before);
            (inputs, output)
        };
        let (inputs, output) = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => {
                // A bug, which another process would meet as well. Sidecars go on with what they
                // have, and those that come get what was last published, and certificates.
                tracing::error!(%error, "the compiler failed: no change counts until one without \
                                         the object that it fails at");
                self.metrics.compile_failures.inc();
                return None;
            }
        };
        self.metrics.compiled(start.elapsed());
        let unreadable = i64::try_from(seen.unreadable).unwrap_or(i64::MAX);
        self.metrics.unreadable.set(unreadable);
        self.streams.publish(&inputs, &output);
        self.world.send_replace(Some(Arc::new(inputs)));
        self.verdicts.replace(&output, seen);
        self.streams.touch(output.changed_verdicts.iter().cloned());
        log_verdicts(&output);
        Some(output)
    }
}

/// Each verdict that changed, once, in words.
fn log_verdicts(output: &Output) {
    for object in &output.changed_verdicts {
        match output.verdicts.get(object) {
            Some(verdict) if in_order(verdict) => {
                tracing::info!(services = verdict.target, "{object} is accepted");
            }
            Some(verdict) => {
                for condition in verdict.conditions.iter().filter(|c| !c.status) {
                    let verdict = format!("{}=False, {}", condition.type_, condition.reason);
                    tracing::warn!("{object}: {verdict}: {}", condition.message);
                }
            }
            None => tracing::info!("{object} is gone"),
        }
    }
}

fn in_order(verdict: &Verdict) -> bool {
    verdict.conditions.iter().all(|condition| condition.status)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use compiler::{ObjectKey, ObjectRef};
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use wire::{Kind, ResourceId};

    use super::*;
    use crate::replicas::Replicas;

    const LONG: Duration = Duration::from_secs(20);

    /// Worlds, one after the other.
    struct Worlds {
        next: mpsc::Receiver<Seen>,
        /// Told whenever the last one has been dealt with.
        asked: mpsc::Sender<()>,
    }

    impl Source for Worlds {
        async fn changed(&mut self) -> Option<Seen> {
            self.asked.send(()).await.ok()?;
            self.next.recv().await
        }
    }

    /// The ApiRoutes and Services of these names.
    fn world(routes: &[&str], services: &[&str]) -> Seen {
        let mut seen = Seen::default();
        let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
        for name in routes {
            let route = json!({
                "apiVersion": "meshwright.dev/v1alpha1", "kind": "ApiRoute",
                "metadata": metadata(name), "spec": {"hosts": [name]} });
            let route = serde_json::from_value(route).unwrap();
            let routes = &mut seen.inputs.api_routes;
            routes.insert(ObjectKey::new("shop", *name), Arc::new(route));
        }
        for name in services {
            let service = json!({"metadata": metadata(name), "spec": {"ports": [{"port": 80}]}});
            let service = serde_json::from_value(service).unwrap();
            let services = &mut seen.inputs.services;
            services.insert(ObjectKey::new("shop", *name), Arc::new(service));
        }
        seen
    }

    fn fails_at_poison(inputs: &Inputs, before: Output) -> Output {
        let poisoned = inputs
            .services
            .contains_key(&ObjectKey::new("shop", "poison"));
        assert!(!poisoned, "a bug");
        compiler::compile(inputs, before)
    }

    #[tokio::test]
    async fn a_bug_of_the_compiler_leaves_what_was_published_and_passes_with_its_object() {
        let streams = Arc::new(Streams::default());
        let replicas = Replicas::new(streams.clone(), None);
        let verdicts = Arc::new(Verdicts::new(replicas));
        let metrics = Metrics::new();
        let reconciler = Reconciler {
            compile: fails_at_poison,
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            namespace: "meshwright-system".to_owned(),
            streams: streams.clone(),
            verdicts: verdicts.clone(),
            metrics: metrics.clone(),
            watchdog: Watchdog::new("meshwright-system", metrics.clone()),
            world: watch::channel(None).0,
        };
        let ((worlds, next), (asked, mut dealt_with)) = (mpsc::channel(1), mpsc::channel(1));
        let (_bundle, bundle) = watch::channel(TrustBundle::default());
        let (readiness, ready) = watch::channel(false);
        let source = Worlds { next, asked };
        let running = tokio::spawn(reconciler.run(source, bundle, readiness));
        timeout(LONG, dealt_with.recv()).await.unwrap().unwrap();
        let mut sees = async |routes: &[&str], services: &[&str]| {
            worlds.send(world(routes, services)).await.unwrap();
            timeout(LONG, dealt_with.recv()).await.unwrap().unwrap();
        };
        let published = |names: &[&str]| {
            let resources = streams.published();
            let routes = resources.keys().filter(|id| id.kind == Kind::Route);
            let ids = names
                .iter()
                .map(|n| ResourceId::new(Kind::Route, "shop", *n));
            assert!(routes.cloned().eq(ids), "{:?}", resources.keys());
            let keys = names.iter().map(|name| ObjectKey::new("shop", *name));
            let objects = keys.map(|key| ObjectRef::api_route(&key));
            assert!(verdicts.compiled().into_keys().eq(objects));
        };

        // Where it fails at once there is nothing to serve.
        sees(&["a"], &["a", "poison"]).await;
        assert!(!*ready.borrow());
        sees(&["a", "b"], &["a", "b"]).await;
        assert!(*ready.borrow());
        published(&["a", "b"]);

        sees(&["b", "c"], &["b", "c", "poison"]).await;
        published(&["a", "b"]);
        let text = metrics.text(&streams, 0);
        assert!(text.contains("meshwright_operator_compile_failures_total 2"));

        sees(&["b", "c"], &["b", "c"]).await;
        published(&["b", "c"]);
        assert!(!running.is_finished());
    }
}

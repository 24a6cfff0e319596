//! The control loop: a source changed, so compile, publish, and say what became of each object.

use std::sync::Arc;
use std::time::Instant;

use compiler::{Inputs, Output, Settings, Verdict, compile};
use tokio::sync::watch;
use wire::generation::Input;

use crate::ca::TrustBundle;
use crate::push::Streams;
use crate::source::{Seen, Source};
use crate::telemetry::Metrics;
use crate::verdicts::Verdicts;

/// Turns what the source has seen into what the streams and the verdicts' readers are told.
pub struct Reconciler {
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// The DNS domain of the cluster's Services.
    pub cluster_domain: String,
    /// Where resources go.
    pub streams: Arc<Streams>,
    /// Where verdicts go.
    pub verdicts: Arc<Verdicts>,
    /// Durations and counts.
    pub metrics: Arc<Metrics>,
}

// === impl Reconciler ===

impl Reconciler {
    /// Runs until the source ends. `ready` becomes true once the first world was published.
    pub async fn run(
        self,
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
            let mut inputs = seen.inputs.clone();
            let bundle = bundle.borrow_and_update().clone();
            inputs.seen.observe(Input::Settings, bundle.revision);
            inputs.settings = Settings {
                trust_domain: self.trust_domain.clone(),
                cluster_domain: self.cluster_domain.clone(),
                roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
            };
            output = match self.compile(inputs, output, seen).await {
                Some(output) => output,
                None => return,
            };
            ready.send_replace(true);
        }
    }

    /// `None`: the compiler has panicked.
    async fn compile(&self, inputs: Inputs, before: Output, seen: &Seen) -> Option<Output> {
        let start = Instant::now();
        // Tens of milliseconds for a large world seen for the first time: not where streams are
        // served. A compile that changes little takes less than handing it over.
        let work = move || {
            let output = compile(&inputs, before);
            (inputs, output)
        };
        let (inputs, output) = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => {
                // A bug. Sidecars keep what they have, and whoever restarts this process sees why.
                tracing::error!(%error, "the compiler failed; the operator ends");
                return None;
            }
        };
        self.metrics.compiled(start.elapsed());
        self.streams.publish(&inputs, &output);
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

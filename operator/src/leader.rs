//! Which replica leads: the holder of one Lease, which alone writes statuses. Everything else every
//! replica does.
//!
//! Nobody's clock is compared with anybody else's. A Lease is free when its holder has not renewed
//! it for [`LIFE`] while this replica looked on; a holder takes itself for deposed [`HOLD`] after it
//! *began* its last renewal. So between the two there is time for clocks that run at different
//! speeds, and none for two holders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::api_server::in_time;
use crate::telemetry::Metrics;

/// The Lease's name.
pub const NAME: &str = "meshwright-operator";
/// Where the holder takes the other replicas' reports, as an annotation of the Lease.
pub const ADDRESS: &str = "meshwright.dev/address";
/// How long a Lease that nobody renews keeps others away.
pub const LIFE: Duration = Duration::from_secs(15);
/// How long a renewal lets its holder lead.
pub const HOLD: Duration = Duration::from_secs(10);
/// Between a holder's renewals.
const RENEW: Duration = Duration::from_secs(4);
/// Between the looks of those who don't hold it, and after what failed.
const LOOK: Duration = Duration::from_secs(2);
/// How long the API server may take; twice that is still within [`HOLD`].
const ANSWER: Duration = Duration::from_secs(3);

/// Who leads, as far as this replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leader {
    /// Nobody, or it is not known.
    #[default]
    Nobody,
    /// This replica, until then at least.
    Us {
        /// When it must have been renewed.
        until: Instant,
    },
    /// Another one.
    Other {
        /// Its name.
        replica: String,
        /// Where it takes reports; `None` when it doesn't say.
        address: Option<SocketAddr>,
    },
}

/// Takes part in the election, for one replica.
pub struct Election {
    api: Api<Lease>,
    replica: String,
    address: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    seen: Option<Sight>,
}

/// Gives the Lease up at the end of a replica.
pub struct Resignation {
    api: Api<Lease>,
    replica: String,
}

/// A Lease, and since when it has been as it is.
struct Sight {
    lease: Lease,
    since: Instant,
}

// === impl Leader ===

impl Leader {
    /// One that leads for ever: there is no other replica.
    pub fn alone() -> watch::Receiver<Leader> {
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        let until = Instant::now() + century;
        watch::channel(Leader::Us { until }).1
    }

    /// Whether this replica leads at this moment.
    pub fn is_us(&self) -> bool {
        matches!(self, Leader::Us { until } if Instant::now() < *until)
    }

    /// Whether the two differ but in how long this replica leads.
    pub(crate) fn is_same(&self, other: &Leader) -> bool {
        match (self, other) {
            (Leader::Us { .. }, Leader::Us { .. }) => true,
            (one, other) => one == other,
        }
    }
}

// === impl Election ===

impl Election {
    /// For the Lease [`NAME`] in that namespace. `replica` is this one's name, unlike any other's,
    /// `address` where others reach it.
    pub fn new(
        client: Client,
        namespace: &str,
        replica: &str,
        address: Option<SocketAddr>,
        metrics: Arc<Metrics>,
    ) -> Election {
        Election {
            api: Api::namespaced(client, namespace),
            replica: replica.to_owned(),
            address,
            metrics,
            seen: None,
        }
    }

    /// Takes part for as long as it is polled, and says who leads.
    pub async fn run(mut self, leader: watch::Sender<Leader>) {
        loop {
            let began = Instant::now();
            match self.round().await {
                Ok(Some(now)) => tell(&leader, now),
                Ok(None) => {}
                Err(error) => {
                    self.metrics.lease_failures.inc();
                    tracing::warn!(%error, "the Lease that says which replica leads can't be read or renewed; trying again in {LOOK:?}");
                }
            }
            // What it said last holds as long as it may. Whom others took to lead is not known to
            // lead no more.
            let leads = leader.borrow().clone();
            let pause = match leads {
                Leader::Us { until } => {
                    let fresh = until >= began + HOLD;
                    let next = began + if fresh { RENEW } else { LOOK };
                    next.min(until).saturating_duration_since(Instant::now())
                }
                // Replicas that look together don't stay together.
                _ => LOOK.mul_f64(rand::rng().random_range(0.8..1.2)),
            };
            sleep(pause).await;
            let over = matches!(leads, Leader::Us { until } if until <= Instant::now());
            if over {
                tell(&leader, Leader::Nobody);
            }
        }
    }

    /// One look, and the attempt to renew or take the Lease where that is due. `None` when somebody
    /// wrote it meanwhile: whoever it was, the next look tells, and what was known holds as long.
    async fn round(&mut self) -> Result<Option<Leader>, kube::Error> {
        let began = Instant::now();
        let found = in_time(ANSWER, self.api.get_opt(NAME)).await?;
        let Some(found) = found else {
            let lease = self.lease(None);
            let made = in_time(ANSWER, self.api.create(&PostParams::default(), &lease)).await;
            return self.taken(made, began);
        };
        self.look(&found);
        let spec = found.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let free = holder.is_empty()
            || holder == self.replica
            || self
                .seen
                .as_ref()
                .is_some_and(|sight| sight.since + LIFE <= began);
        if !free {
            return Ok(Some(other(&found, holder)));
        }
        let lease = self.lease(Some(&found));
        // Refused if anybody has written it since: the resourceVersion goes with it.
        let params = PostParams::default();
        let renewed = in_time(ANSWER, self.api.replace(NAME, &params, &lease)).await;
        self.taken(renewed, began)
    }

    /// Keeps in mind since when the Lease has been as it is.
    fn look(&mut self, found: &Lease) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let same = |sight: &Sight| version(&sight.lease) == version(found);
        if !self.seen.as_ref().is_some_and(same) {
            self.seen = Some(Sight {
                lease: found.clone(),
                since: Instant::now(),
            });
        }
    }

    fn taken(
        &mut self,
        written: Result<Lease, kube::Error>,
        began: Instant,
    ) -> Result<Option<Leader>, kube::Error> {
        match written {
            Ok(lease) => {
                self.look(&lease);
                let until = began + HOLD;
                Ok(Some(Leader::Us { until }))
            }
            Err(kube::Error::Api(error)) if error.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The Lease as this replica holds it.
    fn lease(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = before.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = lease.spec.take().unwrap_or_default();
        let renews = spec.holder_identity.as_ref() == Some(&self.replica);
        let transitions = spec.lease_transitions.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.replica.clone()),
            lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
            acquire_time: match renews {
                true => spec.acquire_time,
                false => Some(now.clone()),
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(i32::from(!renews))),
            ..LeaseSpec::default()
        });
        let annotations = lease.metadata.annotations.get_or_insert_default();
        match self.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            None => annotations.remove(ADDRESS),
        };
        lease
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

// === impl Resignation ===

impl Resignation {
    /// Of that replica, for the Lease in that namespace.
    pub fn new(client: Client, namespace: &str, replica: &str) -> Resignation {
        Resignation {
            api: Api::namespaced(client, namespace),
            replica: replica.to_owned(),
        }
    }

    /// Gives the Lease up if the replica holds it, so that another need not wait for its end. To be
    /// called when the replica no longer does what a leader does. For want of an answer the others
    /// wait.
    pub async fn resign(self) {
        if let Err(error) = in_time(ANSWER, self.release()).await {
            tracing::info!(%error, "the Lease isn't given up; another replica takes it in {LIFE:?}");
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.replica) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease.metadata.annotations = without_address(lease.metadata.annotations.take());
        self.api
            .replace(NAME, &PostParams::default(), &lease)
            .await?;
        tracing::info!("the Lease is given up");
        Ok(())
    }
}

impl std::fmt::Debug for Resignation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resignation")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

fn without_address(
    annotations: Option<BTreeMap<String, String>>,
) -> Option<BTreeMap<String, String>> {
    let mut annotations = annotations?;
    annotations.remove(ADDRESS);
    Some(annotations)
}

fn tell(leader: &watch::Sender<Leader>, now: Leader) {
    let before = leader.send_replace(now.clone());
    if before.is_same(&now) {
        return;
    }
    match &now {
        Leader::Us { .. } => tracing::info!("this replica leads: it writes the statuses"),
        Leader::Other { replica, .. } => tracing::info!(%replica, "another replica leads"),
        Leader::Nobody => tracing::info!("it is not known which replica leads"),
    }
}

/// Who holds the Lease, when it is somebody else.
fn other(lease: &Lease, replica: String) -> Leader {
    let annotations = lease.metadata.annotations.as_ref();
    let address = annotations.and_then(|all| all.get(ADDRESS)?.parse().ok());
    Leader::Other { replica, address }
}

#[cfg(test)]
mod tests;

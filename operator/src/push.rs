//! Who receives what: streams by identity, changes by audience, answers into counts.
//!
//! [`Discovery`] is the service that sidecars call. [`Streams`] has an index from audiences to
//! streams, so that a changed resource is told to those whom it concerns, and no stream's view is
//! ever compared as a whole.

mod digest;
mod grpc;
mod ledger;
mod remembered;
mod reports;
mod snapshot;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use compiler::ObjectKey;
use futures::Stream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tonic::Status;
use wire::delta::{Outcome, Sent, View as _};
use wire::discovery::{Claim, FromSidecar, Report};
use wire::grant::MAX_CLAIMS;
use wire::server::{Deltas, Mailbox, serve};
use wire::{Kind, ResourceId, capability, mesh};

pub use digest::{Digest, Fingerprint, PodId};
pub use grpc::Grpc;
use ledger::StreamId;
pub use reports::EventsReport;
pub use snapshot::{Snapshot, StreamView};
pub(crate) use streams::NAMED;
pub use streams::{MAX_STREAMS, Programmed, Streams, Subscriber};

use crate::claims::{Claimant, Claims};
use crate::tls::Peer;

/// How long a stream waits for the first compilation.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service that sidecars receive their resources from.
#[derive(Clone, Debug)]
pub struct Discovery {
    streams: Arc<Streams>,
    ready: watch::Receiver<bool>,
    claims: Arc<Claims>,
}

/// One stream, for [`wire::server`].
struct Subscription {
    streams: Arc<Streams>,
    id: StreamId,
    /// Whose it is.
    pod: String,
    mailbox: Arc<Mailbox>,
    claims: Arc<Claims>,
    /// How many of its claims may be decided at a time.
    places: Arc<Semaphore>,
}

// === impl Discovery ===

impl Discovery {
    /// Serves `streams`, once `ready` is true: a sidecar that has more than this replica has seen
    /// so far must not be told to drop it. What sidecars claim is granted by `claims`.
    pub fn new(
        streams: Arc<Streams>,
        ready: watch::Receiver<bool>,
        claims: Arc<Claims>,
    ) -> Discovery {
        Discovery {
            streams,
            ready,
            claims,
        }
    }

    /// Begins a stream with who has connected.
    ///
    /// # Errors
    /// The status that the call ends with: when the peer has no certificate of this mesh, and when this
    /// replica has no place, or has not read the cluster in a moment.
    pub async fn stream<M>(&self, peer: Option<&Peer>, messages: M) -> Result<Deltas, Status>
    where
        M: Stream<Item = Result<FromSidecar, Status>> + Send + 'static,
    {
        let subscriber = subscriber(peer)?;
        // The first compilation is a matter of moments; a refusal would cost both another handshake.
        let mut ready = self.ready.clone();
        if !matches!(
            timeout(PATIENCE, ready.wait_for(|ready| *ready)).await,
            Ok(Ok(_))
        ) {
            return Err(Status::unavailable("this replica is starting; try again"));
        }
        let mailbox = Mailbox::new();
        tracing::debug!(pod = %subscriber.pod, "a stream begins");
        let pod = format!("{}/{}", subscriber.pod, subscriber.uid);
        let id = self
            .streams
            .join(subscriber, mailbox.clone())
            .map_err(|refused| Status::unavailable(refused.to_string()))?;
        let subscription = Subscription {
            streams: self.streams.clone(),
            id,
            pod,
            mailbox: mailbox.clone(),
            claims: self.claims.clone(),
            places: Arc::new(Semaphore::new(MAX_CLAIMS)),
        };
        Ok(serve(messages, mailbox, subscription))
    }
}

/// Who calls, as the certificate proves; what the messages say has no weight.
fn subscriber(peer: Option<&Peer>) -> Result<Subscriber, Status> {
    let leaf = peer
        .and_then(|peer| peer.identity.as_ref())
        .ok_or_else(|| {
            Status::unauthenticated(
                "a certificate of this mesh is needed; ask Certificates.Sign first",
            )
        })?;
    Ok(Subscriber {
        pod: ObjectKey::new(leaf.namespace.clone(), leaf.pod.clone()),
        uid: leaf.pod_uid.clone(),
        service_account: leaf.service_account.clone(),
        expires: leaf.expires,
    })
}

// === impl Subscription ===

impl Subscription {
    /// Who claims what, where this stream has been told of it: nothing else may be claimed.
    fn claimant(&self, id: &str) -> Option<Claimant> {
        let id: ResourceId = id.parse().ok()?;
        let resource = self.streams.view(self.id).get(&id);
        let resource = resource.filter(|_| id.kind == Kind::Subscription)?;
        let subscription = resource.decode::<mesh::Subscription>().ok()?;
        Some(Claimant {
            object: ObjectKey::new(&*id.namespace, &*id.name),
            pod: self.pod.clone(),
            schedule: subscription.schedule?,
        })
    }
}

impl wire::server::Subscriber for Subscription {
    type View = StreamView;

    fn view(&self) -> StreamView {
        self.streams.view(self.id)
    }

    fn introduced(&mut self, capabilities: &[String]) {
        if !capabilities.iter().any(|one| one == capability::LOOKUP) {
            self.streams.cannot_ask(self.id);
        }
    }

    fn asked(&mut self, wanted: Vec<ResourceId>, unwanted: Vec<ResourceId>) {
        self.streams.asked(self.id, wanted, &unwanted);
    }

    fn claimed(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            // Who claims more than is decided is not answered, and claims again.
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                return;
            };
            let Some(claimant) = self.claimant(&claim.id) else {
                continue;
            };
            let (claims, mailbox) = (self.claims.clone(), self.mailbox.clone());
            tokio::spawn(async move {
                if let Some(grant) = claims.claim(&claimant, &claim).await {
                    mailbox.granted(grant);
                }
                drop(place);
            });
        }
    }

    fn opened(&mut self, sent: &Sent) {
        self.streams.opened(self.id, sent);
    }

    fn reported(&mut self, report: Report) {
        self.streams.reported(self.id, report);
    }

    fn acked(&mut self, outcomes: Vec<(ResourceId, Outcome)>) {
        self.streams.answered(self.id, &outcomes);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.streams.leave(self.id);
    }
}

#[cfg(test)]
mod tests;

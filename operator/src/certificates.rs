//! The gRPC service that gives workloads their certificates.
//!
//! A workload without a leaf proves itself by its token, one with a leaf (renewal) by the leaf of
//! its connection. What is asked for beside that has no weight: see [`crate::ca::csr`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use wire::discovery::certificates_server::{self, CertificatesServer};
use wire::discovery::{SignRequest, SignResponse};

use crate::ca::{self, Ca, OPERATOR, PeerLeaf, RequestedKey};
use crate::issuer::{Issuer, Refusal, Workload};
use crate::places::{Limits, Places};
use crate::tls::Peer;

/// Requests at once, by address; each may wait for the API server. More are told to come back: a
/// sidecar asks again with growing pauses. Those with a token and those with a certificate have
/// such places each, so that nobody's tokens keep a certificate from being renewed.
const AT_ONCE: Limits = Limits {
    total: 64,
    each: 16,
    kept: PATIENCE,
};

/// The largest message that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// The longest token, in bytes. A service account's is 1 to 2 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How long the issuer may take to say who is asking.
const PATIENCE: Duration = Duration::from_secs(10);

/// Signs for whoever the issuer knows.
pub struct Certificates {
    ca: Arc<Ca>,
    issuer: Arc<dyn Issuer>,
    /// Of workloads that have a token alone.
    first: Arc<Places<IpAddr>>,
    renewals: Arc<Places<IpAddr>>,
}

// === impl Certificates ===

impl Certificates {
    /// The service, ready to be added to a server whose connections carry a [`Peer`].
    pub fn server(ca: Arc<Ca>, issuer: Arc<dyn Issuer>) -> CertificatesServer<Certificates> {
        let service = Certificates {
            ca,
            issuer,
            first: Places::new(AT_ONCE),
            renewals: Places::new(AT_ONCE),
        };
        CertificatesServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Who is asking, and how that is known.
    async fn asker(&self, peer: &Peer, token: &str) -> Result<(Workload, &'static str), Status> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Status::invalid_argument(format!(
                "the token is longer than {MAX_TOKEN_BYTES} bytes"
            )));
        }
        let (workload, proven_by) = match &peer.identity {
            _ if !token.is_empty() => (in_time(self.issuer.identify(token)).await?, "token"),
            Some(leaf) => (renewing(leaf)?, "certificate"),
            None => {
                return Err(Status::unauthenticated(
                    "neither a token nor a certificate of this mesh was presented; one of them must say who is asking",
                ));
            }
        };
        in_time(self.issuer.still_runs(&workload, peer.address.ip())).await?;
        Ok((workload, proven_by))
    }

    /// A certificate for whoever is asking.
    async fn signed(&self, peer: &Peer, request: SignRequest) -> Result<SignResponse, Status> {
        let SignRequest { csr, token } = request;
        // Cheaper than asking the API server, and so first.
        let key = RequestedKey::from_csr(&csr)
            .map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        let (workload, proven_by) = self.asker(peer, &token).await.inspect_err(|status| {
            tracing::warn!(reason = status.message(), from = %peer.address, "no certificate is issued");
        })?;
        if (
            workload.namespace.as_str(),
            workload.service_account.as_str(),
        ) == OPERATOR
        {
            return Err(Status::permission_denied(
                "this service account's identity is the operator's own, by which sidecars know it; run workloads as another one",
            ));
        }
        let issued = self.ca.issue(&key, &workload).map_err(|error| {
            tracing::error!(%error, %workload, "no certificate can be issued");
            match error {
                ca::Error::Ended | ca::Error::Stale => Status::unavailable(error.to_string()),
                _ => Status::internal(
                    "the certificate couldn't be made; the operator's log says why",
                ),
            }
        })?;
        let identity = workload.spiffe_id(self.ca.trust_domain());
        tracing::info!(%workload, %identity, proven_by, "certificate issued");
        let bundle = self.ca.bundle().borrow().clone();
        Ok(SignResponse {
            chain: issued.chain.iter().map(|one| one.to_vec().into()).collect(),
            roots: bundle
                .roots
                .iter()
                .map(|root| root.to_vec().into())
                .collect(),
        })
    }
}

#[tonic::async_trait]
impl certificates_server::Certificates for Certificates {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let Some(peer) = request.extensions().get::<Arc<Peer>>().cloned() else {
            return Err(Status::internal(
                "the connection does not say where it comes from",
            ));
        };
        let request = request.into_inner();
        let renews = peer.identity.is_some() && request.token.is_empty();
        let places = match renews {
            true => &self.renewals,
            false => &self.first,
        };
        let busy = || {
            Status::resource_exhausted(
                "too many certificates are being asked for already; ask again",
            )
        };
        let place = places.take(peer.address.ip().to_canonical());
        let place = place.ok_or_else(busy)?;
        tokio::select! {
            signed = self.signed(&peer, request) => Ok(Response::new(signed?)),
            () = place.lost() => Err(busy()),
        }
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

/// Whose leaf it is.
fn renewing(leaf: &PeerLeaf) -> Result<Workload, Status> {
    // The handshake has checked it, but the connection may be older than that.
    if leaf.expires <= SystemTime::now() {
        return Err(Status::unauthenticated(
            "the certificate of this connection has expired; ask again with the workload's token",
        ));
    }
    Ok(leaf.workload())
}

/// What the issuer says, unless it takes too long.
async fn in_time<T>(asked: BoxFuture<'_, Result<T, Refusal>>) -> Result<T, Status> {
    let Ok(said) = timeout(PATIENCE, asked).await else {
        return Err(Status::unavailable(format!(
            "it couldn't be said within {PATIENCE:?} who is asking; ask again"
        )));
    };
    said.map_err(status)
}

fn status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Unknown(why) => Status::unauthenticated(why),
        Refusal::Denied(why) => Status::permission_denied(why),
        Refusal::Unavailable(why) => Status::unavailable(why),
    }
}

#[cfg(test)]
mod tests;

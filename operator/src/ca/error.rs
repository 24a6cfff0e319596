//! Why there is no certificate authority, or no certificate of it.

use super::ATTEMPTS;
use super::store::StoreError;

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is kept is no authority.
    #[error("what is kept of the certificate authority can't be used: {0}")]
    Unusable(String),
    /// Other replicas were first, again and again.
    #[error(
        "the certificate authority's keys were changed by another replica {ATTEMPTS} times in a row"
    )]
    Overtaken,
    /// What signs has ended: renewing it must have failed for long.
    #[error(
        "the certificate that signs others has ended; the operator's log says why it was not renewed"
    )]
    Ended,
    /// Another replica may have let another root sign meanwhile.
    #[error(
        "the certificate authority's keys couldn't be looked at for a while; the operator's log says why"
    )]
    Stale,
    /// There is nothing to begin with.
    #[error("no certificate authority is provided yet")]
    NotProvided,
    /// A certificate or key could not be made.
    #[error("can't make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

//! Who this workload is, and how a peer is recognised.
//!
//! An identity is a SPIFFE id in the one URI SAN of a leaf certificate. The sidecar makes its own
//! key, has the operator sign it ([`certs`]), and takes a peer for what its leaf proves
//! ([`verify`]); no header, address or name counts.

pub mod certs;
pub mod spiffe;
pub mod store;
pub mod verify;

pub use spiffe::SpiffeId;

//! What is sent from the operator to the sidecars, and how it travels.
//!
//! Read in this order: [`id`] and [`generation`] (what is named, how new it is), [`resource`] (what
//! is sent), [`delta`] (the two ends of a stream as plain state machines), then [`message`],
//! [`server`] and [`client`] (the same two ends on a network).
//!
//! [`path`] and [`regex`] say how the texts of a [`mesh::Match`] are read: the compiler refuses what
//! no sidecar could build, so both read them here. [`jwks`] does the same for the keys of those who
//! issue tokens, [`store`] for where replicas share something, [`broker`] for where
//! events are, [`json`] for what must not mean two things,
//! [`probe`] for what the kubelet asks, [`capture`] for how a pod says that a node captures it, and [`filter`],
//! [`cesql`] and [`data`] for what is asked of an event.

mod authority;
pub mod broker;
pub mod capability;
pub mod capture;
pub mod cesql;
pub mod claims;
pub mod client;
pub mod cron;
pub mod data;
pub mod delta;
pub mod filter;
pub mod generation;
pub mod grant;
pub mod id;
pub mod json;
pub mod jwks;
pub mod lookup;
pub mod message;
pub mod path;
pub mod probe;
pub mod regex;
pub mod report;
pub mod resource;
pub mod server;
pub mod store;

pub use generation::Generation;
pub use id::{Kind, ResourceId};
pub use resource::Resource;

/// The resources: what a sidecar enforces. Generated from `proto/mesh.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod mesh {
    tonic::include_proto!("meshwright.mesh.v1");
}

/// The delta stream, certificate signing, and what a sidecar keeps on its volume. Generated from
/// `proto/discovery.proto` and `proto/saved.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod discovery {
    tonic::include_proto!("meshwright.discovery.v1");
}

/// What the operator's replicas tell each other. Generated from `proto/replicas.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod replicas {
    tonic::include_proto!("meshwright.replicas.v1");
}

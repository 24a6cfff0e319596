//! From what people write to what is sent: a pure function of the world, without clock, client or
//! runtime.
//!
//! [`compile`] turns [`Inputs`] into [`Output`]: resources for the sidecars, each with its audience,
//! and a [`Verdict`] for each object that a person wrote. It never fails as a whole: a bad object
//! becomes a verdict and affects no other. Work is remembered per object: what did not change since
//! `before` is not looked at again, and the result is the same as from scratch.

mod access;
mod advice;
mod api_route;
mod attach;
mod broker;
mod cache;
mod client_certificate;
mod compile;
mod describe;
mod endpoints;
mod event_subscription;
mod guard;
mod host;
mod idempotency;
mod index;
mod inputs;
mod network;
mod output;
mod own_pods;
pub mod permissive;
pub mod pod_settings;
mod publish;
mod rate_limit;
mod refers;
mod retry_policy;
mod review;
mod store;
mod verdict;
mod workload;
pub mod yaml;

pub use access::keys::{CONSUMER, CREDENTIAL, PLAN, consumer_key};
pub use advice::advice;
pub use broker::BROKER;
pub use compile::compile;
pub use describe::describe_change;
pub use endpoints::protocol;
pub use inputs::{
    Inputs, OF_SECRETS, ObjectKey, ObjectKind, ObjectRef, Settings, Unreadable, seen_in,
};
pub use output::{Around, Audience, AudienceKey, Compiled, Output};
pub use refers::{refer_to_brokers, refer_to_consumers, refer_to_credentials};
pub use review::{Draft, Opinion, Review};
pub use verdict::{Condition, Verdict};
pub use workload::{CARRIES, SIDECAR_CONTAINER, is_meshed};

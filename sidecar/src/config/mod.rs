//! What the sidecar was told, built into what the request path reads.
//!
//! A delta arrives on the control thread ([`apply`]): each resource is built ([`service`],
//! [`route`], [`guard`]) or rejected on its own, all are linked into one immutable [`State`], and
//! the state is handed to every worker. A request reads one state from beginning to end.

pub mod access;
mod addresses;
pub mod apply;
pub mod async_reply;
pub mod broker;
pub mod followers;
pub mod guard;
pub mod lookup;
pub mod outside;
pub mod publish;
pub mod rate_limit;
pub mod remote;
pub mod retry_policy;
pub mod route;
pub mod schedule;
pub mod service;
pub mod state;
pub mod store;
pub mod subscription;

pub use state::State;

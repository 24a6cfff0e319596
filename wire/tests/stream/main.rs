//! The stream between operator and sidecar: its two ends as state machines, and on a network.
#![allow(clippy::unwrap_used)]

mod backoff;
mod claims;
mod convergence;
mod hostile;
mod lagging;
mod lookup;
mod network;
mod operator;
mod reconnect;
mod reports;
mod sending;
mod snapshot;
mod timeouts;
mod world;

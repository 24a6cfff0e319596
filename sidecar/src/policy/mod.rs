//! Policies: one file each, all with the same anatomy.
//!
//! | policy | phase | CRD field | verb |
//! |---|---|---|---|
//! | [`timeout`] | around all attempts | `ApiRoute.rules[].timeouts.request`, `grpc-timeout` | `start` |
//! | [`load_balancer`] | endpoint | (always on) | `pick` |
//!
//! The anatomy of a file: what it does, in which phase, from which field, and what a client sees
//! when it says no; the runtime type; how it is built; its verb; tests on a paused clock.

pub mod load_balancer;
pub mod timeout;

//! Brokers as the sidecar's own clients of them use them: real servers, without a mesh.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod letters;
mod nats;
mod rabbitmq;
mod redis;

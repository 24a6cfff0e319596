//! The harness of the suites that run whole sidecars ([`mesh`]) and a whole cluster ([`cluster`]).

pub mod brokers;
pub mod client;
pub mod cluster;
pub mod foreign;
pub mod frames;
pub mod issuer;
pub mod mesh;
pub mod node;
pub mod outside;
mod panics;
mod program;
pub mod python;
pub mod raw;
pub mod shown;
pub mod upstream;
mod wait;

pub use wait::wait_until;

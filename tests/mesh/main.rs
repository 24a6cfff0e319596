//! Whole operators and sidecars over real sockets: one file for each subject.

mod bounds;
mod configuration;
mod identity;
mod life;
mod protocols;
mod routing;
mod telemetry;

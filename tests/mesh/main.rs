//! Whole operators and sidecars over real sockets: one file for each subject.

mod addresses;
mod balancing;
mod bounds;
mod claims;
mod configuration;
mod connections;
mod explain;
mod filters;
mod floods;
mod handshakes;
mod http1;
mod http2;
mod identity;
mod layers;
mod life;
mod matching;
mod opaque;
mod overload;
mod permissive;
mod protocols;
mod routing;
mod smuggling;
mod tap;
mod telemetry;
mod upgrades;
mod upstreams;

//! Whole operators and sidecars over real sockets: one file for each subject.

mod addresses;
mod bounds;
mod claims;
mod configuration;
mod filters;
mod floods;
mod http1;
mod http2;
mod identity;
mod life;
mod matching;
mod opaque;
mod overload;
mod permissive;
mod routing;
mod smuggling;
mod telemetry;
mod upgrades;
mod upstreams;

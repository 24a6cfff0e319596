//! Runs the compiler against a cluster or a folder, and pushes the result to the sidecars.
//!
//! The control loop, in the order of its stages: [`source`] (objects come in), [`reconcile`]
//! (compile), [`push`] (resources go out, answers come back), [`verdicts`] and [`status`] (what
//! became of each object is told). Of several replicas all do this, but that one of them tells what
//! became of each object, for all: [`leader`] says which, [`replicas`] how it knows. [`claims`] says which
//! sidecar does what one alone does at a time. [`app`] builds it all; [`probe`] asks one that runs.

mod api_server;
pub mod app;
pub mod args;
pub mod ca;
mod capacity;
pub mod certificates;
pub mod claims;
pub mod events;
mod grpc;
pub mod http;
pub mod inject;
pub mod issuer;
pub mod leader;
mod places;
pub mod probe;
pub mod push;
pub mod reconcile;
pub mod replicas;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod unmeshed;
pub mod verdicts;
pub mod webhook;

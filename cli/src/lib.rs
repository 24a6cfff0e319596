//! The `meshwright` command: what people type.
//!
//! - [`up`] runs a folder of documents as a mesh on this machine;
//! - [`exec`] and [`status`] ask a mesh that runs;
//! - [`check`] says what is wrong with a folder; [`inject`] puts sidecars into the pods of files;
//! - [`config`] shows what a sidecar has in force, [`explain`] what would become of a request, both
//!   [`tap`] its requests as they end, [`cache`] what is kept of its answers, all asked by way of
//!   [`sidecar`]; [`port_forward`] goes to the application beside it;
//! - [`certificates`] shows and rotates the roots of the mesh;
//! - [`consumer`] makes, replaces and ends the keys of consumers, in a cluster or a folder;
//! - [`install`] brings the mesh into a cluster, on, and out of it;
//! - [`fds`] and [`http`] are how the parts of a mesh talk;
//! - [`terminal`] runs a command in one.

pub mod args;
pub mod cache;
pub mod certificates;
pub mod check;
pub mod config;
pub mod consumer;
pub mod events;
pub mod exec;
pub mod explain;
pub mod fds;
pub mod http;
pub mod inject;
pub mod install;
pub mod kubectl;
pub mod port_forward;
pub mod sidecar;
pub mod signals;
#[cfg(test)]
#[path = "../../tests/fuzz/spoil.rs"]
mod spoil;
pub mod status;
pub mod tap;
pub mod terminal;
pub mod up;

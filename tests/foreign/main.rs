//! Programs that know nothing of a mesh, and notice none: each talks to its server with and without
//! one, and what both saw is the same.
//!
//! `tests/foreign/programs/build` says what is needed, and installs or builds it.

mod curl;
mod go;
mod grpc;
mod java;
mod mail;
mod nats;
mod node;
mod postgres;
mod python;
mod redis;

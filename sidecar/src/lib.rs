//! Enforces it: the proxy beside each application.
//!
//! Start reading at [`proxy`]: it shows the life of a request. The other modules, in the order in
//! which a connection meets them:
//!
//! - [`capture`] sends an application's connections to the sidecar (run once, before it starts);
//! - [`net`] accepts them, learns where they were going, and speaks TLS;
//! - [`proxy`] carries each request through;
//! - [`policy`] decides, one file per policy;
//! - [`events`] publishes what becomes an event, and delivers events;
//! - [`config`] is what the policies are built from, as received from the operator;
//! - [`identity`] is who this workload is and how a peer is recognised;
//! - [`telemetry`] says what happened;
//! - [`admin`] answers people, scrapers and the kubelet;
//! - [`worker`], [`drain`], [`app`] and [`args`] are the process around them.

pub mod admin;
pub mod app;
pub mod args;
pub mod capture;
pub mod config;
pub mod drain;
pub mod events;
pub mod identity;
pub mod net;
pub mod policy;
pub mod proxy;
pub mod telemetry;
pub mod worker;

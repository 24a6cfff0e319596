//! The life of an event.
//!
//! ```text
//!  a caller of the Service          the application beside the sidecar
//!      │ a rule with `publish`          │ POST :15090/publish/<broker>/<topic>
//!      ▼ (proxy/inbound.rs)             ▼ (port.rs)
//!   publish ── one event, many, or a plain body that becomes one (publish.rs, cloud_event.rs)
//!      │       202 once the broker holds it
//!      ▼
//!   broker ─── over the mesh, as the application's calls go (connections.rs, broker.rs)
//!      │
//!      ▼ pulled by one of those that share the work (subscriber.rs)
//!   deliver ── filters, a POST to the target, what its answer means (deliver.rs)
//!      │
//!      └────── done, again later, or to the dead letter topic (dead_letter.rs)
//! ```
//!
//! An event is acknowledged when its target has answered well, or when the broker holds it as a dead letter:
//! whatever dies before that, it comes again.

pub mod broker;
pub mod cloud_event;
pub mod connections;
mod dead_letter;
mod deliver;
pub mod port;
pub mod publish;
pub mod subscriber;

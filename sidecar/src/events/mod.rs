//! The life of an event.
//!
//! ```text
//!  a caller of the Service          the application beside the sidecar
//!      │ a rule with `publish`          │ POST :15090/publish/<broker>/<topic>
//!      ▼ (proxy/inbound.rs)             ▼ (port.rs)
//!   publish ── one event, many, or a plain body that becomes one (publish.rs, cloud_event.rs)
//!      │       202 once the broker holds it; or many records, while they come (publish/upload.rs, split.rs)
//!      ▼
//!   broker ─── over the mesh, as the application's calls go (connections.rs, broker.rs)
//!      │
//!      ▼ pulled by one of those that share the work (subscriber.rs), or by one alone (in_order.rs, lanes.rs);
//!      │ or, instead of a broker, due at a time, and claimed by one of them (schedule.rs)
//!   deliver ── filters (filtered.rs), duplicates (done.rs), a POST to the target, what its answer means (deliver.rs, post.rs), alone or with
//!      │       others (batch.rs, outcomes.rs); what it replies is published (reply.rs)
//!      └────── done, again later, or to the dead letter topic (settle.rs, dead_letter.rs), from which it may be
//!              delivered once more (replay.rs), as people want (desk.rs)
//! ```
//!
//! What is replied to an event may be kept for whoever published it, in a store (jobs.rs): the sidecars that published it
//! are subscribed to the topic of replies.
//!
//! Beside that whoever may reads a topic by itself, as a stream of server-sent events (stream.rs), or by WebSocket
//! (stream/websocket.rs).
//!
//! An event is acknowledged when its target has answered well, or when the broker holds it as a dead letter:
//! whatever dies before that, it comes again.

mod batch;
pub mod broker;
pub mod cloud_event;
pub mod connections;
mod copy;
mod dead_letter;
mod deliver;
pub mod desk;
mod done;
mod filtered;
mod gathering;
mod hops;
mod in_order;
pub mod jobs;
mod lanes;
mod outcomes;
pub mod port;
mod post;
mod posted;
pub mod publish;
mod received;
mod replay;
mod reply;
mod running;
mod schedule;
mod settle;
pub mod split;
pub mod stream;
pub mod subscriber;

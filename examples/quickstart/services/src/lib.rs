//! The shop: `web`, `orders` and `customers`, small services as anybody would write them. They call
//! each other by name over plain HTTP and know nothing of the mesh.

pub mod client;
pub mod grpc;
pub mod server;
pub mod shop;
pub mod talk;

//! Sockets: accepting, places for strangers, where a connection was going, what its first bytes are, TLS,
//! opaque copying; and what stores are told and say.

pub mod accept;
pub mod connect;
pub mod detect;
pub mod opaque;
pub mod original_dst;
pub mod places;
pub mod resp;
pub mod rewound;
pub mod server_name;
pub mod tls;
pub mod to_operator;

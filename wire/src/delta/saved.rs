//! The last good configuration as bytes, for the sidecar's volume.
//!
//! Written whole and read whole. A file that is torn, because the sidecar was killed while it
//! wrote, is told by its checksum and is as good as none.

use prost::Message;

use super::Held;
use crate::{
    Resource, ResourceId, discovery, discovery::Saved, id::InvalidId, resource::InvalidResource,
};

const MAGIC: &[u8; 8] = b"MWHELD01";
const CHECKSUM_BYTES: usize = 32;

/// Why bytes are not what [`Held::to_bytes`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Torn {
    /// Written by something else, or by an incompatible version.
    #[error("not a saved configuration of this version")]
    Magic,
    /// Cut off or damaged.
    #[error("the checksum is wrong: the file is cut off or damaged")]
    Checksum,
    /// The checksum is right, the message is not.
    #[error("{0}")]
    Message(#[from] prost::DecodeError),
    /// A resource in it is not valid.
    #[error("{0}: {1}")]
    Resource(String, InvalidResource),
    /// A removal in it is not valid.
    #[error("{0}: {1}")]
    Removed(String, InvalidId),
}

// === impl Held ===

impl Held {
    /// Everything that is to survive a restart, bodies included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let saved = Saved {
            resources: self.resources.values().cloned().map(Into::into).collect(),
            removed: self
                .removed
                .iter()
                .map(|(id, generation)| discovery::Removed {
                    id: id.to_string(),
                    generation: Some((*generation).into()),
                })
                .collect(),
            seen: Some(self.floor.into()),
            complete: self.complete,
        };
        let message = saved.encode_to_vec();
        let mut bytes = Vec::with_capacity(MAGIC.len() + CHECKSUM_BYTES + message.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(blake3::hash(&message).as_bytes());
        bytes.extend_from_slice(&message);
        bytes
    }

    /// Takes over what [`to_bytes`](Held::to_bytes) wrote, in place of what is held. Follow it
    /// with [`replay`](Held::replay), as [`crate::client::run`] does.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Torn> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Torn::Magic)?;
        let (checksum, message) = rest
            .split_at_checked(CHECKSUM_BYTES)
            .ok_or(Torn::Checksum)?;
        if blake3::hash(message).as_bytes() != checksum {
            return Err(Torn::Checksum);
        }
        let saved = Saved::decode(message)?;
        let mut held = self.emptied();
        held.floor = saved.seen.into();
        held.complete = saved.complete;
        for message in saved.resources {
            let id = message.id.clone();
            let mut resource =
                Resource::try_from(message).map_err(|why| Torn::Resource(id, why))?;
            resource.generation = resource.generation.of(resource.id.kind);
            held.hold(resource);
        }
        for removed in saved.removed {
            let id: ResourceId = removed
                .id
                .parse()
                .map_err(|why| Torn::Removed(removed.id, why))?;
            held.remember_removed(id, removed.generation.into());
        }
        *self = held;
        Ok(())
    }

    /// What `to_bytes` wrote, for the sidecar of this build.
    pub fn from_bytes(bytes: &[u8]) -> Result<Held, Torn> {
        let mut held = Held::default();
        held.restore(bytes)?;
        Ok(held)
    }
}

//! What is sent: one message of `mesh.proto`, with its name, how new it is and what it needs.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Generation, ResourceId, discovery, id::InvalidId};

/// What [`hash`] makes of a resource: equal content has equal hashes on every replica and after
/// every restart.
pub type Hash = [u8; 16];

/// The largest body, in bytes. Kubernetes objects end at 1.5 MiB, and the largest body, a Service
/// with 10 000 endpoints, is below 1 MiB.
pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// The most capabilities that one resource can need.
pub const MAX_CAPABILITIES: usize = 64;

/// One resource. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name; the kind says which message the body is.
    pub id: ResourceId,
    /// What had been seen of the world when it was compiled. A resource that is compiled again
    /// without a change may keep its old generation: a stream sends the replica's position.
    pub generation: Generation,
    /// Of `capabilities` and `body`.
    pub hash: Hash,
    /// What a sidecar must be able to do to enforce it (see [`crate::capability`]).
    pub capabilities: Arc<[String]>,
    /// The encoded message.
    pub body: Bytes,
}

/// Why a resource from the network can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// Its id.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// Its hash is not 16 bytes, or not that of the content: damaged, or hashed by other rules.
    #[error("the hash is not that of the content")]
    Hash,
    /// Its body is too large, in bytes.
    #[error("the body has {0} bytes, the limit is {MAX_BODY_BYTES}")]
    Body(usize),
    /// It names too many capabilities.
    #[error("it needs {0} capabilities, the limit is {MAX_CAPABILITIES}")]
    Capabilities(usize),
}

// === impl Resource ===

impl Resource {
    /// Encodes and hashes `message`, which must be the one that the id's kind names. Messages have
    /// no map fields, so equal messages have equal bytes.
    pub fn new(
        id: ResourceId,
        generation: Generation,
        capabilities: &[&str],
        message: &impl prost::Message,
    ) -> Resource {
        let body = Bytes::from(message.encode_to_vec());
        let capabilities: Arc<[String]> =
            capabilities.iter().map(|name| (*name).to_owned()).collect();
        Resource {
            id,
            generation,
            hash: hash(&capabilities, &body),
            capabilities,
            body,
        }
    }

    /// What it takes beside its id, in bytes: the body, and what it needs.
    pub(crate) fn size(&self) -> usize {
        let capabilities: usize = self.capabilities.iter().map(|name| name.len() + 2).sum();
        capabilities + self.body.len()
    }

    /// The body as the message that the id's kind names.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.body.clone())
    }
}

impl From<Resource> for discovery::Resource {
    fn from(resource: Resource) -> Self {
        discovery::Resource {
            id: resource.id.to_string(),
            generation: Some(resource.generation.into()),
            hash: Bytes::copy_from_slice(&resource.hash),
            capabilities: resource.capabilities.to_vec(),
            body: resource.body,
        }
    }
}

/// Checks everything about it that can be checked without knowing what is held.
impl TryFrom<discovery::Resource> for Resource {
    type Error = InvalidResource;

    fn try_from(message: discovery::Resource) -> Result<Self, InvalidResource> {
        if message.body.len() > MAX_BODY_BYTES {
            return Err(InvalidResource::Body(message.body.len()));
        }
        if message.capabilities.len() > MAX_CAPABILITIES {
            return Err(InvalidResource::Capabilities(message.capabilities.len()));
        }
        let hash = hash(&message.capabilities, &message.body);
        if message.hash != hash.as_slice() {
            return Err(InvalidResource::Hash);
        }
        Ok(Resource {
            id: message.id.parse()?,
            generation: message.generation.into(),
            hash,
            capabilities: message.capabilities.into(),
            body: message.body,
        })
    }
}

/// The first 16 bytes of a BLAKE3: of each capability and a byte that is in no text, of that byte
/// once more, and of the body. What a resource needs is part of it because a sidecar that holds it
/// may be one that can't do that: one whose needs change is another.
pub fn hash(capabilities: &[String], body: &[u8]) -> Hash {
    const END: &[u8] = &[0xff];
    let mut hasher = blake3::Hasher::new();
    for name in capabilities {
        hasher.update(name.as_bytes()).update(END);
    }
    hasher.update(END).update(body);
    let mut hash = Hash::default();
    hasher.finalize_xof().fill(&mut hash);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_and_what_is_said_make_a_hash_that_no_other_split_of_them_has() {
        let hash = |capabilities: &[&str], body: &str| {
            let capabilities: Vec<String> = capabilities.iter().map(|&s| s.to_owned()).collect();
            super::hash(&capabilities, body.as_bytes())
        };
        let all = [
            hash(&[], "route"),
            hash(&["route"], ""),
            hash(&["ro", "ute"], ""),
            hash(&["ro"], "ute"),
            hash(&["", "route"], ""),
            hash(&[], ""),
        ];
        let different: std::collections::HashSet<Hash> = all.into();
        assert_eq!(different.len(), all.len());
        assert_eq!(hash(&["ro"], "ute"), all[3]);
    }
}

//! The last good configuration as bytes, for the sidecar's volume.
//!
//! The file begins with everything, as one record, and goes on with a record for each delta since:
//! what it changed, and how far it told. So the position, which comes twice a minute, costs a hundred
//! bytes however much is held. Once the records are a quarter of the file it is written anew.
//!
//! A sidecar that is killed while it appends leaves a last record that is cut off, and starts from
//! what it held before that one, of which it has told nobody. Any other damage is told by a checksum,
//! and the file is as good as none.

use std::collections::BTreeSet;

use prost::Message;

use super::Held;
use crate::{
    Resource, ResourceId, discovery, discovery::Saved, id::InvalidId, resource::InvalidResource,
};

const MAGIC: &[u8; 8] = b"MWHELD02";
const LENGTH_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 32;

/// What may always be appended, in bytes: a small file is not worth writing anew.
const APPENDED: usize = 256 * 1024;

/// What is to be done to the file so that it says what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Save {
    /// This is to be the file, in place of what it was.
    Whole(Vec<u8>),
    /// This is to be added at its end.
    Append(Vec<u8>),
}

/// What the file says, as far as it differs from what is held.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// How long it was when it was written as a whole.
    whole: usize,
    /// How much has been added since.
    appended: usize,
    /// What has changed since it was last written to.
    touched: BTreeSet<ResourceId>,
}

/// Why bytes are not what [`Held::save`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Torn {
    /// Written by something else, or by an incompatible version.
    #[error("not a saved configuration of this version")]
    Magic,
    /// Cut off or damaged.
    #[error("a checksum is wrong: the file is cut off or damaged")]
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
    /// What brings the file up to date, which is taken to be done. If it can't be, say so with
    /// [`save_failed`](Held::save_failed).
    pub fn save(&mut self) -> Save {
        if let Some(mut file) = self.file.take() {
            let touched = std::mem::take(&mut file.touched);
            let bytes = record(&self.changed(touched));
            file.appended += bytes.len();
            if file.appended <= (file.whole / 4).max(APPENDED) {
                self.file = Some(file);
                return Save::Append(bytes);
            }
        }
        let bytes = self.to_bytes();
        self.file = Some(File {
            whole: bytes.len(),
            appended: 0,
            touched: BTreeSet::new(),
        });
        Save::Whole(bytes)
    }

    /// What [`save`](Held::save) said was not done, or not wholly: the file may now end anywhere.
    pub fn save_failed(&mut self) {
        self.file = None;
    }

    /// Everything that is to survive a restart, bodies included: a whole file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let saved = Saved {
            resources: self.resources.values().cloned().map(Into::into).collect(),
            removed: self.removed.keys().map(|id| self.removal(id)).collect(),
            ..self.changed(BTreeSet::new())
        };
        [MAGIC.to_vec(), record(&saved)].concat()
    }

    /// Takes over what was [saved](Held::save), in place of what is held. Follow it with
    /// [`replay`](Held::replay), as [`crate::client::run`] does.
    ///
    /// # Errors
    /// When it is nothing that was saved, or damaged. Then what is held stays.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Torn> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(Torn::Magic)?;
        let mut held = self.emptied();
        let first = next_record(&mut rest)?.ok_or(Torn::Checksum)?;
        held.take_over(first)?;
        while let Some(saved) = next_record(&mut rest)? {
            held.take_over(saved)?;
        }
        *self = held;
        Ok(())
    }

    /// What was saved, for the sidecar of this build.
    ///
    /// # Errors
    /// As [`restore`](Held::restore).
    pub fn from_bytes(bytes: &[u8]) -> Result<Held, Torn> {
        let mut held = Held::default();
        held.restore(bytes)?;
        Ok(held)
    }

    /// Notes that the file no longer says what is known of `id`.
    pub(super) fn touch(&mut self, id: &ResourceId) {
        if let Some(file) = &mut self.file {
            file.touched.insert(id.clone());
        }
    }

    /// How far this sidecar has come, and what is known of these.
    fn changed(&self, touched: BTreeSet<ResourceId>) -> Saved {
        let mut saved = Saved {
            seen: Some(self.floor.into()),
            complete: self.complete,
            ..Saved::default()
        };
        for id in touched {
            match self.resources.get(&id) {
                Some(resource) => saved.resources.push(resource.clone().into()),
                None => saved.removed.push(self.removal(&id)),
            }
        }
        saved
    }

    fn removal(&self, id: &ResourceId) -> discovery::Removed {
        discovery::Removed {
            id: id.to_string(),
            // None that the floor would not say.
            generation: self.removed.get(id).map(|generation| (*generation).into()),
        }
    }

    fn take_over(&mut self, saved: Saved) -> Result<(), Torn> {
        self.floor = saved.seen.into();
        self.forget_what_the_floor_says();
        self.complete = saved.complete;
        for message in saved.resources {
            let id = message.id.clone();
            let mut resource = match Resource::try_from(message) {
                Ok(resource) => resource,
                // Kept by a newer sidecar that this one takes the place of: the operator knows what this
                // one can do, and tells it.
                Err(InvalidResource::Id(InvalidId::Kind)) => continue,
                Err(why) => return Err(Torn::Resource(id, why)),
            };
            resource.generation = resource.generation.of(resource.id.kind);
            self.hold(resource);
        }
        for removed in saved.removed {
            let id: ResourceId = match removed.id.parse() {
                Ok(id) => id,
                Err(InvalidId::Kind) => continue,
                Err(why) => return Err(Torn::Removed(removed.id, why)),
            };
            self.let_go(&id);
            self.remember_removed(id, removed.generation.into());
        }
        Ok(())
    }
}

/// Length, checksum, message.
fn record(saved: &Saved) -> Vec<u8> {
    let message = saved.encode_to_vec();
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + CHECKSUM_BYTES + message.len());
    bytes.extend_from_slice(&(message.len() as u64).to_le_bytes());
    bytes.extend_from_slice(blake3::hash(&message).as_bytes());
    bytes.extend_from_slice(&message);
    bytes
}

/// The next record; `None` at the end, or when the rest is too short to be one.
fn next_record(rest: &mut &[u8]) -> Result<Option<Saved>, Torn> {
    let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some((checksum, after)) = after.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Ok(None);
    };
    let Some((message, after)) = after.split_at_checked(length) else {
        return Ok(None);
    };
    if blake3::hash(message).as_bytes() != checksum {
        return Err(Torn::Checksum);
    }
    *rest = after;
    Ok(Some(Saved::decode(message)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_sidecar_kept_is_read_but_for_kinds_that_nobody_knew_then() {
        let of_route = |id: &str| {
            let hash = crate::resource::hash(&[], b"v1");
            discovery::Resource {
                id: id.to_owned(),
                hash: hash.to_vec().into(),
                body: b"v1".as_slice().into(),
                ..Default::default()
            }
        };
        let removed = discovery::Removed {
            id: "moon/shop/orders".to_owned(),
            generation: None,
        };
        let saved = Saved {
            complete: true,
            resources: vec![of_route("moon/shop/carts"), of_route("route/shop/carts")],
            removed: vec![removed],
            ..Saved::default()
        };
        let file = [MAGIC.as_slice(), &record(&saved)].concat();
        let held = Held::from_bytes(&file).unwrap();
        let ids: Vec<_> = held.resources().map(|one| one.id.to_string()).collect();
        assert_eq!(ids, ["route/shop/carts"]);
        assert!(held.is_complete());
    }
}

//! How much a sidecar may hold, and how much of that is left.

use std::ops::{Add, AddAssign, Sub, SubAssign};

use super::{MAX_HELD, MAX_HELD_BYTES, MAX_HELLO_BYTES};
use crate::{Resource, ResourceId, discovery, generation::Input};

/// What a Holding adds to its id in a Hello, in bytes: at most this, with tags and lengths, a
/// generation whose every place is as long as a number can be, and a hash.
const HOLDING_BYTES: usize = 3 + 3 + 4 + 10 * Input::ALL.len() + 18;

/// An amount of everything that is bounded. Less than nothing where a change frees some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    resources: i64,
    /// Of bodies, and of the capabilities that they need.
    bytes: i64,
    /// Of the Hello that names them, and the removals that are remembered.
    hello: i64,
}

// === impl Room ===

impl Room {
    /// All that there is.
    pub(super) const ALL: Room = Room {
        resources: MAX_HELD as i64,
        bytes: MAX_HELD_BYTES as i64,
        hello: MAX_HELLO_BYTES as i64,
    };

    /// With other bounds for resources and their bytes.
    pub(super) fn with(self, resources: usize, bytes: usize) -> Room {
        Room {
            resources: clamped(resources as u64),
            bytes: clamped(bytes as u64),
            ..self
        }
    }

    /// What a resource takes.
    pub(super) fn of(resource: &Resource) -> Room {
        Room {
            resources: 1,
            bytes: resource.size() as i64,
            ..Room::of_removal(&resource.id)
        }
    }

    /// What a removal takes that is remembered.
    pub(super) fn of_removal(id: &ResourceId) -> Room {
        Room {
            resources: 0,
            bytes: 0,
            hello: (id.text_len() + HOLDING_BYTES) as i64,
        }
    }

    /// At least as much of everything. Of what `other` needs none, there may be less than nothing.
    pub(super) fn covers(&self, other: &Room) -> bool {
        let enough = |have: i64, need: i64| need <= 0 || need <= have;
        enough(self.resources, other.resources)
            && enough(self.bytes, other.bytes)
            && enough(self.hello, other.hello)
    }

    /// Whether a change that needs this leaves less than there was.
    pub(super) fn is_taken(&self) -> bool {
        self.resources > 0 || self.bytes > 0 || self.hello > 0
    }

    /// Whether there is less than nothing left to say in a Hello.
    pub(super) fn is_hello_too_long(&self) -> bool {
        self.hello < 0
    }
}

impl Add for Room {
    type Output = Room;

    fn add(self, other: Room) -> Room {
        Room {
            resources: self.resources + other.resources,
            bytes: self.bytes + other.bytes,
            hello: self.hello + other.hello,
        }
    }
}

impl Sub for Room {
    type Output = Room;

    fn sub(self, other: Room) -> Room {
        Room {
            resources: self.resources - other.resources,
            bytes: self.bytes - other.bytes,
            hello: self.hello - other.hello,
        }
    }
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Room) {
        *self = *self + other;
    }
}

impl SubAssign for Room {
    fn sub_assign(&mut self, other: Room) {
        *self = *self - other;
    }
}

/// Less than nothing is said as nothing.
impl From<Room> for discovery::Room {
    fn from(room: Room) -> Self {
        let said = |amount: i64| amount.try_into().unwrap_or(0);
        discovery::Room {
            resources: said(room.resources),
            bytes: said(room.bytes),
            hello_bytes: said(room.hello),
        }
    }
}

impl From<discovery::Room> for Room {
    fn from(message: discovery::Room) -> Self {
        Room {
            resources: clamped(message.resources),
            bytes: clamped(message.bytes),
            hello: clamped(message.hello_bytes),
        }
    }
}

fn clamped(amount: u64) -> i64 {
    amount.try_into().unwrap_or(i64::MAX)
}

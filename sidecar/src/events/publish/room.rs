//! How much of what is to be published a worker holds at once.

use std::cell::Cell;
use std::rc::Rc;

use super::unwaited::Unwaited;
use crate::proxy::error::{Error, Reason};

/// How many bytes of requests a worker holds at once, and how often each of them is counted: read, taken apart,
/// written anew.
const ROOM: usize = 64 * 1024 * 1024;
const COPIES: usize = 3;

/// What a worker holds of requests that are to be events.
#[derive(Debug, Default)]
pub struct Room {
    /// Bytes of requests that wait for their answer.
    waited: Rc<Cell<usize>>,
    /// Events whose senders wait for nothing.
    pub(super) unwaited: Unwaited,
}

/// A share of the room, given back when it is dropped.
pub(super) struct Share {
    all: Rc<Cell<usize>>,
    own: usize,
}

// === impl Room ===

impl Room {
    pub(super) fn share(&self) -> Share {
        Share {
            all: self.waited.clone(),
            own: 0,
        }
    }
}

// === impl Share ===

impl Share {
    /// So many bytes more.
    ///
    /// # Errors
    /// `overloaded`: nothing has changed then.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        self.hold(self.own / COPIES + bytes)
    }

    /// So many bytes, instead of as many as before.
    ///
    /// # Errors
    /// `overloaded`: nothing has changed then.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes * COPIES;
        let all = self.all.get() - self.own + bytes;
        if all > ROOM && bytes > self.own {
            return Err(Error::new(
                Reason::Overloaded,
                "too many bytes become events",
            ));
        }
        self.all.set(all);
        self.own = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.own);
    }
}

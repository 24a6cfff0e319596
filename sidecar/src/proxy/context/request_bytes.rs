//! What is known of a request's body while it passes.

use std::cell::Cell;
use std::rc::Rc;

/// Body bytes of a request that were passed on, counted where they pass.
#[derive(Clone, Debug, Default)]
pub struct RequestBytes(Option<Rc<Sent>>);

#[derive(Debug, Default)]
struct Sent {
    bytes: Cell<u64>,
    broke_off: Cell<bool>,
    awaited: Cell<bool>,
}

// === impl RequestBytes ===

impl RequestBytes {
    /// None yet.
    pub fn counted() -> Self {
        Self(Some(Rc::default()))
    }

    /// More of the body was passed on.
    pub fn add(&self, bytes: u64) {
        if let Some(sent) = &self.0 {
            sent.bytes.set(sent.bytes.get() + bytes);
        }
    }

    /// Whether more of the body is waited for from downstream.
    pub fn awaits(&self, awaited: bool) {
        if let Some(sent) = &self.0 {
            sent.awaited.set(awaited);
        }
    }

    /// Whether it is the caller that has to go on.
    pub fn is_awaited(&self) -> bool {
        self.0.as_ref().is_some_and(|sent| sent.awaited.get())
    }

    /// The body ended before its end.
    pub fn broke_off(&self) {
        if let Some(sent) = &self.0 {
            sent.broke_off.set(true);
        }
    }

    /// Whether it ended before its end.
    pub fn has_broken_off(&self) -> bool {
        self.0.as_ref().is_some_and(|sent| sent.broke_off.get())
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.as_ref().map_or(0, |sent| sent.bytes.get())
    }
}

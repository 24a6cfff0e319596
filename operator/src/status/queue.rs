//! Objects in the order in which they are due.

use std::collections::{BTreeMap, BTreeSet};

use compiler::ObjectRef;
use tokio::time::Instant;

/// Each object once, with the time at which it is due. Every operation takes logarithmic time: ten thousand
/// objects may become due at once, and the first is asked for after each.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: BTreeMap<ObjectRef, Instant>,
    in_order: BTreeSet<(Instant, ObjectRef)>,
}

// === impl Queue ===

impl Queue {
    /// When the object is due, if it is at all.
    pub(super) fn at(&self, object: &ObjectRef) -> Option<Instant> {
        self.due.get(object).copied()
    }

    /// Makes the object due at that time and no other.
    pub(super) fn put(&mut self, object: ObjectRef, at: Instant) {
        if let Some(before) = self.due.insert(object.clone(), at) {
            self.in_order.remove(&(before, object.clone()));
        }
        self.in_order.insert((at, object));
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Takes the first, if it is due by `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<ObjectRef> {
        if self.first()? > now {
            return None;
        }
        let (_, object) = self.in_order.pop_first()?;
        self.due.remove(&object);
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef::api_route(&compiler::ObjectKey::new("shop", name))
    }

    #[test]
    fn who_is_due_first_comes_first_whatever_its_name_and_each_comes_once() {
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let mut queue = Queue::default();
        queue.put(object("a"), later(3));
        queue.put(object("z"), later(1));
        queue.put(object("m"), later(9));
        queue.put(object("m"), later(2));
        assert_eq!(queue.at(&object("m")), Some(later(2)));
        assert_eq!(queue.first(), Some(later(1)));
        assert_eq!(queue.take(now), None, "not yet");
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(later(9))).collect();
        assert_eq!(taken, ["z", "m", "a"].map(object));
        assert_eq!((queue.first(), queue.at(&object("m"))), (None, None));
    }
}

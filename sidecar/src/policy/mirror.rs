//! Mirror: a share of the requests is sent to another Service as well, whose answers nobody reads.
//!
//! Phase: beside all attempts, in the caller's sidecar. From `ApiRoute.rules[].mirror`. The client
//! notices nothing: a copy is sent when its original's body has passed, as far as there is a place
//! for it, and is never waited for. A body is kept for its copy as it passes, up to [`MAX_BODY`]; a
//! larger one has no copy. What became of each copy is counted as
//! `meshwright_mirror_total{route,rule,outcome}`; copies are no requests in metrics and access log.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::{EXPECT, HeaderName, HeaderValue};
use http::request::Parts;
use wire::mesh;

use super::Percent;
use crate::config::service::{ServiceKey, parse_port};
use crate::proxy::headers::copy;

/// Tells applications a copy from an original. It is a help, no proof: anybody can send it.
const MARK: HeaderName = HeaderName::from_static("x-mirrored");

/// Copies of one worker that are under way; one more is dropped. With their bodies they are 8 MiB.
const MAX_COPIES: usize = 128;

/// Bytes of a body that are kept for its copy.
pub const MAX_BODY: usize = 64 * 1024;

/// How long a copy and its answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer's body that are read, so that its connection can be used again.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// Where copies go, and of how many requests.
#[derive(Debug)]
pub struct Mirror {
    /// Which Service.
    pub service: ServiceKey,
    /// Which of its ports.
    pub port: u16,
    percent: Percent,
}

/// The copies of one worker.
#[derive(Debug, Default)]
pub struct Copies {
    under_way: Cell<usize>,
}

/// A place for one copy, given back when dropped.
#[derive(Debug)]
pub struct Place(Rc<Copies>);

// === build ===

impl Mirror {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Mirror) -> Result<Self, String> {
        let service = sent.service.ok_or("it names no service")?;
        Ok(Self {
            service: ServiceKey::new(&service.namespace, &service.name),
            port: parse_port(sent.port)?,
            percent: Percent::build(sent.percent)?,
        })
    }

    // === request ===

    /// Whether the next request is copied.
    pub fn draw(&self) -> bool {
        self.percent.draw()
    }
}

impl Copies {
    /// A place for another copy, if there is one.
    pub fn take(self: &Rc<Self>) -> Option<Place> {
        let under_way = self.under_way.get();
        (under_way < MAX_COPIES).then(|| {
            self.under_way.set(under_way + 1);
            Place(self.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

/// The head of a copy: that of the original, marked, without what concerns its exchange alone.
pub fn head(original: &Parts) -> Parts {
    let mut head = copy(original);
    head.headers.remove(EXPECT);
    head.headers.insert(MARK, HeaderValue::from_static("1"));
    head
}

/// Whether a request says that it is a copy.
pub fn is_copy(head: &Parts) -> bool {
    head.headers.contains_key(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_and_no_more() {
        let copies = Rc::new(Copies::default());
        let mut places: Vec<Place> = (0..MAX_COPIES).map(|_| copies.take().unwrap()).collect();
        assert!(copies.take().is_none());
        places.pop();
        let last = copies.take();
        assert!(last.is_some() && copies.take().is_none());
        drop((places, last));
        assert_eq!(copies.under_way.get(), 0);
    }

    #[test]
    fn a_copy_is_marked_and_waits_for_no_permission() {
        let original = http::Request::post("/a?b=c")
            .header("host", "orders")
            .header("expect", "100-continue")
            .extension("not copied")
            .body(())
            .unwrap();
        let (original, ()) = original.into_parts();
        let copy = head(&original);
        assert_eq!((&copy.method, &copy.uri), (&original.method, &original.uri));
        assert_eq!(copy.headers["host"], "orders");
        assert_eq!(copy.headers["x-mirrored"], "1");
        assert!(!copy.headers.contains_key("expect"));
        assert!(copy.extensions.is_empty());
    }

    #[test]
    fn what_names_no_place_is_rejected() {
        let sent = mesh::Mirror {
            service: Some(mesh::ServiceRef::default()),
            port: 80,
            percent: 100,
        };
        assert!(Mirror::build(sent.clone()).is_ok());
        for bad in [
            mesh::Mirror {
                service: None,
                ..sent.clone()
            },
            mesh::Mirror {
                port: 70000,
                ..sent.clone()
            },
            mesh::Mirror { percent: 0, ..sent },
        ] {
            assert!(Mirror::build(bad.clone()).is_err(), "{bad:?}");
        }
    }
}

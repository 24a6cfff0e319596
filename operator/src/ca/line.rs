//! What is trusted, and what signs below it: of our own making, or provided by somebody else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::authority::{Authority, parse, validity};
use super::{BACKDATED, Error};

/// Our own root is followed by the next one when a fifth of its life is left.
const NEXT_ROOT_PART: u32 = 5;

/// Roots, and the one certificate below them that signs leaves. Immutable; a renewal makes another.
pub(super) struct Line {
    /// Trusted for as long as the line is in the bundle; at least one.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// The only root with its key, if it is of our own making.
    pub(super) own: Option<Arc<Authority>>,
    /// Signs leaves.
    pub(super) signer: Arc<Authority>,
    /// Sent along with every leaf: what leads from it to a root, the signer first (unless that is
    /// a root itself).
    pub(super) between: Vec<CertificateDer<'static>>,
}

// === impl Line ===

impl Line {
    /// A new root, and an intermediate below it.
    pub(super) fn made(now: SystemTime, life: Duration) -> Result<Line, Error> {
        Line::below(Arc::new(Authority::root(now, life)?), now)
    }

    /// A new intermediate below a root of our own.
    pub(super) fn below(root: Arc<Authority>, now: SystemTime) -> Result<Line, Error> {
        let intermediate = Authority::intermediate(&root, now)?;
        Ok(Line::of_own(root, Arc::new(intermediate)))
    }

    /// A root of our own with its intermediate.
    pub(super) fn of_own(root: Arc<Authority>, intermediate: Arc<Authority>) -> Line {
        Line {
            roots: vec![root.certificate.clone()],
            between: vec![intermediate.certificate.clone()],
            own: Some(root),
            signer: intermediate,
        }
    }

    /// With a new intermediate, if one is due: `None` when it isn't, or isn't ours to make.
    pub(super) fn renewed(&self, now: SystemTime) -> Result<Option<Line>, Error> {
        match &self.own {
            Some(root) if self.signer.is_due(now) => Line::below(root.clone(), now).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether our own root should be followed by another one.
    pub(super) fn root_is_due(&self, now: SystemTime) -> bool {
        let root = self.own.as_ref();
        root.is_some_and(|root| root.left(now) <= root.life() / NEXT_ROOT_PART)
    }

    /// Whether both trust the same roots.
    pub(super) fn same_roots(&self, other: &Line) -> bool {
        let within = |these: &Line, those: &Line| {
            let mut roots = these.roots.iter();
            roots.all(|root| those.roots.contains(root))
        };
        within(self, other) && within(other, self)
    }

    /// Whether both are the same.
    pub(super) fn same(&self, other: &Line) -> bool {
        self.same_roots(other)
            && self.between == other.between
            && self.signer.certificate == other.signer.certificate
    }

    /// How long leaves can still be signed and proved: until the first certificate above them ends.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        self.ends().duration_since(now).unwrap_or_default()
    }

    /// When that is.
    pub(super) fn ends(&self) -> SystemTime {
        let between = self.between.iter().filter_map(end);
        let all = between.chain([self.signer.valid.1, self.roots_end()]);
        all.min().unwrap_or(self.signer.valid.1)
    }

    /// When the last of the roots ends.
    pub(super) fn roots_end(&self) -> SystemTime {
        let ends = self.roots.iter().filter_map(end);
        ends.max().unwrap_or(self.signer.valid.1)
    }

    /// Whether it is old enough for clocks that are behind.
    pub(super) fn is_known_to_all_clocks(&self, now: SystemTime) -> bool {
        self.signer.valid.0 + BACKDATED <= now
    }
}

/// When a certificate ends, if it can be read.
pub(super) fn end(certificate: &CertificateDer<'static>) -> Option<SystemTime> {
    Some(validity(&parse(certificate).ok()?).1)
}

//! One root follows another in three steps, so that nobody ever meets a leaf whose root it lacks.
//!
//! ```text
//!             trusted           signs
//! settled     current           current
//! announced   current + next    current    until everybody has heard of the next
//! retiring    previous + new    new        until every leaf of the previous has ended
//! settled     new               new
//! ```
//!
//! Each step is a pure function of what is kept and of the clock, and takes effect once it is kept:
//! whichever replica is first takes it, the others take it over, and one that ends in between leaves
//! nothing behind but the step before.
//!
//! Everybody has heard of the next root when a leaf's whole life has passed since it was announced:
//! whoever still has a leaf in force has been given it by an operator that told of the root with it.
//! Whoever is connected must have acknowledged it besides. A replica sees its own streams alone, so
//! one with sidecars that have not acknowledged it yet holds the step for a while, and again; but not
//! for ever, because a sidecar that refuses it would then decide how long a stolen root is trusted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::authority::parse;
use super::line::Line;
use super::{Error, TrustBundle, micros};

/// The most replicas that hold a step at a time: more are not there.
pub(super) const MAX_HOLDS: usize = 32;
/// The most proofs that are kept of roots by those before them: the newest. A verifier takes no
/// more certificates between a leaf and its root.
pub(super) const MAX_PROOFS: usize = 5;

/// For how many lives of a leaf a step is held by who has not acknowledged the next root.
const HELD_LIVES: u32 = 2;

/// All that is kept: immutable; a step makes another.
#[derive(Clone)]
pub(super) struct Authorities {
    pub(super) stage: Stage,
    /// Microseconds since 1970 at which the bundle became what it is.
    pub(super) revision: u64,
    /// The life of leaves.
    pub(super) leaf_life: Duration,
    /// Leaves that were signed when it was longer have ended by then.
    pub(super) longer_until: Option<SystemTime>,
    /// Of each root of our own, proof by the one before it; the oldest first.
    pub(super) proofs: Vec<CertificateDer<'static>>,
    /// The request for a rotation that was last carried out.
    pub(super) request: Option<String>,
    /// Replicas that are not ready for the next root to sign, and until when that counts.
    pub(super) holds: BTreeMap<String, SystemTime>,
}

/// Which roots there are.
#[derive(Clone)]
pub(super) enum Stage {
    /// One is trusted and signs.
    Settled(Arc<Line>),
    /// The next one is trusted too, since then.
    Announced {
        current: Arc<Line>,
        next: Arc<Line>,
        since: SystemTime,
    },
    /// It signs, since then, and the one before it is trusted still.
    Retiring {
        previous: Arc<Line>,
        current: Arc<Line>,
        since: SystemTime,
    },
}

/// What is wished for.
#[derive(Clone)]
pub(super) enum Wanted {
    /// Roots of our own making; another one when the request is not the one that was carried out.
    Own { request: Option<String> },
    /// What somebody else provides; `None` while that can't be used.
    Provided(Option<Arc<Line>>),
}

/// What a step depends on besides what is kept.
pub(super) struct Moment<'a> {
    pub(super) now: SystemTime,
    pub(super) wanted: &'a Wanted,
    pub(super) leaf_life: Duration,
    pub(super) root_life: Duration,
    /// How long it may take until every replica has taken over what was kept, clocks included.
    pub(super) margin: Duration,
    /// The streams of this replica that have not acknowledged the bundle; `None` when it has not
    /// been published to them yet.
    pub(super) lagging: Option<usize>,
    /// Names this replica.
    pub(super) replica: &'a str,
}

// === impl Authorities ===

impl Authorities {
    /// The first ones.
    ///
    /// # Errors
    /// When they can't be made, or what is to be provided isn't.
    pub(super) fn first(moment: &Moment<'_>) -> Result<Authorities, Error> {
        let (line, request) = match moment.wanted {
            Wanted::Own { request } => {
                let line = Line::made(moment.now, moment.root_life)?;
                (Arc::new(line), request.clone())
            }
            Wanted::Provided(Some(line)) => (line.clone(), None),
            Wanted::Provided(None) => return Err(Error::NotProvided),
        };
        Ok(Authorities {
            stage: Stage::Settled(line),
            revision: micros(moment.now),
            leaf_life: moment.leaf_life,
            longer_until: None,
            proofs: Vec::new(),
            request,
            holds: BTreeMap::new(),
        })
    }

    /// The next step, or `None` when none is due.
    ///
    /// # Errors
    /// When a certificate can't be made.
    pub(super) fn stepped(&self, moment: &Moment<'_>) -> Result<Option<Authorities>, Error> {
        let mut after = self.clone();
        let mut changed = after.note_leaf_life(moment);
        let asked = after.take_request(moment.wanted);
        changed |= asked;
        if let Some(stage) = after.next_stage(asked, moment)? {
            after.stage = stage;
            after.holds.clear();
            changed = true;
        }
        changed |= after.hold(moment);
        if after.roots() != self.roots() {
            after.revision = micros(moment.now).max(self.revision + 1);
        }
        Ok(changed.then_some(after))
    }

    /// The line that signs leaves.
    pub(super) fn signing(&self) -> &Arc<Line> {
        match &self.stage {
            Stage::Settled(current)
            | Stage::Announced { current, .. }
            | Stage::Retiring { current, .. } => current,
        }
    }

    /// The line that the operator's own certificate is of, and what proves that line's root to those
    /// who only know older ones.
    pub(super) fn serving(
        &self,
        now: SystemTime,
        margin: Duration,
    ) -> (&Arc<Line>, Vec<CertificateDer<'static>>) {
        match &self.stage {
            // Nothing proves the new root to those who know the old one alone. What replicas don't
            // know yet can't be told them before the end: the last moment is everybody's.
            Stage::Retiring {
                previous, since, ..
            } if previous.own.is_none()
                && now + margin < self.passed(*since, Duration::ZERO)
                && !previous.left(now).is_zero() =>
            {
                (previous, Vec::new())
            }
            _ => {
                let line = self.signing();
                (line, self.proofs_of(line))
            }
        }
    }

    /// What to trust now.
    pub(super) fn bundle(&self) -> TrustBundle {
        TrustBundle {
            revision: self.revision,
            roots: self.roots(),
        }
    }

    /// When a step that began then is over: leaves of that time have ended, and all replicas know.
    pub(super) fn passed(&self, since: SystemTime, margin: Duration) -> SystemTime {
        let ended = since + self.leaf_life;
        self.longer_until.map_or(ended, |until| until.max(ended)) + margin
    }

    /// When it is over whoever has not acknowledged the next root.
    pub(super) fn held_until(&self, since: SystemTime, margin: Duration) -> SystemTime {
        self.passed(since, margin) + self.leaf_life * HELD_LIVES
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let lines: [Option<&Line>; 2] = match &self.stage {
            Stage::Settled(current) => [Some(current), None],
            Stage::Announced { current, next, .. } => [Some(current), Some(next)],
            Stage::Retiring {
                previous, current, ..
            } => [Some(previous), Some(current)],
        };
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for root in lines.into_iter().flatten().flat_map(|line| &line.roots) {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }

    /// From the line's root back to the oldest that leads to it.
    fn proofs_of(&self, line: &Line) -> Vec<CertificateDer<'static>> {
        let mut found = Vec::new();
        let mut wanted = line.roots.first();
        // Each is the proof of one root, by the one before it.
        for proof in self.proofs.iter().rev() {
            let (Some(of), Ok(parsed)) = (wanted, parse(proof)) else {
                break;
            };
            let proves = match found.is_empty() {
                true => parse(of).is_ok_and(|of| of.subject() == parsed.subject()),
                false => parse(of).is_ok_and(|of| of.issuer() == parsed.subject()),
            };
            if proves {
                wanted = Some(proof);
                found.push(proof.clone());
            }
        }
        found
    }

    /// Leaves must not be forgotten because they were signed for longer than they are now.
    fn note_leaf_life(&mut self, moment: &Moment<'_>) -> bool {
        let mut changed = false;
        if self.longer_until.is_some_and(|until| until <= moment.now) {
            self.longer_until = None;
            changed = true;
        }
        if moment.leaf_life < self.leaf_life {
            self.longer_until = self.longer_until.max(Some(moment.now + self.leaf_life));
        }
        changed |= moment.leaf_life != self.leaf_life;
        self.leaf_life = moment.leaf_life;
        changed
    }

    /// Whether another root is asked for that was not asked for before. A request that comes while a
    /// rotation is under way is carried out by that.
    fn take_request(&mut self, wanted: &Wanted) -> bool {
        let Wanted::Own {
            request: request @ Some(_),
        } = wanted
        else {
            return false;
        };
        let new = *request != self.request;
        self.request.clone_from(request);
        new
    }

    fn next_stage(&mut self, asked: bool, moment: &Moment<'_>) -> Result<Option<Stage>, Error> {
        let now = moment.now;
        match self.stage.clone() {
            Stage::Settled(current) => {
                let (current, renewed) = kept_fresh(current, moment)?;
                match first_next(&current, asked, moment)? {
                    Some(next) => self.announce(current, next, moment).map(Some),
                    None => Ok(renewed.then_some(Stage::Settled(current))),
                }
            }
            Stage::Announced {
                current,
                next,
                since,
            } => {
                let (current, renewed) = kept_fresh(current, moment)?;
                if let Some(other) = other_next(&current, &next, moment)? {
                    return self.announce(current, other, moment).map(Some);
                }
                if is_taken_back(&current, moment) {
                    return Ok(Some(Stage::Settled(current)));
                }
                let (next, also) = kept_fresh(next, moment)?;
                let heard = now >= self.passed(since, moment.margin) && self.all_told(moment);
                let held = now < self.held_until(since, moment.margin);
                // Soon nothing could be signed at all.
                let pressing = current.left(now) <= moment.margin;
                if heard || !held || pressing {
                    return Ok(Some(Stage::Retiring {
                        previous: current,
                        current: next,
                        since: now,
                    }));
                }
                Ok((renewed || also).then_some(Stage::Announced {
                    current,
                    next,
                    since,
                }))
            }
            Stage::Retiring {
                previous,
                current,
                since,
            } => {
                let (current, renewed) = kept_fresh(current, moment)?;
                if now >= self.passed(since, moment.margin) {
                    return Ok(Some(Stage::Settled(current)));
                }
                Ok(renewed.then_some(Stage::Retiring {
                    previous,
                    current,
                    since,
                }))
            }
        }
    }

    fn announce(
        &mut self,
        current: Arc<Line>,
        next: Arc<Line>,
        moment: &Moment<'_>,
    ) -> Result<Stage, Error> {
        let now = moment.now;
        if let (Some(before), Some(after)) = (&current.own, &next.own) {
            self.proofs.push(before.vouch_for(after, now)?);
            let more = self.proofs.len().saturating_sub(MAX_PROOFS);
            self.proofs.drain(..more);
        }
        Ok(Stage::Announced {
            current,
            next,
            since: now,
        })
    }

    /// Says so where that step leaves some behind, once it is kept.
    pub(super) fn tell_left(&self, after: &Authorities, moment: &Moment<'_>) {
        if self.leaves_some(after, moment) {
            tracing::warn!(
                here = moment.lagging,
                "the next root signs although some sidecars have not acknowledged it; those can call nobody who \
                 has a certificate of it, and `meshwright certificates status` counts them"
            );
        }
    }

    /// Whether `after` is the step after which the next root signs, and some have not acknowledged it.
    pub(super) fn leaves_some(&self, after: &Authorities, moment: &Moment<'_>) -> bool {
        let steps = matches!(
            (&self.stage, &after.stage),
            (Stage::Announced { .. }, Stage::Retiring { .. })
        );
        steps && !self.all_told(moment)
    }

    fn all_told(&self, moment: &Moment<'_>) -> bool {
        let mut others = self.holds.iter();
        let held = others.any(|(replica, until)| replica != moment.replica && *until > moment.now);
        moment.lagging == Some(0) && !held
    }

    /// Holds the step that is about to be taken, if this replica is not ready for it.
    fn hold(&mut self, moment: &Moment<'_>) -> bool {
        let Stage::Announced { since, .. } = &self.stage else {
            return false;
        };
        let near = moment.now >= self.passed(*since, Duration::ZERO);
        if !near || moment.lagging == Some(0) {
            return false;
        }
        let until = moment.now + moment.margin;
        // It is said again before it is forgotten, and not each time that is looked.
        let known = self.holds.get(moment.replica).copied();
        if known.is_some_and(|known| known > moment.now + moment.margin / 2) {
            return false;
        }
        self.holds.retain(|_, until| *until > moment.now);
        if self.holds.len() < MAX_HOLDS {
            self.holds.insert(moment.replica.to_owned(), until);
        }
        true
    }
}

/// What is to follow, if anything is.
fn first_next(
    current: &Line,
    asked: bool,
    moment: &Moment<'_>,
) -> Result<Option<Arc<Line>>, Error> {
    Ok(match moment.wanted {
        Wanted::Own { .. } if asked || current.own.is_none() || current.root_is_due(moment.now) => {
            Some(Arc::new(Line::made(moment.now, moment.root_life)?))
        }
        Wanted::Provided(Some(line)) if !line.same_roots(current) => Some(line.clone()),
        _ => None,
    })
}

/// Whether what signs is provided again in the place of what was announced.
fn is_taken_back(current: &Line, moment: &Moment<'_>) -> bool {
    matches!(moment.wanted, Wanted::Provided(Some(line)) if line.same_roots(current))
}

/// What is to be announced in the place of what was.
fn other_next(
    current: &Line,
    next: &Line,
    moment: &Moment<'_>,
) -> Result<Option<Arc<Line>>, Error> {
    Ok(match moment.wanted {
        // It was to be somebody else's.
        Wanted::Own { .. } if next.own.is_none() => {
            Some(Arc::new(Line::made(moment.now, moment.root_life)?))
        }
        Wanted::Provided(Some(line)) if !line.same_roots(next) && !line.same_roots(current) => {
            Some(line.clone())
        }
        _ => None,
    })
}

/// The line with a newer certificate to sign with below the same roots, if there is one; and whether
/// there is.
fn kept_fresh(line: Arc<Line>, moment: &Moment<'_>) -> Result<(Arc<Line>, bool), Error> {
    let now = moment.now;
    match moment.wanted {
        // Where clocks are behind, what is just valid here isn't yet: what there is still serves.
        Wanted::Provided(Some(newer))
            if newer.same_roots(&line)
                && !newer.same(&line)
                && (newer.is_known_to_all_clocks(now) || line.left(now) <= moment.leaf_life) =>
        {
            Ok((newer.clone(), true))
        }
        _ => Ok(match line.renewed(now)? {
            Some(renewed) => (Arc::new(renewed), true),
            None => (line, false),
        }),
    }
}

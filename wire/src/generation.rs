//! How new something is: what a replica of the operator had seen of the world.
//!
//! Replicas watch each kind of input on its own, so "newer" is not one number: it is a vector with
//! a place for each kind of input. One generation *covers* another when it is at least as new in
//! every place. Two generations may each lack something of the other; then neither covers.

use std::fmt;

use crate::{Kind, discovery};

/// The kinds of input that the compiler reads; each is a place in a [`Generation`].
///
/// The numbers are part of the protocol: places are added at the end, never reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Input {
    /// `ApiRoute` objects.
    ApiRoute = 0,
    /// `Service` objects.
    Service = 1,
    /// `EndpointSlice` objects.
    EndpointSlice = 2,
    /// `Pod` objects.
    Pod = 3,
    /// The mesh's own settings: trust domain, cluster domain, trust bundle.
    ///
    /// The revision is the bundle's. The domains are arguments of the operator: they stay what they
    /// are while a replica runs, and replicas that were started with different ones are there at
    /// once only while a newer operator takes over from an older one. Neither is newer then as far
    /// as this place says; a sidecar follows the one that it is connected to, which in the end is
    /// the one that stays.
    Settings = 4,
    /// `Namespace` objects.
    Namespace = 5,
    /// `RetryPolicy` objects.
    RetryPolicy = 6,
    /// Secrets that are consumers' keys.
    Consumer = 7,
    /// Secrets that the mesh's own credentials stand in.
    Credential = 8,
    /// `RateLimit` objects.
    RateLimit = 9,
    /// `EventSubscription` objects.
    EventSubscription = 10,
    /// Secrets that say where brokers are.
    Broker = 11,
}

/// For each [`Input`], the newest revision observed; 0 where nothing was seen or nothing depends.
///
/// Revisions grow: in a cluster they are the newest resourceVersion observed on that kind's watch
/// (bookmarks included: a replica that sees no events must still advance, or it could not update
/// a sidecar that comes from a replica with a newer bookmark); from a folder, microseconds of Unix
/// time. Where they go back, because etcd was restored from a backup without bumping its revision,
/// every replica lags and sidecars keep what they have until it has caught up, or they restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    seen: [u64; Input::ALL.len()],
}

// === impl Input ===

impl Input {
    /// Every input, in the order of its place.
    pub const ALL: [Input; 12] = [
        Input::ApiRoute,
        Input::Service,
        Input::EndpointSlice,
        Input::Pod,
        Input::Settings,
        Input::Namespace,
        Input::RetryPolicy,
        Input::Consumer,
        Input::Credential,
        Input::RateLimit,
        Input::EventSubscription,
        Input::Broker,
    ];
}

// === impl Generation ===

impl Generation {
    /// Nothing seen: covered by every generation.
    pub const ZERO: Generation = Generation {
        seen: [0; Input::ALL.len()],
    };

    /// The same generation with `revision` in the place of `input`.
    #[must_use]
    pub fn with(mut self, input: Input, revision: u64) -> Generation {
        self.seen[input as usize] = revision;
        self
    }

    /// The revision in the place of `input`.
    pub fn at(&self, input: Input) -> u64 {
        self.seen[input as usize]
    }

    /// Notes that `revision` of `input` was observed; an older one changes nothing.
    pub fn observe(&mut self, input: Input, revision: u64) {
        let place = &mut self.seen[input as usize];
        *place = revision.max(*place);
    }

    /// At least as new in every place.
    pub fn covers(&self, other: &Generation) -> bool {
        self.seen.iter().zip(&other.seen).all(|(a, b)| a >= b)
    }

    /// Whether what has this generation may replace what is `known`: it covers that, but for places that an
    /// older operator says nothing of. Whoever knows that `kind` depends on them has seen something there.
    pub fn is_present(&self, known: &Generation, kind: Kind) -> bool {
        Input::ALL.into_iter().all(|input| {
            let silent = self.at(input) == 0 && kind.inputs_since().contains(&input);
            silent || self.at(input) >= known.at(input)
        })
    }

    /// The least generation that covers both.
    #[must_use]
    pub fn merge(&self, other: &Generation) -> Generation {
        let mut merged = *self;
        for (place, theirs) in merged.seen.iter_mut().zip(&other.seen) {
            *place = (*place).max(*theirs);
        }
        merged
    }

    /// Only the places that resources of `kind` depend on, the others 0.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Generation {
        kind.inputs()
            .iter()
            .fold(Generation::ZERO, |masked, input| {
                masked.with(*input, self.at(*input))
            })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, revision) in self.seen.iter().enumerate() {
            let dot = if place == 0 { "" } else { "." };
            write!(f, "{dot}{revision}")?;
        }
        Ok(())
    }
}

impl From<Generation> for discovery::Generation {
    fn from(generation: Generation) -> Self {
        // Trailing zeros say nothing; most kinds depend on few of the last places.
        let used = generation
            .seen
            .iter()
            .rposition(|revision| *revision != 0)
            .map_or(0, |last| last + 1);
        discovery::Generation {
            seen: generation.seen[..used].to_vec(),
        }
    }
}

/// Missing places are 0. Places beyond those known here, of a newer peer, are dropped: this build
/// has no resource that depends on them.
impl From<&discovery::Generation> for Generation {
    fn from(message: &discovery::Generation) -> Self {
        let mut generation = Generation::ZERO;
        for (place, revision) in generation.seen.iter_mut().zip(&message.seen) {
            *place = *revision;
        }
        generation
    }
}

/// An absent message is [`Generation::ZERO`].
impl From<Option<discovery::Generation>> for Generation {
    fn from(message: Option<discovery::Generation>) -> Self {
        message.as_ref().map_or(Generation::ZERO, Generation::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(api_route: u64, service: u64) -> Generation {
        Generation::ZERO
            .with(Input::ApiRoute, api_route)
            .with(Input::Service, service)
    }

    #[test]
    fn a_generation_covers_itself_and_what_is_older_in_every_place() {
        assert!(at(2, 2).covers(&at(2, 2)));
        assert!(at(2, 2).covers(&at(1, 2)));
        assert!(!at(1, 2).covers(&at(2, 2)));
    }

    #[test]
    fn two_generations_that_each_lack_something_do_not_cover_one_another() {
        assert!(!at(1, 2).covers(&at(2, 1)));
        assert!(!at(2, 1).covers(&at(1, 2)));
        assert!(at(1, 2).merge(&at(2, 1)).covers(&at(2, 1)));
        assert_eq!(at(1, 2).merge(&at(2, 1)), at(2, 2));
    }

    #[test]
    fn an_older_revision_observed_late_changes_nothing() {
        let mut generation = at(5, 0);
        generation.observe(Input::ApiRoute, 3);
        assert_eq!(generation, at(5, 0));
    }

    #[test]
    fn what_an_older_operator_says_nothing_of_makes_nothing_older() {
        let known = at(5, 6).with(Input::Pod, 7).with(Input::EndpointSlice, 8);
        let silent = at(5, 6);
        assert!(silent.is_present(&known, Kind::Route));
        assert!(
            !at(4, 6).is_present(&known, Kind::Route),
            "an older ApiRoute"
        );
        let lags = known.with(Input::Pod, 6);
        assert!(
            !lags.is_present(&known, Kind::Route),
            "it says something, and lags"
        );
        assert!(
            !silent.is_present(&known, Kind::Endpoints),
            "as it always did"
        );
    }

    #[test]
    fn places_that_a_kind_does_not_depend_on_are_masked() {
        let seen = at(5, 6).with(Input::Namespace, 7).with(Input::Settings, 8);
        assert_eq!(seen.of(Kind::Route), at(5, 6).with(Input::Settings, 8));
        assert_eq!(
            seen.of(Kind::Identity),
            Generation::ZERO.with(Input::Settings, 8)
        );
    }

    #[test]
    fn a_generation_survives_the_wire_without_its_trailing_zeros() {
        let message = discovery::Generation::from(at(5, 6));
        assert_eq!(message.seen, [5, 6]);
        assert_eq!(Generation::from(&message), at(5, 6));
    }

    #[test]
    fn places_of_a_newer_peer_are_dropped() {
        let message = discovery::Generation {
            seen: vec![1, 2, 3, 4, 5, 6, 7],
        };
        assert_eq!(Generation::from(&message).at(Input::Settings), 5);
    }
}

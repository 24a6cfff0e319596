//! Which sidecars are connected where, and whom of them an object concerns.

use std::collections::{BTreeMap, BTreeSet};

use compiler::{Audience, AudienceKey, ObjectKey};
use tokio::time::Instant;

use crate::push::PodId;

/// Pods, in the order of their namespaces, and since when each is connected.
#[derive(Clone, Debug, Default)]
pub(super) struct Presence(BTreeMap<PodId, Instant>);

// === impl Presence ===

impl Presence {
    pub(super) fn insert(&mut self, pod: PodId, since: Instant) {
        self.0.insert(pod, since);
    }

    pub(super) fn remove(&mut self, pod: &PodId) {
        self.0.remove(pod);
    }

    pub(super) fn since(&self, pod: &PodId) -> Option<Instant> {
        self.0.get(pod).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = (&PodId, &Instant)> {
        self.0.iter()
    }

    /// Those that `other` hasn't.
    pub(super) fn without<'a>(&'a self, other: &'a Presence) -> impl Iterator<Item = PodId> + 'a {
        let pods = self.0.keys().filter(|pod| other.since(pod).is_none());
        pods.cloned()
    }

    /// Those whom a resource of this audience concerns whatever they have asked for.
    pub(super) fn meant(&self, audience: &Audience) -> BTreeSet<&PodId> {
        if audience.contains(&AudienceKey::Everyone) {
            return self.0.keys().collect();
        }
        let mut meant = BTreeSet::new();
        for key in audience {
            let from = |name: &str, namespace: &str| {
                let first = (ObjectKey::new(namespace, name), String::new());
                self.0.range(first..).map(|(pod, _)| pod)
            };
            match key {
                AudienceKey::Namespace(namespace) => {
                    meant.extend(
                        from("", namespace).take_while(|(pod, _)| pod.namespace == *namespace),
                    );
                }
                AudienceKey::Pod(namespace, name) => {
                    let same = |pod: &ObjectKey| pod.namespace == *namespace && pod.name == *name;
                    meant.extend(from(name, namespace).take_while(|(pod, _)| same(pod)));
                }
                // Everyone is above. Whoever is told of what it asks for is known where it is
                // connected, and nowhere else.
                _ => {}
            }
        }
        meant
    }
}

impl FromIterator<(PodId, Instant)> for Presence {
    fn from_iter<I: IntoIterator<Item = (PodId, Instant)>>(pods: I) -> Presence {
        Presence(pods.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> PodId {
        (ObjectKey::new(namespace, name), format!("uid-of-{name}"))
    }

    #[tokio::test]
    async fn an_object_concerns_those_whom_its_audience_means_each_once() {
        let now = Instant::now();
        let all = [
            pod("pay", "a"),
            pod("shop", "a"),
            pod("shop", "b"),
            pod("shops", "a"),
        ];
        let presence: Presence = all.iter().map(|pod| (pod.clone(), now)).collect();
        let meant = |keys: &[AudienceKey]| {
            let audience: Audience = keys.iter().cloned().collect();
            presence
                .meant(&audience)
                .into_iter()
                .cloned()
                .collect::<Vec<_>>()
        };
        let namespace = AudienceKey::Namespace("shop".to_owned());
        let one = |name: &str| AudienceKey::Pod("shop".to_owned(), name.to_owned());
        assert_eq!(meant(&[]), []);
        assert_eq!(meant(&[AudienceKey::Everyone, one("a")]), all);
        assert_eq!(meant(&[one("b"), namespace]), all[1..3]);
        assert_eq!(meant(&[one("b"), one("c")]), all[2..3]);
    }
}

//! Which sidecars are connected where, and whom of them an object concerns.

use std::collections::BTreeMap;

use compiler::{Audience, AudienceKey, ObjectKey};
use tokio::time::Instant;

use crate::push::PodId;

/// Pods, in the order of their namespaces, and since when each is connected.
#[derive(Clone, Debug, Default)]
pub(super) struct Presence {
    pods: BTreeMap<PodId, Instant>,
    /// How many are in each namespace; none has none.
    namespaces: BTreeMap<String, usize>,
}

// === impl Presence ===

impl Presence {
    pub(super) fn insert(&mut self, pod: PodId, since: Instant) {
        let namespace = pod.0.namespace.clone();
        if self.pods.insert(pod, since).is_none() {
            *self.namespaces.entry(namespace).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, pod: &PodId) {
        let namespace = &pod.0.namespace;
        if self.pods.remove(pod).is_some()
            && let Some(count) = self.namespaces.get_mut(namespace)
        {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(namespace);
            }
        }
    }

    pub(super) fn since(&self, pod: &PodId) -> Option<Instant> {
        self.pods.get(pod).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = (&PodId, &Instant)> {
        self.pods.iter()
    }

    /// Those that `other` hasn't.
    pub(super) fn without<'a>(&'a self, other: &'a Presence) -> impl Iterator<Item = PodId> + 'a {
        let pods = self.pods.keys().filter(|pod| other.since(pod).is_none());
        pods.cloned()
    }

    /// How many a resource of this audience concerns, as [`Presence::meant`] has them. Whole
    /// namespaces are not walked: this is asked for each object.
    pub(super) fn count(&self, audience: &Audience) -> usize {
        if audience.contains(&AudienceKey::Everyone) {
            return self.len();
        }
        let counts = keys(audience).map(|key| match key {
            AudienceKey::Namespace(namespace) => {
                self.namespaces.get(namespace).copied().unwrap_or_default()
            }
            key => self.under(key).count(),
        });
        counts.sum()
    }

    /// Those whom a resource of this audience concerns whatever they have asked for, each once.
    pub(super) fn meant<'a>(&'a self, audience: &'a Audience) -> impl Iterator<Item = &'a PodId> {
        keys(audience).flat_map(|key| self.under(key))
    }

    fn under<'a>(&'a self, key: &'a AudienceKey) -> impl Iterator<Item = &'a PodId> {
        let (namespace, name) = match key {
            AudienceKey::Everyone => (None, None),
            AudienceKey::Namespace(namespace) => (Some(namespace), None),
            AudienceKey::Pod(namespace, name) => (Some(namespace), Some(name)),
            // Whoever is told of what it asks for is known where it is connected, and nowhere else.
            AudienceKey::Service(..) | AudienceKey::AnyService => {
                return None.into_iter().flatten();
            }
        };
        let first = ObjectKey::new(
            namespace.map_or("", String::as_str),
            name.map_or("", String::as_str),
        );
        let pods = self.pods.range((first, String::new())..);
        let under = pods.map(|(pod, _)| pod).take_while(move |(pod, _)| {
            namespace.is_none_or(|namespace| pod.namespace == *namespace)
                && name.is_none_or(|name| pod.name == *name)
        });
        Some(under).into_iter().flatten()
    }
}

/// Those keys of which none means what another of them means too.
fn keys(audience: &Audience) -> impl Iterator<Item = &AudienceKey> {
    let everyone = audience.contains(&AudienceKey::Everyone);
    audience.iter().filter(move |key| match key {
        AudienceKey::Everyone => true,
        AudienceKey::Pod(namespace, _) => {
            !everyone && !audience.contains(&AudienceKey::Namespace(namespace.clone()))
        }
        _ => !everyone,
    })
}

impl FromIterator<(PodId, Instant)> for Presence {
    fn from_iter<I: IntoIterator<Item = (PodId, Instant)>>(pods: I) -> Presence {
        let mut presence = Presence::default();
        for (pod, since) in pods {
            presence.insert(pod, since);
        }
        presence
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
            let meant: Vec<_> = presence.meant(&audience).cloned().collect();
            assert_eq!(presence.count(&audience), meant.len());
            meant
        };
        let namespace = AudienceKey::Namespace("shop".to_owned());
        let one = |name: &str| AudienceKey::Pod("shop".to_owned(), name.to_owned());
        assert_eq!(meant(&[]), []);
        assert_eq!(meant(&[AudienceKey::Everyone, one("a")]), all);
        assert_eq!(meant(&[one("b"), namespace]), all[1..3]);
        assert_eq!(meant(&[one("b"), one("c")]), all[2..3]);
        let mut fewer = presence.clone();
        fewer.remove(&all[1]);
        fewer.remove(&all[1]);
        fewer.insert(all[2].clone(), now);
        let namespace = Audience::from([AudienceKey::Namespace("shop".to_owned())]);
        assert_eq!(fewer.count(&namespace), 1);
    }
}

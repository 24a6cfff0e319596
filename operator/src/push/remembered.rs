//! What the pods of a Deployment call, for those of its pods that are yet to come.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use wire::ResourceId;
use wire::lookup::MAX_LOOKUPS;

use super::streams::Subscriber;

/// The most owners that something is remembered of.
const MAX_OWNERS: usize = 4096;

/// The label by which a Deployment tells its generations of pods apart.
const GENERATION: &str = "pod-template-hash";

/// Whose pods call the same: a Deployment, StatefulSet or the like, or a pod of its own. Named after its
/// pods' names, which it gives them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    namespace: String,
    /// Of another service account is another program.
    service_account: String,
    name: String,
}

/// What each owner's pods asked for. In memory alone: pods that run say at Hello what they hold.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    asked: BTreeMap<Owner, Known>,
    /// Counts what was noted.
    clock: u64,
}

#[derive(Debug, Default)]
struct Known {
    questions: BTreeSet<ResourceId>,
    noted: u64,
}

// === impl Owner ===

impl Owner {
    /// Of a pod, as far as it is known.
    pub(super) fn of(subscriber: &Subscriber, pod: Option<&Pod>) -> Owner {
        let metadata = pod.map(|pod| &pod.metadata);
        let prefix = metadata.and_then(|metadata| metadata.generate_name.as_deref());
        let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
        let generation = labels.and_then(|labels| labels.get(GENERATION));
        let name = prefix.map(|prefix| {
            let prefix = prefix.trim_end_matches('-');
            let generation = generation.map(|generation| format!("-{generation}"));
            let name = generation.and_then(|generation| prefix.strip_suffix(&generation));
            name.unwrap_or(prefix)
        });
        Owner {
            namespace: subscriber.pod.namespace.clone(),
            service_account: subscriber.service_account.clone(),
            name: name.unwrap_or(&subscriber.pod.name).to_owned(),
        }
    }
}

// === impl Remembered ===

impl Remembered {
    /// What to tell a new pod of this owner unasked.
    pub(super) fn of(&self, owner: &Owner) -> BTreeSet<ResourceId> {
        let known = self.asked.get(owner);
        known
            .map(|known| known.questions.clone())
            .unwrap_or_default()
    }

    /// A pod of the owner asks that, and no longer this.
    pub(super) fn note(&mut self, owner: Owner, wanted: &[ResourceId], unwanted: &[ResourceId]) {
        self.clock += 1;
        let known = self.asked.entry(owner.clone()).or_default();
        known.noted = self.clock;
        for question in unwanted {
            known.questions.remove(question);
        }
        let room = MAX_LOOKUPS.saturating_sub(known.questions.len());
        known.questions.extend(wanted.iter().take(room).cloned());
        if known.questions.is_empty() {
            self.asked.remove(&owner);
        }
        if self.asked.len() > MAX_OWNERS {
            let oldest = self.asked.iter().min_by_key(|(_, known)| known.noted);
            if let Some(owner) = oldest.map(|(owner, _)| owner.clone()) {
                self.asked.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use compiler::ObjectKey;
    use serde_json::json;

    use super::*;

    fn subscriber(pod: &str) -> Subscriber {
        Subscriber {
            pod: ObjectKey::new("shop", pod),
            uid: "1".to_owned(),
            service_account: "web".to_owned(),
            expires: SystemTime::UNIX_EPOCH,
        }
    }

    fn owner(pod: &str, metadata: serde_json::Value) -> String {
        let known: Pod = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
        Owner::of(&subscriber(pod), Some(&known)).name
    }

    #[test]
    fn pods_of_a_deployment_have_one_owner_in_all_its_generations() {
        for generation in ["6c9f", "77b4"] {
            let metadata = json!({
                "generateName": format!("web-shop-{generation}-"),
                "labels": { "pod-template-hash": generation },
            });
            assert_eq!(owner("web-shop-x-1", metadata), "web-shop");
        }
        let of_a_set = json!({ "generateName": "store-" });
        assert_eq!(owner("store-0", of_a_set), "store");
        assert_eq!(owner("alone", json!({})), "alone");
        assert_eq!(Owner::of(&subscriber("unknown"), None).name, "unknown");
    }

    #[test]
    fn what_was_asked_is_remembered_of_a_bounded_number_of_owners() {
        let mut remembered = Remembered::default();
        let owner = |number: usize| Owner::of(&subscriber(&format!("pod-{number}")), None);
        let question: ResourceId = "lookup/address/10.96.0.1".parse().unwrap();
        let asked = [question];
        for number in 0..=MAX_OWNERS {
            remembered.note(owner(number), &asked, &[]);
        }
        assert!(remembered.of(&owner(0)).is_empty());
        assert!(remembered.of(&owner(MAX_OWNERS)).iter().eq(&asked));
        assert_eq!(remembered.asked.len(), MAX_OWNERS);
        remembered.note(owner(MAX_OWNERS), &[], &asked);
        assert!(remembered.of(&owner(MAX_OWNERS)).is_empty());
        assert_eq!(
            remembered.asked.len(),
            MAX_OWNERS - 1,
            "nothing is kept of it"
        );
    }
}

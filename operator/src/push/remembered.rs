//! What the pods of a Deployment call, for those of its pods that are yet to come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;
use wire::ResourceId;
use wire::lookup::MAX_LOOKUPS;

use super::streams::Subscriber;

/// The most owners that something is remembered of.
const MAX_OWNERS: usize = 4096;

/// How long something is remembered of an owner that has no pod here.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How often those are looked for that were remembered for so long.
const LOOK: Duration = Duration::from_secs(3600);

/// The label by which a Deployment tells its generations of pods apart.
const GENERATION: &str = "pod-template-hash";
/// The label of a Job's pods. A CronJob tells its Jobs apart by the minutes since 1970.
const JOB: &str = "job-name";

/// Whose pods call the same: a Deployment, StatefulSet, CronJob or the like, or a pod of its own. Named after its
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
    /// How many pods of each owner are connected; none has none.
    here: BTreeMap<Owner, usize>,
    /// When was last looked for those that no pod has come of for long.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    questions: BTreeSet<ResourceId>,
    /// When a pod of the owner last came, asked or went.
    used: Instant,
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
            let is_job = labels.is_some_and(|labels| labels.contains_key(JOB));
            if is_job
                && let Some(name) = prefix
                    .trim_end_matches(|c: char| c.is_ascii_digit())
                    .strip_suffix('-')
            {
                return name;
            }
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
    /// A pod of this owner comes: what to tell it unasked.
    pub(super) fn joined(&mut self, owner: &Owner) -> BTreeSet<ResourceId> {
        *self.here.entry(owner.clone()).or_default() += 1;
        let questions = self.used(owner).map(|known| known.questions.clone());
        self.forget();
        questions.unwrap_or_default()
    }

    /// A pod of this owner has gone.
    pub(super) fn left(&mut self, owner: &Owner) {
        self.used(owner);
        if let Some(pods) = self.here.get_mut(owner) {
            *pods -= 1;
            if *pods == 0 {
                self.here.remove(owner);
            }
        }
    }

    /// A pod of the owner asks that, and no longer this.
    pub(super) fn note(&mut self, owner: Owner, wanted: &[ResourceId], unwanted: &[ResourceId]) {
        let known = self.asked.entry(owner.clone()).or_insert_with(|| Known {
            questions: BTreeSet::new(),
            used: Instant::now(),
        });
        known.used = Instant::now();
        for question in unwanted {
            known.questions.remove(question);
        }
        let room = MAX_LOOKUPS.saturating_sub(known.questions.len());
        known.questions.extend(wanted.iter().take(room).cloned());
        if known.questions.is_empty() {
            self.asked.remove(&owner);
        }
        if self.asked.len() > MAX_OWNERS {
            // However many come once and go, those that stay are not forgotten for them.
            let is_here = |owner: &Owner| self.here.contains_key(owner);
            let known = self.asked.iter();
            let oldest = known.min_by_key(|(owner, known)| (is_here(owner), known.used));
            if let Some(owner) = oldest.map(|(owner, _)| owner.clone()) {
                self.asked.remove(&owner);
            }
        }
    }

    fn used(&mut self, owner: &Owner) -> Option<&Known> {
        let known = self.asked.get_mut(owner)?;
        known.used = Instant::now();
        Some(known)
    }

    /// Forgets owners that have had no pod for long.
    fn forget(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let here = &self.here;
        self.asked
            .retain(|owner, known| here.contains_key(owner) || known.used.elapsed() < REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use compiler::ObjectKey;
    use serde_json::json;
    use tokio::time::advance;

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
    fn all_runs_of_a_cron_job_have_one_owner() {
        for job in ["report-29384756", "report-29384757"] {
            let metadata =
                json!({ "generateName": format!("{job}-"), "labels": { "job-name": job } });
            assert_eq!(owner("report-29384756-x", metadata), "report");
        }
        let metadata = json!({ "generateName": "once-", "labels": { "job-name": "once" } });
        assert_eq!(owner("once-x", metadata), "once");
    }

    fn question() -> [ResourceId; 1] {
        ["lookup/address/10.96.0.1".parse().unwrap()]
    }

    fn numbered(number: usize) -> Owner {
        Owner::of(&subscriber(&format!("pod-{number}")), None)
    }

    /// A pod comes, asks and goes.
    fn run(remembered: &mut Remembered, owner: &Owner) {
        remembered.joined(owner);
        remembered.note(owner.clone(), &question(), &[]);
        remembered.left(owner);
    }

    fn is_known(remembered: &Remembered, owner: &Owner) -> bool {
        remembered.asked.contains_key(owner)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_is_remembered_of_a_bounded_number_of_owners() {
        let mut remembered = Remembered::default();
        for number in 0..=MAX_OWNERS {
            advance(Duration::from_millis(1)).await;
            run(&mut remembered, &numbered(number));
        }
        assert!(!is_known(&remembered, &numbered(0)));
        let last = numbered(MAX_OWNERS);
        assert!(remembered.joined(&last).iter().eq(&question()));
        assert_eq!(remembered.asked.len(), MAX_OWNERS);
        remembered.note(last.clone(), &[], &question());
        assert!(remembered.joined(&last).is_empty());
        assert_eq!(
            remembered.asked.len(),
            MAX_OWNERS - 1,
            "nothing is kept of it"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_stay_are_not_forgotten_for_those_that_come_once_and_go() {
        let mut remembered = Remembered::default();
        let (steady, left) = (numbered(0), numbered(1));
        remembered.joined(&steady);
        remembered.note(steady.clone(), &question(), &[]);
        run(&mut remembered, &left);
        for number in 2..=MAX_OWNERS + 2 {
            advance(Duration::from_millis(1)).await;
            run(&mut remembered, &numbered(number));
            if number == MAX_OWNERS - 1 {
                // It has been asked for nothing new, but is used.
                remembered.joined(&left);
                remembered.left(&left);
            }
        }
        assert!(is_known(&remembered, &steady));
        assert!(is_known(&remembered, &left));
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_has_had_no_pod_for_a_day_is_forgotten() {
        let mut remembered = Remembered::default();
        let (steady, gone, other) = (numbered(0), numbered(1), numbered(2));
        remembered.joined(&steady);
        remembered.note(steady.clone(), &question(), &[]);
        run(&mut remembered, &gone);
        advance(REMEMBERED - LOOK).await;
        run(&mut remembered, &other);
        assert!(is_known(&remembered, &gone), "its pods may come back");
        advance(LOOK).await;
        run(&mut remembered, &other);
        assert!(!is_known(&remembered, &gone));
        assert!(is_known(&remembered, &steady), "its pod is there");
        remembered.left(&steady);
        assert_eq!(remembered.here.len(), 0, "nobody is counted for ever");
    }
}

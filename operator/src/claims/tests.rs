use std::collections::BTreeMap;

use tokio::time::advance;
use wire::discovery::Run;

use super::*;

mod cluster;

/// A store that several replicas share.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    all: BTreeMap<ObjectKey, Kept>,
    writes: u64,
    reads: usize,
    is_away: bool,
}

impl Memory {
    fn held<T>(&self, with: impl FnOnce(&mut Held) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    fn asked<T>(&self, with: impl FnOnce(&mut Held) -> T) -> Result<T, StoreError> {
        self.held(|held| match held.is_away {
            true => Err(StoreError::Unreadable("away".to_owned())),
            false => Ok(with(held)),
        })
    }
}

impl Store for Memory {
    fn read<'a>(
        &'a self,
        object: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Kept>, StoreError>> {
        Box::pin(async move {
            self.asked(|held| {
                held.reads += 1;
                held.all.get(object).cloned()
            })
        })
    }

    fn write<'a>(
        &'a self,
        object: &'a ObjectKey,
        record: &'a Record,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            self.asked(|held| {
                let before = held.all.get(object).map(|kept| kept.version.as_str());
                if before != version {
                    return None;
                }
                held.writes += 1;
                let version = held.writes.to_string();
                let kept = Kept {
                    record: record.clone(),
                    version: version.clone(),
                };
                held.all.insert(object.clone(), kept);
                Some(version)
            })
        })
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<(ObjectKey, String)>, StoreError>> {
        Box::pin(async move {
            self.asked(|held| {
                let all = held.all.iter();
                all.map(|(key, kept)| (key.clone(), kept.version.clone()))
                    .collect()
            })
        })
    }

    fn remove<'a>(
        &'a self,
        object: &'a ObjectKey,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.asked(|held| {
                if held
                    .all
                    .get(object)
                    .is_some_and(|kept| kept.version == version)
                {
                    held.all.remove(object);
                }
            })
        })
    }
}

fn claimant(pod: &str) -> Claimant {
    Claimant {
        object: ObjectKey::new("shop", "nightly"),
        pod: pod.to_owned(),
        schedule: mesh::Schedule {
            form: "form".into(),
            since_ms: Some(0),
            ..mesh::Schedule::default()
        },
    }
}

fn begins(due_ms: i64) -> Claim {
    Claim {
        form: "form".into(),
        begin_ms: Some(due_ms),
        ..Claim::default()
    }
}

fn has_done(token: u64, due_ms: i64) -> Claim {
    let run = Run {
        due_ms,
        attempts: 1,
        done: true,
    };
    Claim {
        token,
        runs: vec![run],
        begin_ms: None,
        ..begins(due_ms)
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_grants_whoever_is_asked() {
    let store = Memory::default();
    let replicas = [Claims::new(store.clone()), Claims::new(store.clone())];
    for due in 1..50 {
        advance(FRESH).await;
        // Each has read what the other has written over since.
        let claims = (0..8).map(|pod| {
            let replica = replicas[pod % 2].clone();
            tokio::spawn(async move {
                let pod = format!("shop/{pod}/uid");
                let grant = replica.claim(&claimant(&pod), &begins(due)).await;
                (pod, grant.unwrap())
            })
        });
        let mut granted = Vec::new();
        for claimed in Vec::from_iter(claims) {
            let (pod, grant) = claimed.await.unwrap();
            if grant.token != 0 {
                granted.push((pod, grant.token));
            }
        }
        let [(pod, token)] = &granted[..] else {
            panic!("{granted:?} of {due}")
        };
        let other = &replicas[due as usize % 2];
        let done = other.claim(&claimant(pod), &has_done(*token, due)).await;
        assert_eq!(done.unwrap().begun_ms, due);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_pod_held_goes_to_another_once_nobody_has_claimed_it_for_long() {
    let store = Memory::default();
    let [first, second] = [(); 2].map(|()| Claims::new(store.clone()));
    let granted = first.claim(&claimant("a"), &begins(5)).await.unwrap();
    assert_eq!(granted.token, 1);
    let asks = async |claims: &Claims| claims.claim(&claimant("b"), &begins(5)).await.unwrap();
    assert_eq!(asks(&second).await.token, 0);

    // As long as it is renewed, by whichever replica, it stays whose it is.
    let renewal = Claim {
        token: 1,
        begin_ms: None,
        ..begins(5)
    };
    for _ in 0..10 {
        advance(Duration::from_secs(4)).await;
        let renewed = first.claim(&claimant("a"), &renewal).await.unwrap();
        assert_eq!(renewed.token, 1);
        assert_eq!(asks(&second).await.token, 0);
    }
    advance(LIFE - Duration::from_secs(1)).await;
    assert_eq!(asks(&second).await.token, 0);
    // A replica that has started anew has not looked on for long.
    let third = Claims::new(store.clone());
    advance(Duration::from_secs(2)).await;
    assert_eq!(asks(&third).await.token, 0);
    let taken = asks(&second).await;
    assert_eq!(
        (taken.token, taken.open[0].due_ms, taken.open[0].attempts),
        (2, 5, 2)
    );
    // The one that was taken for dead is told, by a replica that had read it long ago.
    let late = first.claim(&claimant("a"), &has_done(1, 5)).await.unwrap();
    assert_eq!((late.token, late.again_ms), (0, 5_000));
}

#[tokio::test(start_paused = true)]
async fn many_that_ask_at_once_cost_few_requests_and_one_that_asks_for_ever_is_slowed() {
    let store = Memory::default();
    let claims = Claims::new(store.clone());
    for pod in 0..100 {
        let pod = pod.to_string();
        claims.claim(&claimant(&pod), &begins(5)).await.unwrap();
    }
    assert_eq!(store.held(|held| (held.reads, held.writes)), (1, 1));

    let before = Instant::now();
    let renewal = Claim {
        token: 1,
        begin_ms: None,
        ..begins(5)
    };
    for _ in 0..1_000 {
        claims.claim(&claimant("0"), &renewal).await.unwrap();
    }
    assert!(
        before.elapsed() > Duration::from_secs(90),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_nothing_is_granted_and_nothing_is_lost() {
    let store = Memory::default();
    let claims = Claims::new(store.clone());
    let granted = claims.claim(&claimant("a"), &begins(5)).await.unwrap();
    store.held(|held| held.is_away = true);
    advance(FRESH).await;
    for claim in [begins(6), has_done(1, 5)] {
        assert_eq!(claims.claim(&claimant("a"), &claim).await, None);
    }
    store.held(|held| held.is_away = false);
    let again = claims.claim(&claimant("a"), &begins(5)).await.unwrap();
    assert_eq!((again.token, again.open), (granted.token, granted.open));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_objects_that_are_gone_is_removed_by_the_one_that_leads() {
    let store = Memory::default();
    let claims = Claims::new(store.clone());
    claims.claim(&claimant("a"), &begins(5)).await.unwrap();
    let (world, worlds) = watch::channel(None);
    let (leads, leader) = watch::channel(Leader::Nobody);
    let tidying = tokio::spawn(claims.clone().tidy(leader, worlds));
    let settled = async || {
        advance(TIDY + TIDY_AGAIN).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        store.held(|held| held.all.len())
    };
    let mut inputs = Inputs::default();
    let object = ObjectKey::new("shop", "nightly");
    let there = serde_json::json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "EventSubscription",
        "metadata": { "name": "nightly", "namespace": "shop" },
        "spec": { "source": { "type": "Schedule", "schedule": { "cron": "0 2 * * *" } },
                  "target": { "type": "Service", "service": { "name": "a", "port": 80 } },
                  "delivery": { "onExhausted": "Drop" } } });
    let there = Arc::new(serde_json::from_value(there).unwrap());
    inputs.event_subscriptions.insert(object, there);
    world.send_replace(Some(Arc::new(inputs)));
    leads.send_replace(Leader::alone().borrow().clone());
    assert_eq!(settled().await, 1, "it is there");
    leads.send_replace(Leader::Nobody);
    world.send_replace(Some(Arc::default()));
    assert_eq!(settled().await, 1, "another replica sees to it");
    let known = claims.known.lock().unwrap().len();
    assert_eq!(known, 0, "and nobody knows of it any longer");
    store.held(|held| held.is_away = true);
    leads.send_replace(Leader::alone().borrow().clone());
    settled().await;
    store.held(|held| held.is_away = false);
    assert_eq!(settled().await, 0);
    assert!(!tidying.is_finished());
}

#[tokio::test]
async fn a_file_keeps_what_was_granted_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let claims = Claims::new(folder::Folder::new(folder.path()));
    let granted = claims.claim(&claimant("a"), &begins(5)).await.unwrap();
    assert_eq!(granted.token, 1);
    drop(claims);

    let store = folder::Folder::new(folder.path());
    let claims = Claims::new(store.clone());
    let again = claims.claim(&claimant("a"), &begins(6)).await.unwrap();
    assert_eq!((again.token, again.begun_ms), (1, 5), "it is the same task");
    claims.claim(&claimant("a"), &has_done(1, 5)).await.unwrap();
    let refused = claims.claim(&claimant("b"), &begins(5)).await.unwrap();
    assert_eq!((refused.token, refused.begun_ms), (0, 5));

    let [(object, version)] = &store.all().await.unwrap()[..] else {
        panic!("one is kept");
    };
    let record = Record::default();
    let old = store.write(object, &record, Some("1")).await.unwrap();
    assert_eq!(old, None, "it was written since");
    store.remove(object, "1").await.unwrap();
    assert_eq!(store.all().await.unwrap().len(), 1);
    store.remove(object, version).await.unwrap();
    assert_eq!(store.all().await.unwrap(), []);

    std::fs::write(folder.path().join("claims.json"), "{").unwrap();
    let why = store.read(object).await.unwrap_err().to_string();
    assert!(
        why.contains("claims.json") && why.contains("made anew"),
        "{why}"
    );
}

//! An issuer of tokens, and its keys while they are fetched again and again.
//!
//! The keys are the sidecar's, shared by its workers, and outlive edits of what is said of the issuer
//! as long as they come from the same place. One worker fetches them (`proxy/keys.rs`); the others
//! read an atomic. While the issuer is away, the keys that it had last are taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::jwks::{Algorithm, Jwks};
use wire::mesh::{self, jwks_source};

use super::credential::Place;
use super::jwt::{Keys, MAX_SKEW, Provider};
use super::tell::Tell;
use crate::config::remote::Remote;

/// How often at most a token with an unknown key makes the keys be fetched again.
const REFETCH: Duration = Duration::from_secs(10);
/// How long a request waits for keys that are being fetched.
const PATIENCE: Duration = Duration::from_secs(5);
/// Fetched keys are fetched again in these limits.
const TTL: std::ops::RangeInclusive<u64> = 1_000..=24 * 3600 * 1000;

/// One issuer.
#[derive(Debug)]
pub struct Issuer {
    /// What is required of its tokens.
    pub provider: Provider,
    /// Its keys.
    pub keys: Arc<IssuerKeys>,
    /// Where its tokens are.
    pub from: Vec<Place>,
    /// What the application is told.
    pub tell: Tell,
    /// Whether the application gets the token.
    pub forward: bool,
}

/// The keys of an issuer.
#[derive(Debug)]
pub struct IssuerKeys {
    current: ArcSwap<Keys>,
    fetched: Option<Fetched>,
}

/// Of keys that are fetched.
#[derive(Debug)]
struct Fetched {
    from: Remote,
    ttl: Duration,
    /// Somebody fetches them.
    kept: AtomicBool,
    /// How many tries have ended.
    tries: watch::Sender<u64>,
    /// One is under way.
    asking: AtomicBool,
    /// When a token last made them be fetched.
    last: Mutex<Option<Instant>>,
    /// What was fetched last, as it came.
    text: Mutex<Vec<u8>>,
    wanted: Notify,
}

// === build ===

impl Issuer {
    /// Builds from what was sent; keys of the same place as `old` ones go on.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::JwtIssuer, old: &[Issuer]) -> Result<Self, String> {
        let algorithms = sent.algorithms.iter().map(|name| {
            Algorithm::named(name).ok_or_else(|| format!("the algorithm `{name}` is not known"))
        });
        let skew = Duration::from_millis(sent.clock_skew_ms);
        if skew > MAX_SKEW {
            return Err(format!("clocks {}s apart", skew.as_secs()));
        }
        if sent.audiences.is_empty() || sent.from.is_empty() {
            return Err("it has no audience, or no place that tokens are in".to_owned());
        }
        let jwks = sent.jwks.ok_or("it has no keys")?;
        Ok(Self {
            keys: IssuerKeys::build(jwks, old)?,
            from: sent
                .from
                .iter()
                .map(Place::build)
                .collect::<Result<_, _>>()?,
            tell: Tell::build(sent.claims_to_headers)?,
            forward: sent.forward,
            provider: Provider {
                issuer: sent.issuer,
                audiences: sent.audiences,
                algorithms: algorithms.collect::<Result<_, _>>()?,
                skew,
                required_claims: sent.required_claims,
                required_scopes: sent.required_scopes,
                max_age: None,
            },
        })
    }
}

impl IssuerKeys {
    fn build(sent: mesh::JwksSource, old: &[Issuer]) -> Result<Arc<Self>, String> {
        match sent.source {
            None => Err("where its keys are is not known to this sidecar".to_owned()),
            Some(jwks_source::Source::Inline(text)) => {
                let keys = Keys::build(&Jwks::parse(text.as_bytes())?)?;
                Ok(Arc::new(Self {
                    current: ArcSwap::from_pointee(keys),
                    fetched: None,
                }))
            }
            Some(jwks_source::Source::Remote(from)) => {
                let from = Remote::build(from)?;
                if !TTL.contains(&sent.ttl_ms) {
                    return Err("its keys are fetched too seldom or too often".to_owned());
                }
                let ttl = Duration::from_millis(sent.ttl_ms);
                let same = |issuer: &&Issuer| {
                    let fetched = issuer.keys.fetched.as_ref();
                    fetched.is_some_and(|old| old.from == from && old.ttl == ttl)
                };
                if let Some(issuer) = old.iter().find(same) {
                    return Ok(issuer.keys.clone());
                }
                Ok(Arc::new(Self {
                    current: ArcSwap::default(),
                    fetched: Some(Fetched {
                        from,
                        ttl,
                        kept: AtomicBool::new(false),
                        tries: watch::Sender::new(0),
                        asking: AtomicBool::new(false),
                        last: Mutex::default(),
                        text: Mutex::default(),
                        wanted: Notify::new(),
                    }),
                }))
            }
        }
    }

    // === request ===

    /// The keys at the moment; none before any have come.
    pub fn current(&self) -> arc_swap::Guard<Arc<Keys>> {
        self.current.load()
    }

    /// Whether any have come.
    pub fn are_here(&self) -> bool {
        !self.current().is_empty()
    }

    /// Waits until they have been fetched again, whether or not that brought any; says whether they
    /// have. Not if they are never fetched, or another token made them be fetched within the last
    /// seconds.
    pub async fn fetched_again(&self) -> bool {
        let Some(fetched) = &self.fetched else {
            return false;
        };
        let mut tries = fetched.tries.subscribe();
        let before = *tries.borrow_and_update();
        // What is on its way already may bring the key: it is waited for, and nothing more is asked.
        if !fetched.asking.load(Ordering::SeqCst) {
            let mut last = fetched.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < REFETCH) {
                return false;
            }
            *last = Some(Instant::now());
            fetched.wanted.notify_one();
        }
        let again = tries.wait_for(|tries| *tries > before);
        tokio::time::timeout(PATIENCE, again).await.is_ok()
    }

    /// Becomes the one that fetches them; where from. Nobody is asked for keys that stand written.
    pub fn keep(&self) -> Option<&Remote> {
        let fetched = self.fetched.as_ref()?;
        let first = !fetched.kept.swap(true, Ordering::Relaxed);
        first.then_some(&fetched.from)
    }

    /// Takes what was fetched.
    ///
    /// # Errors
    /// Why it cannot be used; what was there holds on.
    pub fn take(&self, answer: Result<&[u8], String>) -> Result<(), String> {
        let taken = answer.and_then(|bytes| self.replace(bytes));
        if let Some(fetched) = &self.fetched {
            fetched.asking.store(false, Ordering::SeqCst);
            fetched.tries.send_modify(|tries| *tries += 1);
        }
        taken
    }

    /// The same set as before is left alone: what was verified with it goes on.
    fn replace(&self, bytes: &[u8]) -> Result<(), String> {
        let text = self.fetched.as_ref().map(|fetched| &fetched.text);
        let text = text.map(|text| text.lock().unwrap_or_else(PoisonError::into_inner));
        if text.as_ref().is_some_and(|text| ***text == *bytes) {
            return Ok(());
        }
        let keys = Keys::build(&Jwks::parse(bytes)?)?;
        self.current.store(Arc::new(keys));
        if let Some(mut text) = text {
            *text = bytes.to_vec();
        }
        Ok(())
    }

    /// The issuer is asked now.
    pub fn asking(&self) {
        if let Some(fetched) = &self.fetched {
            fetched.asking.store(true, Ordering::SeqCst);
        }
    }

    /// Waits until they are to be fetched again: ahead of their time, when a token names a key that is
    /// not among them, or after `pause`.
    pub async fn due(&self, pause: Option<Duration>) {
        let Some(fetched) = &self.fetched else {
            return std::future::pending().await;
        };
        let ahead = fetched.ttl.mul_f64(0.8 * rand::random_range(0.9..=1.0));
        let pause = pause.unwrap_or(ahead).min(ahead);
        let _ = tokio::time::timeout(pause, fetched.wanted.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> IssuerKeys {
        let from = mesh::Remote {
            uri: "http://issuer.auth/jwks".into(),
            ..Default::default()
        };
        let source = mesh::JwksSource {
            source: Some(jwks_source::Source::Remote(from)),
            ttl_ms: 300_000,
        };
        Arc::into_inner(IssuerKeys::build(source, &[]).unwrap()).unwrap()
    }

    const SET: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_makes_them_be_fetched_once_in_ten_seconds() {
        let keys = Arc::new(keys());
        assert!(keys.keep().is_some() && keys.keep().is_none());
        keys.take(Ok(SET)).unwrap();
        let fetches = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let keeper = tokio::spawn({
            let (keys, fetches) = (keys.clone(), fetches.clone());
            async move {
                loop {
                    keys.due(None).await;
                    fetches.fetch_add(1, Ordering::Relaxed);
                    keys.take(Ok(SET)).unwrap();
                }
            }
        });
        for _ in 0..2 {
            let before = fetches.load(Ordering::Relaxed);
            assert!(keys.fetched_again().await);
            let begun = Instant::now();
            for _ in 0..1000 {
                assert!(!keys.fetched_again().await);
            }
            assert_eq!(fetches.load(Ordering::Relaxed), before + 1);
            assert_eq!(Instant::now(), begun, "nobody waited");
            tokio::time::advance(REFETCH).await;
        }
        // Nobody asks: they are fetched ahead of their time all the same.
        let before = fetches.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(290)).await;
        assert!(fetches.load(Ordering::Relaxed) > before);
        keeper.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_on_their_way_are_waited_for_and_asked_for_no_second_time() {
        let keys = keys();
        keys.take(Ok(SET)).unwrap();
        // Nobody fetches, so this one has waited in vain.
        assert!(!keys.fetched_again().await);
        assert!(!keys.fetched_again().await);
        keys.asking();
        let (waited, ()) = tokio::join!(keys.fetched_again(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            keys.take(Ok(SET)).unwrap();
        });
        assert!(waited);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_are_kept_while_the_issuer_is_away_or_talks_nonsense() {
        let keys = keys();
        assert!(!keys.are_here());
        keys.take(Ok(SET)).unwrap();
        keys.take(Err("away".to_owned())).unwrap_err();
        keys.take(Ok(b"<html>")).unwrap_err();
        keys.take(Ok(br#"{"keys":[]}"#)).unwrap_err();
        assert!(keys.are_here());
    }

    #[test]
    fn the_same_set_again_leaves_what_was_verified_with_it() {
        let keys = keys();
        keys.take(Ok(SET)).unwrap();
        let before = keys.current().clone();
        keys.take(Ok(SET)).unwrap();
        assert!(Arc::ptr_eq(&before, &keys.current()));
        keys.take(Ok(&[SET, b" "].concat())).unwrap();
        assert!(!Arc::ptr_eq(&before, &keys.current()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_ever() {
        let keys = keys();
        let begun = Instant::now();
        assert!(!keys.fetched_again().await);
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}

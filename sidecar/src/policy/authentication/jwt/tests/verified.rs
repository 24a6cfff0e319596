use std::sync::Arc;

use super::*;

fn ask(cache: &Verified, token: &str, seconds: u64) -> Result<Arc<Token>, Refused> {
    cache.verify(token, [(&*KEYS, &Provider::new(ISSUER))], at(seconds))
}

#[test]
fn a_signature_is_verified_once() {
    let (cache, token) = (Verified::new(), of(&claims()));
    let first = ask(&cache, &token, NOW).unwrap();
    let again = ask(&cache, &token, NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(cache.len(), 1);
    // Another spelling is another token.
    let other = ask(&cache, &format!("{token}="), NOW);
    assert_eq!(other, Err(Refused::Malformed));
}

#[test]
fn what_is_remembered_is_judged_anew_each_time() {
    let cache = Verified::new();
    let token = of(&with(claims(), "nbf", NOW));
    assert!(ask(&cache, &token, NOW).is_ok());
    assert_eq!(ask(&cache, &token, NOW - 61), Err(Refused::NotYetValid));
    assert!(ask(&cache, &token, NOW + 359).is_ok());
    let other = |provider: Provider| {
        cache
            .verify(&token, [(&*KEYS, &provider)], at(NOW))
            .map(drop)
    };
    let ours = || Provider::new(ISSUER);
    assert_eq!(other(ours()), Ok(()));
    assert_eq!(other(Provider::new("x")), Err(Refused::WrongIssuer));
    let audiences = vec!["x".into()];
    assert_eq!(
        other(Provider {
            audiences,
            ..ours()
        }),
        Err(Refused::WrongAudience)
    );
    let required_scopes = vec!["x".into()];
    assert_eq!(
        other(Provider {
            required_scopes,
            ..ours()
        }),
        Err(Refused::MissingScope)
    );
    let algorithms = vec![Algorithm::Es256];
    assert_eq!(
        other(Provider {
            algorithms,
            ..ours()
        }),
        Err(Refused::UnsupportedAlgorithm)
    );
    // What has expired is forgotten.
    assert_eq!(cache.len(), 1);
    assert_eq!(ask(&cache, &token, NOW + 360), Err(Refused::Expired));
    assert_eq!(cache.len(), 0);
}

#[test]
fn what_one_set_of_keys_has_verified_counts_for_no_other() {
    let (cache, token, provider) = (Verified::new(), of(&claims()), Provider::new(ISSUER));
    assert!(ask(&cache, &token, NOW).is_ok());
    let withdrawn = keys(&[jwk(Algorithm::Es256)]);
    for keys in [&withdrawn, &Keys::default()] {
        let refused = cache.verify(&token, [(keys, &provider)], at(NOW));
        assert_eq!(refused, Err(Refused::UnknownKey { stale: true }));
    }
    // The same keys, built anew, verify it anew.
    assert!(
        cache
            .verify(&token, [(&keys(&set()), &provider)], at(NOW))
            .is_ok()
    );
    assert_eq!(cache.len(), 2);
}

#[test]
fn of_several_issuers_the_one_that_the_token_names_is_asked() {
    let cache = Verified::new();
    let (one, two) = (Provider::new("https://one.example"), Provider::new(ISSUER));
    let none = Keys::default();
    let token = of(&claims());
    for _ in 0..2 {
        assert!(
            cache
                .verify(&token, [(&none, &one), (&*KEYS, &two)], at(NOW))
                .is_ok()
        );
        // One set of keys for both.
        assert!(
            cache
                .verify(&token, [(&*KEYS, &one), (&*KEYS, &two)], at(NOW))
                .is_ok()
        );
    }
    assert_eq!(cache.len(), 1);
    let refused = cache.verify(&token, [(&*KEYS, &one)], at(NOW));
    assert_eq!(refused, Err(Refused::WrongIssuer));
    let refused = cache.verify(&token, [(&*KEYS, &one), (&none, &two)], at(NOW));
    assert_eq!(refused, Err(Refused::UnknownKey { stale: true }));
    assert_eq!(cache.verify(&token, [], at(NOW)), Err(Refused::WrongIssuer));
}

#[test]
fn only_what_is_genuine_and_of_ordinary_size_is_remembered() {
    let cache = Verified::new();
    let forged = of(&claims()).replace('.', ".e");
    assert!(ask(&cache, &forged, NOW).is_err());
    assert!(ask(&cache, &of(&with(claims(), "exp", 1)), NOW).is_err());
    let elsewhere = of(&with(claims(), "iss", "x"));
    assert!(ask(&cache, &elsewhere, NOW).is_err());
    // Small as texts, large in memory.
    let objects = json!(vec![json!({"": 0}); 30]);
    let numbers = json!(vec![0; 1_000]);
    for large in [objects, numbers] {
        assert!(ask(&cache, &of(&with(claims(), "a", large)), NOW).is_ok());
    }
    assert_eq!(cache.len(), 0);
    let groups = Vec::from_iter((0..100).map(|number| format!("group-{number}")));
    assert!(ask(&cache, &of(&with(claims(), "groups", groups)), NOW).is_ok());
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_flood_of_genuine_tokens_takes_no_more_than_its_places_and_leaves_the_one_in_use() {
    let (cache, used) = (Verified::new(), of(&claims()));
    let first = ask(&cache, &used, NOW).unwrap();
    for number in 0..3 * CAPACITY {
        let token = of(&with(claims(), "jti", number));
        assert!(ask(&cache, &token, NOW).is_ok());
        assert!(Arc::ptr_eq(&first, &ask(&cache, &used, NOW).unwrap()));
    }
    let len = cache.len();
    assert!((CAPACITY * 9 / 10..=CAPACITY).contains(&len), "{len}");
}

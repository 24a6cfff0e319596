use super::*;

fn judge(claims: &Value, provider: &Provider) -> Result<(), Refused> {
    verify(&of(claims), &KEYS, provider, at(NOW)).map(drop)
}

#[test]
fn the_issuer_is_the_same_byte_by_byte() {
    let provider = Provider::new(ISSUER);
    assert_eq!(judge(&claims(), &provider), Ok(()));
    for issuer in [
        json!("https://issuer.example/"),
        json!("https://ISSUER.example"),
        json!(" https://issuer.example"),
        json!(""),
        json!([ISSUER]),
        json!(null),
        json!(1),
    ] {
        let claims = with(claims(), "iss", issuer);
        assert_eq!(judge(&claims, &provider), Err(Refused::WrongIssuer));
    }
    let claims = without(claims(), "iss");
    assert_eq!(judge(&claims, &provider), Err(Refused::WrongIssuer));
    assert_eq!(
        judge(&claims, &Provider::new("")),
        Err(Refused::WrongIssuer)
    );
}

#[test]
fn one_audience_of_the_token_is_one_of_ours() {
    let provider = Provider {
        audiences: vec!["orders".into(), "shop".into()],
        ..Provider::new(ISSUER)
    };
    for audience in [
        json!("orders"),
        json!("shop"),
        json!(["other", "shop"]),
        json!(["orders"]),
    ] {
        let claims = with(claims(), "aud", audience);
        assert_eq!(judge(&claims, &provider), Ok(()));
    }
    for audience in [
        json!("Orders"),
        json!("orders shop"),
        json!("orders,shop"),
        json!(""),
        json!([]),
        json!(["other"]),
        json!([["orders"]]),
        json!({"orders": "orders"}),
        json!(null),
    ] {
        let claims = with(claims(), "aud", audience);
        assert_eq!(judge(&claims, &provider), Err(Refused::WrongAudience));
        assert_eq!(judge(&claims, &Provider::new(ISSUER)), Ok(()));
    }
    let claims = without(claims(), "aud");
    assert_eq!(judge(&claims, &provider), Err(Refused::WrongAudience));
}

#[test]
fn required_claims_and_scopes_are_all_there() {
    let provider = |claims: &[&str], scopes: &[&str]| Provider {
        required_claims: claims.iter().map(|name| (*name).to_owned()).collect(),
        required_scopes: scopes.iter().map(|name| (*name).to_owned()).collect(),
        ..Provider::new(ISSUER)
    };
    let claims = with(claims(), "org", json!({"team": false, "lead": null}));
    for (required, expected) in [
        (&["sub"][..], Ok(())),
        (&["sub", "/org/team"], Ok(())),
        (&["/org/lead"], Err(Refused::MissingClaim)),
        (&["sub", "email"], Err(Refused::MissingClaim)),
        (&["/sub/0"], Err(Refused::MissingClaim)),
    ] {
        assert_eq!(judge(&claims, &provider(required, &[])), expected);
    }
    for (required, expected) in [
        (&["read"][..], Ok(())),
        (&["write", "read"], Ok(())),
        (&["read", "admin"], Err(Refused::MissingScope)),
        (&["READ"], Err(Refused::MissingScope)),
        (&["read write"], Err(Refused::MissingScope)),
    ] {
        assert_eq!(judge(&claims, &provider(&[], required)), expected);
    }
}

#[test]
fn what_a_genuine_token_lacks_is_told_to_nobody_who_has_none() {
    let provider = Provider {
        audiences: vec!["other".into()],
        required_claims: vec!["email".into()],
        required_scopes: vec!["admin".into()],
        ..Provider::new(ISSUER)
    };
    let token = of(&claims());
    let forged = format!("{}.{}", token.rsplit_once('.').unwrap().0, encoded([1; 64]));
    let refused = verify(&forged, &KEYS, &provider, at(NOW));
    assert_eq!(refused, Err(Refused::BadSignature));
}

#[test]
fn a_provider_accepts_no_algorithm_but_its_own() {
    let provider = Provider {
        algorithms: vec![Algorithm::Ps256, Algorithm::Es256],
        ..Provider::new(ISSUER)
    };
    for algorithm in Algorithm::ALL {
        let token = token(algorithm, &header(algorithm), &claims());
        let accepted = verify(&token, &KEYS, &provider, at(NOW)).is_ok();
        assert_eq!(accepted, provider.algorithms.contains(&algorithm));
    }
}

#[test]
fn a_token_is_good_from_nbf_to_exp_and_clocks_may_differ_a_little() {
    let skewed = |seconds| Provider {
        skew: Duration::from_secs(seconds),
        ..Provider::new(ISSUER)
    };
    let judge = |name: &str, value: u64, skew| {
        let claims = with(claims(), name, value);
        super::rules::judge(&claims, &skewed(skew))
    };
    assert_eq!(judge("exp", NOW + 1, 0), Ok(()));
    assert_eq!(judge("exp", NOW, 0), Err(Refused::Expired));
    assert_eq!(judge("exp", NOW - 59, 60), Ok(()));
    assert_eq!(judge("exp", NOW - 60, 60), Err(Refused::Expired));
    for name in ["nbf", "iat"] {
        assert_eq!(judge(name, NOW, 0), Ok(()));
        assert_eq!(judge(name, NOW + 1, 0), Err(Refused::NotYetValid));
        assert_eq!(judge(name, NOW + 60, 60), Ok(()));
        assert_eq!(judge(name, NOW + 61, 60), Err(Refused::NotYetValid));
    }
    // Five minutes, whatever is asked for.
    assert_eq!(judge("exp", NOW - 299, u64::MAX), Ok(()));
    assert_eq!(judge("exp", NOW - 300, u64::MAX), Err(Refused::Expired));
    assert_eq!(Provider::new(ISSUER).skew, SKEW);
}

#[test]
fn times_that_are_none_make_no_token() {
    let provider = Provider::new(ISSUER);
    for name in ["exp", "nbf", "iat"] {
        for value in [
            json!("1900000000"),
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(null),
            json!([NOW]),
            json!(true),
        ] {
            let claims = with(claims(), name, value);
            assert_eq!(judge(&claims, &provider), Err(Refused::Malformed));
        }
    }
    let claims = without(claims(), "exp");
    assert_eq!(judge(&claims, &provider), Err(Refused::MissingClaim));
}

#[test]
fn an_old_token_is_refused_where_their_age_is_bounded() {
    let provider = Provider {
        max_age: Some(Duration::from_secs(100)),
        skew: Duration::from_secs(5),
        ..Provider::new(ISSUER)
    };
    let aged = |age: u64| judge(&with(claims(), "iat", NOW - age), &provider);
    assert_eq!(aged(104), Ok(()));
    assert_eq!(aged(105), Err(Refused::Expired));
    let without = judge(&without(claims(), "iat"), &provider);
    assert_eq!(without, Err(Refused::MissingClaim));
    let never = Provider {
        max_age: Some(Duration::MAX),
        ..provider
    };
    assert_eq!(judge(&claims(), &never), Ok(()));
}

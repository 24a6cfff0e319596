use super::*;
use aws_lc_rs::digest::{SHA256, digest};
use http::Request;

/// An issuer with the Ed25519 key of RFC 8037 appendix A, whose only token is that of nobody.
fn sent(require: mesh::Require) -> mesh::Authentication {
    let bearer = mesh::TokenSource {
        place: mesh::CredentialPlace::Header.into(),
        name: "authorization".into(),
        prefix: "Bearer".into(),
    };
    let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    mesh::Authentication {
        require: require.into(),
        jwt: vec![mesh::JwtIssuer {
            issuer: "a".into(),
            audiences: vec!["b".into()],
            jwks: Some(mesh::JwksSource {
                source: Some(mesh::jwks_source::Source::Inline(keys.into())),
                ttl_ms: 0,
            }),
            from: vec![bearer],
            ..Default::default()
        }],
        api_key: Some(mesh::ApiKey {
            from: Some(mesh::TokenSource {
                place: mesh::CredentialPlace::Header.into(),
                name: "x-key".into(),
                prefix: String::new(),
            }),
            forward: false,
        }),
        ..Default::default()
    }
}

fn consumers() -> Consumers {
    let key = mesh::ConsumerKey {
        id: "acme1".into(),
        consumer: "acme".into(),
        hash: digest(&SHA256, b"mk_acme1_a").as_ref().to_vec().into(),
        ..Default::default()
    };
    Consumers::build(vec![key]).unwrap()
}

fn check(require: mesh::Require, lines: &[(&str, &str)]) -> Result<bool, Refused> {
    let authentication = Authentication::build(sent(require), None).unwrap();
    let mut request = Request::get("/");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let known = Known::default();
    let found = authentication.check(&head, &known, &consumers(), SystemTime::now());
    match found {
        Ok(caller) => Ok(caller.consumer.is_some() || caller.token.is_some()),
        Err(Need::Refused(refused)) => Err(refused),
        Err(need) => panic!("{need:?}"),
    }
}

#[test]
fn what_is_required_must_be_there_and_whatever_is_there_must_be_good() {
    use mesh::Require::{All, Any, Optional};
    let key = ("x-key", "mk_acme1_a");
    let bad_token = ("authorization", "Bearer a.b.c");
    assert_eq!(check(Any, &[]), Err(Refused::Missing));
    assert_eq!(check(All, &[key]), Err(Refused::Missing));
    assert_eq!(check(Optional, &[]), Ok(false));
    assert_eq!(check(Any, &[key]), Ok(true));
    assert_eq!(check(Optional, &[key]), Ok(true));
    for require in [Any, All, Optional] {
        let malformed = Err(Refused::Token(jwt::Refused::Malformed));
        assert_eq!(check(require, &[key, bad_token]), malformed);
        let unknown = Err(Refused::Key(api_key::Refused::Unknown));
        assert_eq!(check(require, &[("x-key", "mk_acme1_b")]), unknown);
        assert_eq!(check(require, &[key, key]), Err(Refused::Ambiguous));
        // What is in another scheme is no token.
        let other = check(require, &[("authorization", "Basic YTpi")]);
        assert_eq!(other, check(require, &[]));
    }
}

#[test]
fn what_is_not_known_to_this_sidecar_is_rejected() {
    let build = |edit: &dyn Fn(&mut mesh::Authentication)| {
        let mut sent = sent(mesh::Require::Any);
        edit(&mut sent);
        Authentication::build(sent, None).map(drop)
    };
    assert!(build(&|_| {}).is_ok());
    assert!(build(&|sent| sent.require = 0).is_err());
    assert!(build(&|sent| sent.require = 17).is_err());
    assert!(build(&|sent| sent.jwt[0].audiences.clear()).is_err());
    assert!(build(&|sent| sent.jwt[0].from.clear()).is_err());
    assert!(build(&|sent| sent.jwt[0].algorithms.push("HS256".into())).is_err());
    assert!(build(&|sent| sent.jwt[0].clock_skew_ms = 600_000).is_err());
    assert!(build(&|sent| sent.jwt[0].jwks = None).is_err());
    assert!(build(&|sent| sent.jwt[0].from[0].place = 17).is_err());
    assert!(build(&|sent| sent.api_key = Some(mesh::ApiKey::default())).is_err());
    let nothing = |sent: &mut mesh::Authentication| {
        sent.jwt.clear();
        sent.api_key = None;
    };
    assert!(build(&nothing).is_err());
}

#[test]
fn every_refusal_has_a_name_of_its_own_kind_and_says_what_to_bring() {
    let authentication = Authentication::build(sent(mesh::Require::Any), None).unwrap();
    let tokens = jwt::Refused::ALL.map(Refused::Token);
    let others = [
        Refused::Missing,
        Refused::Ambiguous,
        Refused::Introspected(introspection::Refused::MissingScope),
        Refused::Key(api_key::Refused::Expired),
        Refused::NoKeys,
        Refused::NobodySays,
    ];
    for refused in tokens.into_iter().chain(others) {
        let error = refused.error(&authentication);
        let scope = refused.name() == "missing_scope";
        let away = matches!(refused, Refused::NoKeys | Refused::NobodySays);
        let status = if scope {
            403
        } else if away {
            503
        } else {
            401
        };
        assert_eq!(error.status().as_u16(), status, "{refused:?}");
        let challenge = authentication.challenge(refused);
        let challenge = challenge.to_str().unwrap();
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        assert_eq!(
            challenge.contains("insufficient_scope"),
            scope,
            "{challenge}"
        );
    }
}

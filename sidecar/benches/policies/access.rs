//! Who may enter.

use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::request::Parts;
use serde_json::json;
use sidecar::config::access::{Access, Keys};
use sidecar::identity::SpiffeId;
use sidecar::policy::authentication::{Caller, Known};
use sidecar::telemetry::metrics::access::Counters;
use wire::mesh;

use crate::head;

pub(crate) fn authorization(rules: usize) -> Box<dyn FnMut()> {
    let rule = |number: usize| mesh::AccessRule {
        name: format!("rule-{number}"),
        // The last one fits.
        principals: Some(mesh::Principals {
            service_accounts: vec![match number + 1 == rules {
                true => "shop/web".to_owned(),
                false => format!("shop/web-{number}"),
            }],
            ..Default::default()
        }),
        methods: vec!["GET".into()],
        paths: vec![mesh::Match {
            path: Some(mesh::r#match::Path::Prefix("/orders".into())),
            ..Default::default()
        }],
        ..Default::default()
    };
    let sent = mesh::Access {
        authorization: Some(mesh::Authorization {
            rules: (0..rules).map(rule).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let access = Access::build(sent, None, &Counters::default()).unwrap();
    let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let (head, caller) = (head(&[]), Caller::default());
    Box::new(move || {
        let authorization = access.authorization.as_ref().unwrap();
        let decision = authorization.decide(Some(&peer), &caller, Some(black_box(&head)));
        assert!(decision.allows());
        access.counts.decided(decision, false);
    })
}

fn place(name: &str, prefix: &str) -> mesh::TokenSource {
    mesh::TokenSource {
        place: mesh::CredentialPlace::Header.into(),
        name: name.into(),
        prefix: prefix.into(),
    }
}

fn authenticated(
    authentication: mesh::Authentication,
    keys: mesh::Keys,
    heads: Vec<Parts>,
) -> Box<dyn FnMut()> {
    let sent = mesh::Access {
        authentication: Some(authentication),
        ..Default::default()
    };
    let access = Access::build(sent, None, &Counters::default()).unwrap();
    let (keys, known) = (Keys::build(keys).unwrap(), Known::default());
    let mut next = 0;
    Box::new(move || {
        let authentication = access.authentication.as_ref().unwrap();
        let head = &heads[next % heads.len()];
        next += 1;
        let now = SystemTime::now();
        let caller = authentication.check(black_box(head), &known, &keys.consumers, now);
        assert!(caller.is_ok());
        access.counts.authenticated();
    })
}

pub(crate) fn api_key() -> Box<dyn FnMut()> {
    let key = "mk_k7f3q9ab_0123456789012345678901234567890123456789012345678";
    let authentication = mesh::Authentication {
        require: mesh::Require::Any.into(),
        api_key: Some(mesh::ApiKey {
            from: Some(place("x-api-key", "")),
            forward: false,
        }),
        ..Default::default()
    };
    let keys = mesh::Keys {
        consumers: vec![mesh::ConsumerKey {
            id: "k7f3q9ab".into(),
            consumer: "acme".into(),
            hash: digest(&SHA256, key.as_bytes()).as_ref().to_vec().into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    authenticated(authentication, keys, vec![head(&[("x-api-key", key)])])
}

/// `new`: more tokens than are remembered.
pub(crate) fn jwt(new: bool) -> Box<dyn FnMut()> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let point = key.public_key().as_ref();
    let set = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "a", "x": encoded(&point[1..33]), "y": encoded(&point[33..65]),
    }]});
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let token = |number: usize| {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "a"}).to_string();
        let claims = json!({
            "iss": "https://login.example.com/", "aud": ["orders", "payments"], "exp": now + 3600,
            "iat": now, "sub": format!("user-{number}"), "scope": "orders:read orders:write",
            "name": "Ann Example", "email": "ann@example.com", "groups": ["buyers", "staff"],
        });
        let signed = format!(
            "{}.{}",
            encoded(header.as_bytes()),
            encoded(claims.to_string().as_bytes())
        );
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("Bearer {signed}.{}", encoded(signature.as_ref()))
    };
    let tokens = if new { 4_096 } else { 1 };
    let heads = (0..tokens).map(|number| head(&[("authorization", &token(number))]));
    let authentication = mesh::Authentication {
        require: mesh::Require::Any.into(),
        jwt: vec![mesh::JwtIssuer {
            issuer: "https://login.example.com/".into(),
            audiences: vec!["orders".into()],
            jwks: Some(mesh::JwksSource {
                source: Some(mesh::jwks_source::Source::Inline(set.to_string())),
                ttl_ms: 0,
            }),
            clock_skew_ms: 60_000,
            required_scopes: vec!["orders:read".into()],
            from: vec![place("authorization", "Bearer")],
            ..Default::default()
        }],
        ..Default::default()
    };
    authenticated(authentication, mesh::Keys::default(), heads.collect())
}

//! Who may enter: what sidecars are sent of it, answers about tokens, and requests that bring spoilt
//! credentials.

use std::time::SystemTime;

use http::Request;
use prost::Message as _;
use sidecar::config::access::{Access, Keys};
use sidecar::policy::authentication::introspection::{Introspection, Worth};
use sidecar::policy::authentication::{Caller, Known};
use sidecar::telemetry::metrics::access::Counters;
use wire::mesh;

use crate::spoil::fuzz;

fn place(place: mesh::CredentialPlace, name: &str, prefix: &str) -> mesh::TokenSource {
    mesh::TokenSource {
        place: place.into(),
        name: name.into(),
        prefix: prefix.into(),
    }
}

fn introspection() -> mesh::Introspection {
    mesh::Introspection {
        endpoint: Some(mesh::Remote {
            uri: "http://issuer.auth/introspect".into(),
            ca_certificates: String::new(),
        }),
        client_id: "orders".into(),
        ttl_ms: 60_000,
        audiences: vec!["orders".into()],
        required_scopes: vec!["read".into()],
        from: vec![place(
            mesh::CredentialPlace::Header,
            "authorization",
            "Bearer",
        )],
        ..Default::default()
    }
}

/// Some of everything.
fn access() -> mesh::Access {
    let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let principals = mesh::Principals {
        service_accounts: vec!["shop/web".into()],
        namespaces: vec!["shop".into()],
        claims: vec![mesh::ClaimMatch {
            name: "/realm/roles".into(),
            values: vec!["buyer".into()],
        }],
        scopes: vec!["read".into()],
        ..Default::default()
    };
    mesh::Access {
        namespace: "shop".into(),
        name: "orders".into(),
        authentication: Some(mesh::Authentication {
            require: mesh::Require::Optional.into(),
            jwt: vec![mesh::JwtIssuer {
                issuer: "a".into(),
                audiences: vec!["b".into()],
                jwks: Some(mesh::JwksSource {
                    source: Some(mesh::jwks_source::Source::Inline(keys.into())),
                    ttl_ms: 0,
                }),
                from: vec![
                    place(mesh::CredentialPlace::Header, "authorization", "Bearer"),
                    place(mesh::CredentialPlace::Query, "token", ""),
                    place(mesh::CredentialPlace::Cookie, "token", ""),
                ],
                claims_to_headers: vec![mesh::ClaimToHeader {
                    claim: "sub".into(),
                    header: "x-user".into(),
                }],
                ..Default::default()
            }],
            introspection: None,
            api_key: Some(mesh::ApiKey {
                from: Some(place(mesh::CredentialPlace::Header, "x-key", "")),
                forward: false,
            }),
        }),
        authorization: Some(mesh::Authorization {
            rules: vec![mesh::AccessRule {
                name: "a".into(),
                principals: Some(principals.clone()),
                methods: vec!["GET".into()],
                paths: vec![mesh::Match {
                    path: Some(mesh::r#match::Path::Regex("/a+".into())),
                    ..Default::default()
                }],
                roles: vec![mesh::Role {
                    name: "r".into(),
                    members: vec![principals],
                }],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn keys() -> mesh::Keys {
    mesh::Keys {
        namespace: "shop".into(),
        name: "orders".into(),
        consumers: vec![mesh::ConsumerKey {
            id: "acme1".into(),
            consumer: "acme".into(),
            hash: vec![7; 32].into(),
            not_before: Some(i64::MIN),
            expires_at: Some(i64::MAX),
            ..Default::default()
        }],
        introspection_secret: "hunter2".into(),
    }
}

#[test]
fn fuzz_access_and_keys() {
    let counters = Counters::default();
    fuzz(
        10_000,
        &[&access().encode_to_vec()],
        &[b"\x00", b"/"],
        |bytes| {
            let Ok(sent) = mesh::Access::decode(bytes) else {
                return;
            };
            if let Ok(first) = Access::build(sent.clone(), None, &counters) {
                assert!(Access::build(sent, Some(&first), &counters).is_ok());
            }
        },
    );
    fuzz(10_000, &[&keys().encode_to_vec()], &[], |bytes| {
        if let Ok(sent) = mesh::Keys::decode(bytes)
            && let Ok(keys) = Keys::build(sent)
        {
            assert!(!format!("{keys:?}").contains("hunter2"));
        }
    });
}

#[test]
fn fuzz_answers_about_tokens() {
    let asked = Introspection::build(introspection(), None).expect("it is right");
    let active = br#"{"active":true,"aud":["orders"],"scope":"read","exp":1893456000,"sub":"ann"}"#;
    let inactive = br#"{"active":false}"#;
    fuzz(
        10_000,
        &[active, inactive],
        &[b"true", b"\"active\"", b"1e999"],
        |bytes| {
            if let Ok(Worth::Active(token)) = asked.read(bytes) {
                let _ = asked.accept(&token, SystemTime::now());
            }
        },
    );
}

#[test]
fn fuzz_requests_with_credentials() {
    let counters = Counters::default();
    let access = Access::build(access(), None, &counters).expect("it is right");
    let authentication = access.authentication.as_ref().expect("it has one");
    let keys = Keys::build(keys()).expect("it is right");
    let known = Known::default();
    let seeds: [&[u8]; 3] = [
        b"/a?token=a.b.c&x=1\nBearer a.b.c\nmk_acme1_secret\na=b; token=a.b.c",
        b"/?token\nBearer \nmk__\ntoken=;;=; token",
        b"/?%74oken=%2e\nbearer\nmk_a\n",
    ];
    fuzz(
        20_000,
        &seeds,
        &[b"token=", b"%00", b"Bearer ", b"&", b";"],
        |bytes| {
            let mut lines = bytes.split(|byte| *byte == b'\n');
            let mut request = Request::builder().uri(lines.next().unwrap_or_default());
            for (name, value) in ["authorization", "x-key", "cookie"].into_iter().zip(lines) {
                request = request.header(name, value);
            }
            let Ok(request) = request.body(()) else {
                return;
            };
            let (mut head, ()) = request.into_parts();
            let now = SystemTime::now();
            let found = authentication.check(&head, &known, &keys.consumers, now);
            let caller = found.unwrap_or_else(|_| Caller::default());
            // Nobody has the secret, and nobody the issuer's key.
            assert!(caller.token.is_none() && caller.consumer.is_none());
            authentication.clear(&mut head);
            authentication.pass_on(&caller, &mut head);
            let authorization = access.authorization.as_ref().expect("it has one");
            assert!(!authorization.decide(None, &caller, Some(&head)).allows());
        },
    );
}

//! What each policy adds to a request: `cargo bench -p sidecar --bench policies`. A plain program, whose
//! nanoseconds are comparable on one machine only; instructions are counted by valgrind, where it is
//! installed, and are the same everywhere.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Request;
use http::request::Parts;
use serde_json::json;
use sidecar::config::access::{Access, Keys};
use sidecar::identity::SpiffeId;
use sidecar::policy::authentication::{Caller, Known};
use sidecar::telemetry::metrics::access::Counters;
use wire::mesh;

/// A policy, and one request that it sees.
type Policy = (&'static str, fn() -> Box<dyn FnMut()>);

const POLICIES: &[Policy] = &[
    ("authorization by account, 1 rule", || authorization(1)),
    ("authorization by account, 32 rules", || authorization(32)),
    ("API key", api_key),
    ("JWT that was seen before", || jwt(false)),
    ("JWT that is new (ES256)", || jwt(true)),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, place, rounds] = &arguments[..]
        && let (Ok(place), Ok(rounds)) = (place.parse::<usize>(), rounds.parse::<u32>())
    {
        let mut once = POLICIES[place].1();
        (0..rounds).for_each(|_| once());
        return;
    }
    println!(
        "{:40}{:>14}{:>14}",
        "for one request", "nanoseconds", "instructions"
    );
    for (place, (name, policy)) in POLICIES.iter().enumerate() {
        let time = median(policy());
        let counted = instructions(place).map_or("?".to_owned(), |count| count.to_string());
        println!("{name:40}{:>14}{counted:>14}", time.as_nanos());
    }
}

/// The median of rounds.
fn median(mut once: Box<dyn FnMut()>) -> Duration {
    const IN_A_ROUND: u32 = 2_000;
    let mut times: Vec<Duration> = (0..51)
        .map(|_| {
            let start = Instant::now();
            (0..IN_A_ROUND).for_each(|_| once());
            start.elapsed() / IN_A_ROUND
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// What twice as many rounds take more, as valgrind counts it.
fn instructions(place: usize) -> Option<u64> {
    const ROUNDS: u64 = 500;
    let counted = |rounds: u64| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args([place.to_string(), rounds.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find(|line| line.contains("Collected"))?;
        line.split_whitespace().last()?.parse::<u64>().ok()
    };
    Some(counted(2 * ROUNDS)?.checked_sub(counted(ROUNDS)?)? / ROUNDS)
}

fn head(lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::get("/orders/17").header("host", "orders.shop");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn authorization(rules: usize) -> Box<dyn FnMut()> {
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

fn api_key() -> Box<dyn FnMut()> {
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
fn jwt(new: bool) -> Box<dyn FnMut()> {
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

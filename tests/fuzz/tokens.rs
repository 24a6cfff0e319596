//! What issuers publish, and what callers send as theirs.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use sidecar::policy::authentication::jwt::{self, Keys, Provider};
use wire::jwks::Jwks;

use crate::{fuzz, text};

const SET: &[u8] = br#"{"keys": [
{"kty":"EC", "crv":"P-256", "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "kid":"a", "alg":"ES256"},
{"kty":"OKP", "crv":"Ed25519", "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "use":"sig", "key_ops":["verify"]},
{"kty":"RSA", "n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw", "e":"AQAB", "kid":"b"}
]}"#;

const HEADER: &[u8] = br#"{"alg":"EdDSA","typ":"at+jwt"}"#;
const CLAIMS: &[u8] =
    br#"{"iss":"a","sub":"b","aud":["c"],"exp":2000000000.5,"nbf":1,"iat":1,"scope":"d e"}"#;

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn fuzz_key_sets() {
    let pieces: &[&[u8]] = &[
        br#""d":"AQAB","#,
        br#""k":"AQAB","#,
        br#""kty":"oct","#,
        br#""crv":"P-521","#,
        br#""alg":"none","#,
        br#""kid":"a","#,
        br#""use":"enc","#,
        b"AQAB",
        b"AAAA",
        b"=",
        b"null",
        b"\\u0064",
    ];
    let good = Jwks::parse(SET).expect("the example is a set");
    assert_eq!((good.keys.len(), good.skipped.len()), (3, 0));
    fuzz(20_000, &[SET], pieces, |bytes| {
        let Ok(set) = Jwks::parse(bytes) else { return };
        assert!(!set.keys.is_empty());
        // What there are secrets in was refused.
        let read: Value = serde_json::from_slice(bytes).expect("a set is JSON");
        for key in read["keys"].as_array().expect("a set has keys") {
            assert!(key.get("d").is_none() && key.get("k").is_none());
        }
        if let Ok(built) = Keys::build(&set) {
            assert!(built.skipped().len() >= set.skipped.len());
        }
    });
}

#[test]
fn fuzz_tokens() {
    let signer = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any seed makes a key");
    let set = format!(
        r#"{{"keys": [{{"kty":"OKP","crv":"Ed25519","x":"{}"}}]}}"#,
        encoded(signer.public_key().as_ref())
    );
    let set = Jwks::parse(set.as_bytes()).expect("it is a set");
    let keys = Keys::build(&set).expect("it has a key");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let verify = |token: &str| jwt::verify(token, &keys, &Provider::new("a"), now);
    let sign = |header: &[u8], claims: &[u8]| {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = signer.sign(message.as_bytes());
        format!("{message}.{}", encoded(signature.as_ref()))
    };
    let good = sign(HEADER, CLAIMS);
    assert!(verify(&good).is_ok());
    // Nothing but the token itself is what was signed.
    let pieces: &[&[u8]] = &[b".", b"..", b"=", b"eyJhbGciOiJub25lIn0."];
    fuzz(
        20_000,
        &[good.as_bytes()],
        pieces,
        text(|token| assert!(token == good || verify(token).is_err())),
    );
    let pieces: &[&[u8]] = &[
        br#""exp":2000000000,"#,
        br#""exp":1e99,"#,
        br#""iss":"a","#,
        br#""\u0069ss":"a","#,
        br#""alg":"none","#,
        br#""crit":[],"#,
        b"null",
        b"[[[[",
        b"-",
    ];
    // Signed as they are, spoilt claims are understood as everybody else understands them.
    fuzz(10_000, &[CLAIMS], pieces, |claims| {
        let token = sign(HEADER, claims);
        let issuer = jwt::peek_issuer(&token);
        if let Ok(read) = verify(&token) {
            let expected: Value = serde_json::from_slice(claims).expect("claims are JSON");
            assert_eq!(Some(read.claims()), expected.as_object());
            assert_eq!(issuer.as_deref(), read.issuer());
            assert!(read.expires() > SystemTime::UNIX_EPOCH);
            drop(Vec::from_iter(read.scopes()));
        }
    });
    fuzz(10_000, &[HEADER], pieces, |header| {
        if verify(&sign(header, CLAIMS)).is_ok() {
            let read: Value = serde_json::from_slice(header).expect("a header is JSON");
            assert!(read["alg"] == "EdDSA" || read["alg"] == "Ed25519");
            assert!(read.get("crit").is_none());
        }
    });
}

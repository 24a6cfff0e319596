use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, ParsedPublicKey};
use proptest::prelude::*;

use super::*;

/// A token of a header, and of claims that would be accepted.
fn headed(algorithm: Algorithm, header: impl AsRef<[u8]>) -> Result<(), Refused> {
    check(&signed(algorithm, header, claims().to_string())).map(drop)
}

/// The signature of a token in place of its own.
fn resigned(token: &str, signature: impl AsRef<[u8]>) -> String {
    let (message, _) = token.rsplit_once('.').unwrap();
    format!("{message}.{}", encoded(signature))
}

#[test]
fn a_token_that_nobody_or_anybody_has_signed_is_refused() {
    let public = set()[0]["n"].as_str().unwrap().to_owned();
    for name in ["none", "None", "NONE", "", "HS256", "HS384", "HS512"] {
        let header = json!({"alg": name, "kid": "rsa"}).to_string();
        let message = format!("{}.{}", encoded(header), encoded(claims().to_string()));
        for secret in [public.as_bytes(), &decode(&public).unwrap(), b""] {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let signature = hmac::sign(&secret, message.as_bytes());
            let token = format!("{message}.{}", encoded(signature));
            assert_eq!(check(&token), Err(Refused::UnsupportedAlgorithm), "{name}");
        }
        let unsigned = check(&format!("{message}."));
        assert_eq!(unsigned, Err(Refused::UnsupportedAlgorithm), "{name}");
    }
    for algorithm in Algorithm::ALL {
        let token = token(algorithm, &header(algorithm), &claims());
        assert_eq!(check(&resigned(&token, "")), Err(Refused::BadSignature));
    }
}

#[test]
fn a_signature_of_another_form_is_none() {
    let algorithm = Algorithm::Es256;
    let token = token(algorithm, &header(algorithm), &claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature = decode(signature).unwrap();
    let (r, s) = signature.split_at(32);
    // The order of P-256 (SEC 2 section 2.4.2): n is 0, and nothing at or beyond it is a number of it.
    let n = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let n = Vec::from_iter((0..32).map(|at| u8::from_str_radix(&n[2 * at..][..2], 16).unwrap()));
    // The same key signs in ASN.1 what JWTs have as two numbers.
    let private = SIGNERS.p256.to_pkcs8v1().unwrap();
    let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, private.as_ref()).unwrap();
    let der = der.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    for forged in [
        vec![0; 64],
        [&n[..], &n].concat(),
        [r, &[0; 32]].concat(),
        [&[0; 32], s].concat(),
        [r, &n].concat(),
        signature[..63].to_vec(),
        r.to_vec(),
        [&signature[..], &[0]].concat(),
        [&[0], r, &[0], s].concat(),
        [s, r].concat(),
        der.as_ref().to_vec(),
        vec![0xff; 64],
        vec![1; 10_000],
    ] {
        let refused = check(&resigned(&token, &forged));
        assert_eq!(refused, Err(Refused::BadSignature), "{forged:?}");
    }
    assert!(check(&resigned(&token, &signature)).is_ok());
    let (ed, rsa) = (Algorithm::EdDsa, Algorithm::Rs256);
    for (algorithm, length) in [(ed, 63), (ed, 65), (ed, 0), (rsa, 255), (rsa, 257)] {
        let token = super::token(algorithm, &header(algorithm), &claims());
        let (_, signature) = token.rsplit_once('.').unwrap();
        let mut signature = decode(signature).unwrap();
        signature.resize(length, 0);
        let refused = check(&resigned(&token, signature));
        assert_eq!(
            refused,
            Err(Refused::BadSignature),
            "{algorithm:?} {length}"
        );
    }
}

#[test]
fn a_key_of_small_order_would_verify_anything_and_is_never_built() {
    // The neutral element as key and as R, and 0 as S.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let signature = [&neutral[..], &[0; 32]].concat();
    let key = ParsedPublicKey::new(&ED25519, neutral).unwrap();
    assert!(key.verify_sig(b"anything", &signature).is_ok());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": encoded(neutral)}]});
    assert!(Jwks::parse(set.to_string().as_bytes()).is_err());
}

#[test]
fn a_token_has_three_parts_in_one_spelling() {
    let token = of(&claims());
    let parts = Vec::from_iter(token.split('.'));
    let [header, claims, signature] = parts[..] else {
        panic!("{token}")
    };
    // 64 bytes leave four bits that stand for nothing in the last of 86 characters.
    let (kept, last) = signature.split_at(85);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.find(last).unwrap() + 1;
    let trailing = format!("{header}.{claims}.{kept}{}", &alphabet[next..=next]);
    for spelt in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}.{signature}."),
        format!(".{header}.{claims}.{signature}"),
        format!("{header}..{claims}.{signature}"),
        format!("{header}.{claims}.{signature}=="),
        format!("{header}.{claims}.{signature}="),
        format!("{header}=.{claims}.{signature}"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{header}.\n{claims}.{signature}"),
        format!("{header}\0.{claims}.{signature}"),
        format!("{header}.{claims}.{}+", &signature[..85]),
        format!("{header}.{claims}.{}/", &signature[..85]),
        format!("{header}.{claims}.{signature}é"),
        format!("{header}.{claims}.%41{signature}"),
        format!("Bearer {token}"),
        trailing,
        format!("{header}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{claims}.{header}.{signature}"),
    ] {
        assert_eq!(check(&spelt), Err(Refused::Malformed), "{spelt}");
    }
    // Encrypted (RFC 7516), whatever is in it.
    for encrypted in [
        format!("{token}.{header}.{claims}"),
        format!("{token},{token}"),
        "....".to_owned(),
    ] {
        assert_eq!(check(&encrypted), Err(Refused::UnsupportedAlgorithm));
    }
    assert!(check(&token).is_ok());
}

#[test]
fn a_genuine_token_that_is_too_long_is_not_read() {
    let padded = |length| of(&with(claims(), "a", "a".repeat(length)));
    // Three bytes are four characters.
    let short = padded(0).len();
    let fitting = padded((MAX_TOKEN - short) / 4 * 3 - 3);
    assert!((MAX_TOKEN - 16..=MAX_TOKEN).contains(&fitting.len()));
    assert!(check(&fitting).is_ok() && peek_issuer(&fitting).is_some());
    let long = padded((MAX_TOKEN - short) / 4 * 3 + 3);
    assert!((MAX_TOKEN + 1..MAX_TOKEN + 16).contains(&long.len()));
    assert_eq!(check(&long), Err(Refused::Malformed));
    assert_eq!(peek_issuer(&long), None);
    let cached = Verified::new().verify(&long, [(&*KEYS, &Provider::new(ISSUER))], at(NOW));
    assert_eq!(cached, Err(Refused::Malformed));
}

#[test]
fn header_and_claims_mean_one_thing() {
    let algorithm = Algorithm::EdDsa;
    for header in [
        "",
        "null",
        "[]",
        "\"EdDSA\"",
        "{}",
        r#"{"alg": null}"#,
        r#"{"alg": ["EdDSA"]}"#,
        r#"{"alg": "EdDSA", "alg": "EdDSA"}"#,
        r#"{"alg": "none", "alg": "EdDSA"}"#,
        r#"{"alg": "EdDSA", "\u0061lg": "none"}"#,
        r#"{"alg": "EdDSA", "kid": "a", "kid": "ed25519"}"#,
        r#"{"alg": "EdDSA", "kid": 1}"#,
        r#"{"alg": "EdDSA", "kid": null}"#,
        r#"{"alg": "EdDSA", "typ": 1}"#,
        r#"{"alg": "EdDSA"} "#.repeat(2).as_str(),
        r#"{"alg": "EdDSA",}"#,
        "{\"alg\": \"EdDSA\0\"}",
    ] {
        assert_eq!(
            headed(algorithm, header),
            Err(Refused::Malformed),
            "{header}"
        );
    }
    assert_eq!(
        headed(algorithm, b"{\"alg\": \"EdDSA\", \"a\": \"\xff\"}"),
        Err(Refused::Malformed)
    );
    let exp = NOW + 300;
    let bomb = format!(
        r#"{{"iss": "{ISSUER}", "exp": {exp}, "a": {}"#,
        "[".repeat(9_000)
    );
    let deep = format!(
        r#"{{"exp": {exp}, "a": {}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for claims in [
        "",
        "[]",
        "1",
        &format!(r#"{{"iss": "evil", "iss": "{ISSUER}", "exp": {exp}}}"#),
        &format!(r#"{{"iss": "{ISSUER}", "exp": 1, "exp": {exp}}}"#),
        &format!(r#"{{"iss": "{ISSUER}", "exp": {exp}, "a": {{"b": 1, "b": 2}}}}"#),
        &format!(r#"{{"iss": "{ISSUER}", "exp": 1e999}}"#),
        &format!(r#"{{"iss": "{ISSUER}", "exp": 0{exp}}}"#),
        &bomb,
        &deep,
    ] {
        let token = signed(algorithm, header(algorithm).to_string(), claims);
        assert_eq!(check(&token), Err(Refused::Malformed), "{claims}");
        assert_eq!(peek_issuer(&token).is_some(), claims.contains("exp\": 1}"));
    }
    let huge = format!(r#"{{"iss": "{ISSUER}", "exp": {}}}"#, "9".repeat(300));
    let token = signed(algorithm, header(algorithm).to_string(), huge);
    assert_eq!(check(&token), Err(Refused::Malformed));
}

#[test]
fn keys_that_a_header_brings_and_extensions_that_it_asks_for_are_not_followed() {
    let algorithm = Algorithm::EdDsa;
    // The key that is in the header has signed it, and is not among the known ones.
    let stranger = Ed25519KeyPair::generate().unwrap();
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(stranger.public_key())});
    for (name, value) in [
        ("jwk", key),
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/chain")),
        ("x5c", json!(["AAAA"])),
        ("x5t", json!("AAAA")),
    ] {
        let header = with(header(algorithm), name, value);
        let token = token(algorithm, &header, &claims());
        assert!(check(&token).is_ok(), "{name}");
        let (message, _) = token.rsplit_once('.').unwrap();
        let forged = resigned(&token, stranger.sign(message.as_bytes()));
        assert_eq!(check(&forged), Err(Refused::BadSignature), "{name}");
    }
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("b64", json!("true")),
    ] {
        let header = with(header(algorithm), name, value).to_string();
        let refused = headed(algorithm, header);
        assert_eq!(refused, Err(Refused::UnsupportedAlgorithm), "{name}");
    }
    for kid in ["k".repeat(1 << 20), "k".repeat(MAX_KID + 1)] {
        let header = with(header(algorithm), "kid", kid).to_string();
        assert_eq!(headed(algorithm, header), Err(Refused::Malformed));
    }
    for kid in [
        "../../keys",
        "ed25519\0",
        "' OR 1=1 --",
        &"k".repeat(MAX_KID),
    ] {
        let header = with(header(algorithm), "kid", kid).to_string();
        assert_eq!(
            headed(algorithm, header),
            Err(Refused::UnknownKey { stale: true })
        );
    }
}

#[test]
fn a_token_for_something_else_is_no_access_token() {
    let algorithm = Algorithm::EdDsa;
    for kind in [
        "JWT",
        "jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "application/jwt",
    ] {
        let header = with(header(algorithm), "typ", kind).to_string();
        assert_eq!(headed(algorithm, header), Ok(()), "{kind}");
    }
    assert_eq!(
        headed(algorithm, without(header(algorithm), "typ").to_string()),
        Ok(())
    );
    for kind in ["dpop+jwt", "logout+jwt", "secevent+jwt", "JOSE", "", "jwt "] {
        let header = with(header(algorithm), "typ", kind).to_string();
        assert_eq!(headed(algorithm, header), Err(Refused::WrongType), "{kind}");
    }
    let nested = with(header(algorithm), "cty", "JWT").to_string();
    assert_eq!(headed(algorithm, nested), Err(Refused::WrongType));
}

#[test]
fn nothing_of_a_token_is_in_what_is_said_of_it() {
    let secret = with(claims(), "sub", "PRIVATE");
    for claims in [
        with(secret.clone(), "exp", 1),
        with(secret, "exp", "PRIVATE"),
    ] {
        let refused = check(&of(&claims)).unwrap_err();
        let said = format!("{refused:?} {} {}", refused.name(), refused.told());
        assert!(!said.contains("PRIVATE"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_token_with_any_bit_flipped_is_refused(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
        algorithm in prop::sample::select(Algorithm::ALL.to_vec()),
    ) {
        let token = token(algorithm, &header(algorithm), &claims());
        let mut bytes = token.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        if let Ok(token) = String::from_utf8(bytes) {
            prop_assert!(check(&token).is_err());
            let providers = Provider::new(ISSUER);
            let cache = Verified::new();
            prop_assert!(cache.verify(&token, [(&*KEYS, &providers)], super::at(NOW)).is_err());
            prop_assert_eq!(cache.len(), 0);
        }
    }

    #[test]
    fn no_token_panics(
        header in prop::collection::vec(any::<u8>(), 0..48),
        claims in "\\PC{0,48}",
        text in "[A-Za-z0-9_.=-]{0,64}",
    ) {
        let made = format!("{}.{}.{text}", encoded(header), encoded(claims));
        for token in [&made, &text] {
            prop_assert!(check(token).is_err());
            drop(peek_issuer(token));
        }
    }

    #[test]
    fn no_genuine_claims_panic(value in "[-\\[\\]{}:,.\"a0-9eE+]{0,24}", name in "exp|nbf|aud|scp") {
        let claims = format!(r#"{{"iss":"{ISSUER}","{name}":{value}}}"#);
        let header = header(Algorithm::EdDsa).to_string();
        if let Ok(read) = check(&signed(Algorithm::EdDsa, header, claims)) {
            prop_assert!(read.scopes().count() < 24);
        }
    }
}

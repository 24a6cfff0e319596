use proptest::prelude::*;
use serde_json::json;

use super::*;

/// RFC 7517 appendix A.1, and the key of RFC 8037 appendix A.2.
const SET: &str = r#"{"keys": [
    {"kty":"EC", "crv":"P-256", "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
     "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use":"enc", "kid":"1"},
    {"kty":"RSA", "n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
     "e":"AQAB", "alg":"RS256", "kid":"2011-04-29"},
    {"kty":"OKP", "crv":"Ed25519", "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
]}"#;

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A number of so many bits that could be a modulus.
fn modulus(bits: usize) -> Vec<u8> {
    let mut n = vec![0; bits.div_ceil(8)];
    n[0] = 1 << ((bits - 1) % 8);
    *n.last_mut().unwrap() |= 1;
    n
}

fn rsa(bits: usize, e: &[u8]) -> Value {
    json!({"kty": "RSA", "n": encoded(&modulus(bits)), "e": encoded(e)})
}

fn ec(crv: &str, size: usize, fill: u8) -> Value {
    let coordinate = encoded(&vec![fill; size]);
    json!({"kty": "EC", "crv": crv, "x": coordinate, "y": coordinate})
}

fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
    key[name] = value.into();
    key
}

fn parse(keys: &[Value]) -> Result<Jwks, String> {
    Jwks::parse(json!({ "keys": keys }).to_string().as_bytes())
}

/// What is said of a key that is skipped beside one that isn't.
fn skipped(key: Value) -> String {
    let set = parse(&[ec("P-384", 48, 1), key.clone()]).unwrap();
    assert_eq!(set.keys.len(), 1, "{key}");
    assert_eq!(set.skipped.len(), 1, "{key}");
    assert!(set.skipped[0].starts_with("keys[1] "), "{:?}", set.skipped);
    set.skipped[0].clone()
}

#[test]
fn the_keys_of_the_rfcs_are_read_and_the_one_to_encrypt_with_is_skipped() {
    let set = Jwks::parse(SET.as_bytes()).unwrap();
    assert_eq!((set.keys.len(), set.skipped.len()), (2, 1));
    assert!(set.skipped[0].contains("its `use`"), "{:?}", set.skipped);
    let rsa = &set.keys[0];
    assert_eq!(rsa.kid.as_deref(), Some("2011-04-29"));
    assert_eq!(rsa.algorithms(), [Algorithm::Rs256]);
    let Key::Rsa { n, e } = &rsa.key else {
        panic!("{rsa:?}")
    };
    assert_eq!((n.len(), &e[..]), (256, &[1, 0, 1][..]));
}

#[test]
fn each_kind_of_key_has_its_algorithms_and_no_other_kinds() {
    use Algorithm::*;
    let okp = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&[9; 32])});
    let rsas = [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512];
    for (key, algorithms) in [
        (rsa(2048, &[3]), &rsas[..]),
        (rsa(8192, &[1, 0, 1]), &rsas),
        (ec("P-256", 32, 1), &[Es256]),
        (ec("P-384", 48, 1), &[Es384]),
        (ec("P-521", 66, 1), &[Es512]),
        (okp, &[EdDsa]),
    ] {
        let set = parse(std::slice::from_ref(&key)).unwrap();
        assert_eq!(set.keys[0].algorithms(), algorithms);
        for algorithm in Algorithm::ALL {
            let key = with(key.clone(), "alg", algorithm.name());
            match algorithms.contains(&algorithm) {
                true => assert_eq!(parse(&[key]).unwrap().keys[0].algorithms(), [algorithm]),
                false => assert!(skipped(key).contains("`alg`")),
            }
        }
        for other in ["none", "HS256", "rs256", "RSA-OAEP", "ES256K", "", "eddsa"] {
            assert!(skipped(with(key.clone(), "alg", other)).contains("`alg`"));
        }
        assert!(skipped(with(key.clone(), "alg", json!(null))).contains("`alg`"));
    }
}

#[test]
fn a_key_for_something_else_or_of_an_unknown_kind_is_skipped_and_the_others_stay() {
    let good = || ec("P-256", 32, 1);
    for (key, why) in [
        (json!("PRIVATE"), "no object"),
        (json!({}), "`kty`"),
        (json!({"kty": "PRIVATE"}), "`kty`"),
        (json!({"kty": ["RSA"]}), "`kty`"),
        (json!({"kty": "rsa"}), "`kty`"),
        (ec("secp256k1", 32, 1), "curve"),
        (ec("Ed25519", 32, 1), "curve"),
        (
            json!({"kty": "OKP", "crv": "X25519", "x": encoded(&[9; 32])}),
            "curve",
        ),
        (
            json!({"kty": "OKP", "crv": "Ed448", "x": encoded(&[9; 57])}),
            "curve",
        ),
        (with(good(), "use", "enc"), "`use`"),
        (with(good(), "use", json!(["sig"])), "`use`"),
        (with(good(), "key_ops", json!(["sign"])), "`key_ops`"),
        (with(good(), "key_ops", json!([])), "`key_ops`"),
        (with(good(), "key_ops", "verify"), "`key_ops`"),
        (with(good(), "kid", 1), "`kid`"),
        (with(good(), "kid", "k".repeat(MAX_KID + 1)), "`kid`"),
        (with(good(), "kid", "k".repeat(100_000)), "`kid`"),
    ] {
        let said = skipped(key);
        assert!(said.contains(why) && !said.contains("PRIVATE"), "{said}");
    }
    let used = with(good(), "use", "sig");
    assert!(parse(&[with(used, "key_ops", json!(["sign", "verify"]))]).is_ok());
}

#[test]
fn a_key_that_is_weak_or_none_is_skipped() {
    let text = |name: &str, value: &str| with(ec("P-256", 32, 1), name, value);
    let ed = |x: &[u8]| json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(x)});
    let even = with(rsa(2048, &[3]), "n", encoded(&[0xfe; 256]));
    for key in [
        rsa(2047, &[1, 0, 1]),
        rsa(1024, &[1, 0, 1]),
        rsa(8193, &[1, 0, 1]),
        rsa(2048, &[1]),
        rsa(2048, &[]),
        rsa(2048, &[4]),
        rsa(2048, &[1, 0, 0, 0, 1]),
        even,
        with(rsa(2048, &[3]), "n", ""),
        with(rsa(2048, &[3]), "n", "AAAA".repeat(10_000)),
        with(rsa(2048, &[3]), "n", json!(null)),
        with(rsa(2048, &[3]), "e", 65537),
        with(rsa(2048, &[3]), "e", "AQAB="),
        ec("P-256", 31, 1),
        ec("P-256", 33, 1),
        ec("P-384", 32, 1),
        ec("P-521", 65, 1),
        text("x", ""),
        text("y", "+/+/"),
        // 32 bytes whose last character has bits that stand for nothing.
        text("x", &format!("{}B", "A".repeat(42))),
        text("x", &format!("{}=", encoded(&[1; 32]))),
        ed(&[9; 31]),
        ed(&[9; 33]),
    ] {
        skipped(key);
    }
    // Bits are bits, whatever the zeros in front.
    let zero = [&[0][..], &modulus(2048)].concat();
    let padded = parse(&[with(rsa(2048, &[3]), "n", encoded(&zero))]).unwrap();
    assert_eq!(padded, parse(&[rsa(2048, &[3])]).unwrap());
    let zeros = [&[0, 0][..], &modulus(2048)].concat();
    skipped(with(rsa(2048, &[3]), "n", encoded(&zeros)));
}

#[test]
fn a_point_that_verifies_what_nobody_signed_is_no_key() {
    let hex = |text: &str| {
        let digits = text.as_bytes().chunks(2);
        Vec::from_iter(
            digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()),
        )
    };
    let (zeros, fs) = ("00".repeat(31), "ff".repeat(30));
    for y in [
        format!("00{zeros}"),
        format!("01{zeros}"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05".to_owned(),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a".to_owned(),
        format!("ec{fs}7f"),
        format!("ed{fs}7f"),
        format!("ee{fs}7f"),
        format!("ff{fs}7f"),
    ] {
        for sign in [0, 0x80] {
            let mut point = hex(&y);
            point[31] |= sign;
            let key = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&point)});
            assert!(skipped(key).contains("nobody signed"), "{y}");
        }
    }
}

#[test]
fn a_set_with_a_secret_is_refused_whole_and_the_member_is_named() {
    for secret in SECRETS {
        for key in [rsa(2048, &[3]), ec("P-256", 32, 1), json!({"kty": "AKP"})] {
            let key = with(with(key, "use", "enc"), secret, "PRIVATE");
            let refused = parse(&[ec("P-384", 48, 1), key]).unwrap_err();
            assert!(
                refused.contains(&format!("keys[1] has `{secret}`")),
                "{refused}"
            );
            assert!(!refused.contains("PRIVATE"), "{refused}");
        }
    }
    let shared = json!({"kty": "oct", "k": "PRIVATE"});
    let refused = parse(&[ec("P-384", 48, 1), shared]).unwrap_err();
    assert!(
        refused.contains("`oct`") && !refused.contains("PRIVATE"),
        "{refused}"
    );
}

#[test]
fn of_two_keys_of_one_name_that_could_sign_the_same_neither_is_used() {
    let named = |key, kid: &str| with(key, "kid", kid);
    let (one, two) = (ec("P-256", 32, 1), ec("P-256", 32, 2));
    let other = || named(ec("P-384", 48, 1), "b");
    let set = parse(&[named(one.clone(), "a"), named(two.clone(), "a"), other()]).unwrap();
    assert_eq!((set.keys.len(), set.skipped.len()), (1, 2));
    // Alternatives of RFC 7517 section 4.5.
    let alternatives = [
        named(one.clone(), "b"),
        named(rsa(2048, &[3]), "b"),
        other(),
    ];
    assert_eq!(parse(&alternatives).unwrap().keys.len(), 3);
    let by_alg = ["RS256", "PS256"].map(|alg| with(named(rsa(2048, &[3]), "c"), "alg", alg));
    assert_eq!(parse(&by_alg).unwrap().keys.len(), 2);
    // The same key again, as a whole or for one of its algorithms.
    let again = [named(one.clone(), "a"), named(one.clone(), "a")];
    assert_eq!(parse(&again).unwrap().keys.len(), 1);
    let narrowed = [rsa(2048, &[3]), with(rsa(2048, &[3]), "alg", "RS256")];
    assert_eq!(parse(&narrowed).unwrap().keys.len(), 1);
    // Without names, no token means one of them by its name.
    assert_eq!(parse(&[one, two]).unwrap().keys.len(), 2);
}

#[test]
fn what_is_no_set_or_too_large_or_without_a_usable_key_is_refused() {
    let many = vec![ec("P-256", 32, 1); MAX_KEYS + 1];
    let large = format!(r#"{{"keys": [], "a": "{}"}}"#, "a".repeat(MAX_BYTES));
    let deep = format!(r#"{{"keys": {}"#, "[".repeat(10_000));
    for (text, why) in [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("{}", "no array `keys`"),
        (r#"{"keys": {}}"#, "no array `keys`"),
        (r#"{"kty": "RSA", "n": "", "e": ""}"#, "not a set"),
        (r#"{"keys": []}"#, "no key to verify"),
        (r#"{"keys": [{"kty": "AKP"}]}"#, "keys[0] is of a `kty`"),
        (r#"{"keys": [], "keys": []}"#, "stands twice"),
        (r#"{"keys": [{"kty": "RSA", "kty": "EC"}]}"#, "stands twice"),
        (&json!({ "keys": many }).to_string(), "more than 100 keys"),
        (&large, "more than 262144 bytes"),
        (&deep, "no JSON object"),
    ] {
        let refused = Jwks::parse(text.as_bytes()).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn an_algorithm_has_one_name_and_only_asymmetric_ones_have_any() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
    }
    assert_eq!(Algorithm::named("Ed25519"), Some(Algorithm::EdDsa));
    for name in [
        "none", "None", "HS256", "HS384", "HS512", "es256", "Ed448", "",
    ] {
        assert_eq!(Algorithm::named(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn no_key_panics(
        kty in "RSA|EC|OKP|oct|A", crv in "P-256|P-384|P-521|Ed25519|A",
        values in prop::collection::vec("[A-Za-z0-9_=-]{0,90}", 4),
    ) {
        let [n, e, x, y] = &values[..] else { unreachable!() };
        let key = json!({"kty": kty, "crv": crv, "n": n, "e": e, "x": x, "y": y});
        if let Ok(set) = parse(&[key]) {
            prop_assert!(!set.keys[0].algorithms().is_empty());
        }
    }
}

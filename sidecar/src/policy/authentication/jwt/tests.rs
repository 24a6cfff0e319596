use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair,
};
use serde_json::json;
use wire::jwks::Jwks;

use super::*;

mod hostile;
mod rules;
mod verified;

const ISSUER: &str = "https://issuer.example";
/// When all of this happens, in seconds.
const NOW: u64 = 1_800_000_000;

struct Signers {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    p521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
    ed25519: Ed25519KeyPair::generate().unwrap(),
});

/// The public halves, each named after its kind.
static KEYS: LazyLock<Keys> = LazyLock::new(|| keys(&set()));

impl Signers {
    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let rsa = |how: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            let random = SystemRandom::new();
            self.rsa
                .sign(how, &random, message, &mut signature)
                .unwrap();
            signature
        };
        let ec = |key: &EcdsaKeyPair| {
            let signature = key.sign(&SystemRandom::new(), message).unwrap();
            signature.as_ref().to_vec()
        };
        match algorithm {
            Algorithm::Rs256 => rsa(&RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&RSA_PKCS1_SHA512),
            Algorithm::Ps256 => rsa(&RSA_PSS_SHA256),
            Algorithm::Ps384 => rsa(&RSA_PSS_SHA384),
            Algorithm::Ps512 => rsa(&RSA_PSS_SHA512),
            Algorithm::Es256 => ec(&self.p256),
            Algorithm::Es384 => ec(&self.p384),
            Algorithm::Es512 => ec(&self.p521),
            Algorithm::EdDsa => self.ed25519.sign(message).as_ref().to_vec(),
        }
    }
}

fn kid(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Es256 => "p256",
        Algorithm::Es384 => "p384",
        Algorithm::Es512 => "p521",
        Algorithm::EdDsa => "ed25519",
        _ => "rsa",
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The JWK of an algorithm's key.
fn jwk(algorithm: Algorithm) -> Value {
    let signers = &*SIGNERS;
    let ec = |crv: &str, key: &EcdsaKeyPair| {
        // 4, x, y.
        let point = &key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"kty": "EC", "crv": crv, "x": encoded(x), "y": encoded(y)})
    };
    let mut key = match algorithm {
        Algorithm::Es256 => ec("P-256", &signers.p256),
        Algorithm::Es384 => ec("P-384", &signers.p384),
        Algorithm::Es512 => ec("P-521", &signers.p521),
        Algorithm::EdDsa => {
            let point = signers.ed25519.public_key();
            json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(point)})
        }
        _ => {
            // The RSAPublicKey of RFC 8017 of 2048 bits: a sequence of n, with a zero byte in front,
            // and 65537.
            let der = signers.rsa.public_key().as_ref();
            json!({"kty": "RSA", "n": encoded(&der[9..265]), "e": encoded(&der[267..])})
        }
    };
    key["kid"] = kid(algorithm).into();
    key
}

fn set() -> Vec<Value> {
    use Algorithm::*;
    [Rs256, Es256, Es384, Es512, EdDsa].map(jwk).to_vec()
}

fn keys(set: &[Value]) -> Keys {
    let set = json!({ "keys": set }).to_string();
    Keys::build(&Jwks::parse(set.as_bytes()).unwrap()).unwrap()
}

fn header(algorithm: Algorithm) -> Value {
    json!({"typ": "JWT", "alg": algorithm.name(), "kid": kid(algorithm)})
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": "orders", "iat": NOW - 10, "exp": NOW + 300,
        "scope": "read write",
    })
}

fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    object[name] = value.into();
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name).unwrap();
    object
}

/// A token of these bytes, signed with the key of an algorithm whatever they say.
fn signed(algorithm: Algorithm, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = SIGNERS.sign(algorithm, message.as_bytes());
    format!("{message}.{}", encoded(signature))
}

fn token(algorithm: Algorithm, header: &Value, claims: &Value) -> String {
    signed(algorithm, header.to_string(), claims.to_string())
}

/// Of these claims, with the quickest key.
fn of(claims: &Value) -> String {
    token(Algorithm::EdDsa, &header(Algorithm::EdDsa), claims)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn check(token: &str) -> Result<Token, Refused> {
    verify(token, &KEYS, &Provider::new(ISSUER), at(NOW))
}

#[test]
fn the_tokens_of_rfc_7515_are_verified() {
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let rsa = json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    // Appendices A.2 and A.3.
    for (key, header, signature) in [
        (
            rsa,
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            ec,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ] {
        let token = format!("{header}.{claims}.{signature}");
        let (keys, provider) = (keys(&[key]), Provider::new("joe"));
        let read = verify(&token, &keys, &provider, at(1_300_819_000)).unwrap();
        assert_eq!(read.claim("http://example.com/is_root"), Some(&json!(true)));
        assert_eq!(peek_issuer(&token).as_deref(), Some("joe"));
        let late = verify(&token, &keys, &provider, at(NOW));
        assert_eq!(late, Err(Refused::Expired));
    }
}

#[test]
fn the_signature_of_rfc_8037_is_verified() {
    // Appendix A.4, whose payload is no JSON.
    let key =
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = decode(
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    let checked = keys(&[key]).check(None, Algorithm::EdDsa, message, &signature.unwrap());
    assert_eq!(checked, Ok(()));
}

#[test]
fn each_algorithm_verifies_what_its_key_has_signed_and_no_other_does() {
    for algorithm in Algorithm::ALL {
        let token = token(algorithm, &header(algorithm), &claims());
        let read = check(&token).unwrap_or_else(|refused| panic!("{algorithm:?}: {refused:?}"));
        assert_eq!(read.algorithm(), Some(algorithm));
        assert_eq!(read.issuer(), Some(ISSUER));
        assert_eq!(read.subject(), Some("alice"));
        assert_eq!(read.expires(), at(NOW + 300));
        assert_eq!(Vec::from_iter(read.scopes()), ["read", "write"]);
        for other in Algorithm::ALL
            .into_iter()
            .filter(|other| *other != algorithm)
        {
            // Its key, and what is said of another algorithm.
            let header = with(header(algorithm), "alg", other.name());
            let refused = check(&super::tests::token(algorithm, &header, &claims())).unwrap_err();
            let expected = match kid(other) == kid(algorithm) {
                true => Refused::BadSignature,
                false => Refused::UnsupportedAlgorithm,
            };
            assert_eq!(refused, expected, "{algorithm:?} as {other:?}");
        }
    }
}

#[test]
fn a_key_is_found_by_its_name_and_without_one_only_if_no_other_fits() {
    let algorithm = Algorithm::EdDsa;
    let named = |kid: &str| token(algorithm, &with(header(algorithm), "kid", kid), &claims());
    let nameless = token(algorithm, &without(header(algorithm), "kid"), &claims());
    let unknown = |stale| Err(Refused::UnknownKey { stale });
    let check = |token: &str, set: &[Value]| {
        let read = verify(token, &keys(set), &Provider::new(ISSUER), at(NOW));
        read.map(drop)
    };
    let (one, other) = (jwk(algorithm), jwk(Algorithm::Es256));
    let stranger = with(jwk(algorithm), "x", encoded([9; 32]));
    let stranger = with(stranger, "kid", "stranger");
    assert_eq!(check(&nameless, &[one.clone(), other.clone()]), Ok(()));
    assert_eq!(
        check(&nameless, &[one.clone(), stranger.clone()]),
        unknown(false)
    );
    assert_eq!(
        check(&nameless, std::slice::from_ref(&other)),
        unknown(true)
    );
    for kid in ["ED25519", "", "stranger"] {
        assert_eq!(
            check(&named(kid), &[one.clone(), other.clone()]),
            unknown(true)
        );
    }
    let set = [one.clone(), stranger];
    assert_eq!(check(&named("stranger"), &set), Err(Refused::BadSignature));
    // The name alone: a key without one is nobody's.
    let anonymous = [without(one, "kid")];
    assert_eq!(check(&named("ed25519"), &anonymous), unknown(true));
    assert_eq!(check(&nameless, &anonymous), Ok(()));
    let none = verify(&nameless, &Keys::default(), &Provider::new(ISSUER), at(NOW));
    assert!(none.unwrap_err().is_stale());
}

#[test]
fn a_key_that_is_for_one_algorithm_verifies_no_other_of_its_kind() {
    let set = [with(jwk(Algorithm::Rs256), "alg", "PS256")];
    let provider = Provider::new(ISSUER);
    for (algorithm, expected) in [
        (Algorithm::Ps256, Ok(())),
        (Algorithm::Rs256, Err(Refused::UnsupportedAlgorithm)),
        (Algorithm::Ps384, Err(Refused::UnsupportedAlgorithm)),
    ] {
        let token = token(algorithm, &header(algorithm), &claims());
        let read = verify(&token, &keys(&set), &provider, at(NOW));
        assert_eq!(read.map(drop), expected, "{algorithm:?}");
    }
}

#[test]
fn a_point_that_is_not_on_its_curve_is_no_key_and_the_others_stay() {
    let off = json!({"kty": "EC", "crv": "P-256", "x": encoded([1; 32]), "y": encoded([1; 32])});
    let set = |keys: &[&Value]| Jwks::parse(json!({ "keys": keys }).to_string().as_bytes());
    let built = Keys::build(&set(&[&off, &jwk(Algorithm::EdDsa)]).unwrap()).unwrap();
    assert_eq!(
        built.skipped(),
        ["a key for ES256 is no point of its curve"]
    );
    assert!(verify(&of(&claims()), &built, &Provider::new(ISSUER), at(NOW)).is_ok());
    let refused = Keys::build(&set(&[&off]).unwrap()).unwrap_err();
    assert!(refused.contains("no point of its curve"), "{refused}");
}

#[test]
fn each_reason_has_a_name_and_a_sentence_of_its_own() {
    let names = std::collections::BTreeSet::from_iter(Refused::ALL.map(Refused::name));
    let sentences = std::collections::BTreeSet::from_iter(Refused::ALL.map(Refused::told));
    assert_eq!((names.len(), sentences.len()), (11, 11));
    for refused in Refused::ALL {
        let scope = refused == Refused::MissingScope;
        assert_eq!(refused.code() == "insufficient_scope", scope);
    }
}

//! An issuer of tokens, with keys of its own.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// One key of an issuer: ES256.
pub struct Issuer {
    kid: String,
    key: EcdsaKeyPair,
}

// === impl Issuer ===

impl Issuer {
    /// With a new key of this name.
    ///
    /// # Panics
    /// When there is no chance in this machine.
    pub fn new(kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self {
            kid: kid.to_owned(),
            key: key.expect("a key"),
        }
    }

    /// The public key, as an entry of a key set.
    pub fn public(&self) -> Value {
        // 4, x, y (SEC 1 section 2.3.3).
        let point = self.key.public_key().as_ref();
        let half = |from: usize| BASE64_URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": half(1), "y": half(33),
        })
    }

    /// The key sets of issuers, as they publish them.
    pub fn key_set(issuers: &[&Issuer]) -> String {
        let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.public()).collect();
        json!({ "keys": keys }).to_string()
    }

    /// A token that says this.
    ///
    /// # Panics
    /// When there is no chance in this machine.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature.expect("a signature"));
        format!("{signed}.{signature}")
    }
}

/// Unix seconds, so many from now.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or_default();
    now + seconds
}

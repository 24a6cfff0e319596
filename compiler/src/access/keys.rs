//! What credentials are compared with: from Secrets to `mesh::Keys`.
//!
//! A consumer's key is a Secret with the label `meshwright.dev/consumer`: its name there, its plan in
//! the label `meshwright.dev/plan`, and in its data `keyID`, `keyHash` (`sha256:` and 64 hexadecimal
//! digits, of the whole key), and if they are bounded `notBefore` and `expiresAt` (RFC 3339). A
//! Secret that can't be read lets nobody in and touches no other; what is wrong with it is said
//! without a word of what stands in it.

use std::collections::BTreeMap;

use crds::status::Reason;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use wire::mesh;

use super::Reader;
use crate::api_route::Refusal;
use crate::inputs::ObjectKey;

/// Marks a Secret as a consumer's key; the consumer's name.
pub const CONSUMER: &str = "meshwright.dev/consumer";
/// Marks a Secret that the mesh's own credentials stand in.
pub const CREDENTIAL: &str = "meshwright.dev/credential";
/// The consumer's plan.
pub const PLAN: &str = "meshwright.dev/plan";

/// The keys of one ApiRoute that sidecars are sent: what is compiled of them fits a resource.
const MAX_KEYS: usize = 8_000;

// === impl Reader ===

impl Reader<'_> {
    /// What is compared with, and what can't be.
    pub(crate) fn keys(&self) -> (mesh::Keys, Vec<Refusal>) {
        let mut problems = Vec::new();
        let mut keys = mesh::Keys {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            ..mesh::Keys::default()
        };
        let auth = self.spec.auth.as_ref();
        let namespace = &self.key.namespace;
        let unreadable = self.unreadable.get(namespace);
        if let Some(api_key) = auth.and_then(|auth| auth.api_key.as_ref()) {
            problems.extend(unreadable.map(|why| {
                unresolved(format!(
                    "spec.auth.apiKey: {} Until then the keys that were read before are taken, and no \
                     others.",
                    why.sentence(namespace)
                ))
            }));
            keys.consumers = self.consumers(api_key, &mut problems);
        }
        if let Some(asked) = auth.and_then(|auth| auth.introspection.as_ref()) {
            let wanted = &asked.client_secret_ref;
            let key = ObjectKey::new(&*self.key.namespace, &*wanted.name);
            let secret = self.credentials.get(&key);
            match secret.and_then(|secret| text(secret, &wanted.key)) {
                Some(password) => keys.introspection_secret = password,
                None => problems.push(unresolved(match (secret, unreadable) {
                    (None, Some(why)) => format!(
                        "spec.auth.introspection.clientSecretRef.name: {} Nobody can be asked about \
                         tokens meanwhile, and none is taken.",
                        why.sentence(namespace)
                    ),
                    (None, None) => format!(
                        "spec.auth.introspection.clientSecretRef.name: there is no Secret {:?} with \
                         the label meshwright.dev/credential in namespace {}. Nobody can be asked \
                         about tokens meanwhile, and none is taken.",
                        wanted.name, key.namespace
                    ),
                    (Some(_), _) => format!(
                        "spec.auth.introspection.clientSecretRef.key: Secret {key} has no text {:?} \
                         in its data. Nobody can be asked about tokens meanwhile, and none is taken.",
                        wanted.key
                    ),
                })),
            }
        }
        (keys, problems)
    }

    fn consumers(
        &self,
        wanted: &crds::ApiKey,
        problems: &mut Vec<Refusal>,
    ) -> Vec<mesh::ConsumerKey> {
        let mut taken: BTreeMap<String, (ObjectKey, mesh::ConsumerKey)> = BTreeMap::new();
        let from = ObjectKey::new(&*self.key.namespace, "");
        let all = self.consumers.range(from..);
        let all = all.take_while(|(key, _)| key.namespace == self.key.namespace);
        for (key, secret) in all.filter(|(_, secret)| is_wanted(wanted, secret)) {
            let read = match consumer_key(secret) {
                Ok(read) => read,
                Err(why) => {
                    problems.push(unresolved(format!(
                        "Secret {key}: {why} Its key is not taken."
                    )));
                    continue;
                }
            };
            if let Some((first, _)) = taken.get(&read.id) {
                problems.push(unresolved(format!(
                    "Secret {key}: its keyID is that of Secret {first}, which holds: delete one of \
                     them."
                )));
                continue;
            }
            if taken.len() == MAX_KEYS {
                problems.push(unresolved(format!(
                    "Secret {key}: an ApiRoute takes at most {MAX_KEYS} keys of consumers, and this \
                     one, and what follows it by name, are beyond: spread the consumers over \
                     namespaces, or select fewer."
                )));
                break;
            }
            taken.insert(read.id.clone(), (key.clone(), read));
        }
        taken.into_values().map(|(_, key)| key).collect()
    }
}

fn is_wanted(wanted: &crds::ApiKey, secret: &Secret) -> bool {
    let Some(labels) = &secret.metadata.labels else {
        return false;
    };
    let plan = labels.get(PLAN);
    let mut selector = wanted.consumer_selector.iter();
    selector.all(|(key, value)| labels.get(key) == Some(value))
        && (wanted.plans.is_empty() || plan.is_some_and(|plan| wanted.plans.contains(plan)))
}

/// What a consumer's Secret says: what a key is compared with, and when it is taken.
///
/// # Errors
/// A sentence naming what can't be read, and no word of what stands there.
pub fn consumer_key(secret: &Secret) -> Result<mesh::ConsumerKey, String> {
    let label = |name: &str| secret.metadata.labels.as_ref()?.get(name).cloned();
    let consumer = label(CONSUMER).filter(|consumer| !consumer.is_empty());
    let consumer = consumer.ok_or(format!("the label {CONSUMER} is empty: write a name."))?;
    let id = text(secret, "keyID").filter(|id| is_key_id(id));
    let id = id.ok_or("keyID is missing, or not 4 to 32 letters and digits.")?;
    let hash = text(secret, "keyHash").and_then(|hash| sha256(&hash));
    let hash = hash.ok_or("keyHash is missing, or not sha256: and 64 hexadecimal digits.")?;
    // Whatever stands there bounds the key, or it is not taken: an empty end is none that was meant.
    let time = |name: &str| match is_there(secret, name) {
        false => Ok(None),
        true => {
            let written = text(secret, name).and_then(|text| text.trim().parse::<Timestamp>().ok());
            match written {
                Some(time) => Ok(Some(time.as_second())),
                None => Err(format!(
                    "{name} is no time of RFC 3339, such as 2027-01-31T00:00:00Z."
                )),
            }
        }
    };
    Ok(mesh::ConsumerKey {
        id,
        consumer,
        plan: label(PLAN).unwrap_or_default(),
        hash: hash.into(),
        not_before: time("notBefore")?,
        expires_at: time("expiresAt")?,
    })
}

fn is_key_id(id: &str) -> bool {
    (4..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn sha256(written: &str) -> Option<Vec<u8>> {
    let digits = written.trim().strip_prefix("sha256:")?.as_bytes();
    let pairs = (digits.len() == 64).then(|| digits.chunks_exact(2))?;
    let byte = |pair: &[u8]| {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let value = digit(*pair.first()?)? * 16 + digit(*pair.get(1)?)?;
        u8::try_from(value).ok()
    };
    pairs.map(byte).collect()
}

fn is_there(secret: &Secret, name: &str) -> bool {
    let plain = secret.string_data.as_ref();
    let encoded = secret.data.as_ref();
    plain.is_some_and(|data| data.contains_key(name))
        || encoded.is_some_and(|data| data.contains_key(name))
}

/// An entry of a Secret as text: one written as `stringData` wins, as the API server has it.
pub(crate) fn text(secret: &Secret, name: &str) -> Option<String> {
    let plain = secret.string_data.as_ref().and_then(|data| data.get(name));
    let encoded = || {
        let data = secret.data.as_ref()?.get(name)?;
        String::from_utf8(data.0.clone()).ok()
    };
    plain
        .cloned()
        .or_else(encoded)
        .filter(|text| !text.is_empty())
}

fn unresolved(message: String) -> Refusal {
    Refusal {
        reason: Reason::SecretNotUsable,
        message,
    }
}

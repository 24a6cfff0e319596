//! A key as it is kept: a Secret that holds its hash.

use std::collections::BTreeMap;

use compiler::{CONSUMER, PLAN, consumer_key};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::time::words;

/// What a consumer's Secret says it is.
const TYPE: &str = "meshwright.dev/api-key";

/// A key that is to be kept.
#[derive(Clone, Debug)]
pub(super) struct New {
    /// The Secret's name.
    pub(super) name: String,
    /// Where it is told.
    pub(super) namespace: Option<String>,
    /// Consumer and plan among them.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) id: String,
    pub(super) hash: String,
    /// In seconds since 1970, and so is all that follows.
    pub(super) not_before: Option<i64>,
    pub(super) expires: Option<i64>,
}

/// A key that is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) namespace: String,
    /// The Secret's name.
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// As far as it can be read.
    pub(super) id: Option<String>,
    /// When it is taken, or why never.
    pub(super) taken: Result<Taken, String>,
    /// Where it stands written, if it does: `file:line`.
    pub(super) place: Option<String>,
}

/// When a key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) not_before: Option<i64>,
    pub(super) expires: Option<i64>,
}

/// What a key is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Valid,
    NotYetValid,
    Expired,
    /// And why.
    Unreadable(String),
}

/// Keys in the order in which they are told; of those that have the same id only the first is taken.
pub(super) fn in_order(mut keys: Vec<Kept>) -> Vec<Kept> {
    keys.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut first = BTreeMap::new();
    for key in &mut keys {
        let (Some(id), Ok(_)) = (&key.id, &key.taken) else {
            continue;
        };
        let holds = first
            .entry((key.namespace.clone(), id.clone()))
            .or_insert_with(|| key.name.clone());
        if *holds != key.name {
            let why = format!("its keyID is that of Secret {holds}, which holds");
            key.taken = Err(why);
        }
    }
    keys
}

// === impl New ===

impl New {
    /// As a cluster is sent it.
    pub(super) fn object(&self) -> Value {
        let mut metadata = json!({ "name": self.name, "labels": self.labels });
        if let Some(namespace) = &self.namespace {
            metadata["namespace"] = json!(namespace);
        }
        let data: serde_json::Map<_, _> = self
            .data()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": TYPE,
            "metadata": metadata,
            "stringData": data,
        })
    }

    /// As a file holds it.
    pub(super) fn yaml(&self) -> String {
        let namespace = self.namespace.as_ref();
        let namespace = namespace.map_or_else(String::new, |one| format!("  namespace: {one:?}\n"));
        let line = |(name, value): (&str, &str)| format!("{name}: {value:?}\n");
        // In quotes: an id of digits, or a label that says true, is text.
        let labels = self.labels.iter();
        let labels = labels.map(|(name, value)| format!("    {}", line((name, value))));
        let data = self.data();
        let data = data
            .iter()
            .map(|(name, value)| format!("  {}", line((name, value))));
        format!(
            "# Key {} of consumer {}: its hash. The key itself was shown once, and is nowhere.\n\
             apiVersion: v1\nkind: Secret\ntype: {TYPE}\nmetadata:\n  name: {}\n{namespace}  \
             labels:\n{}stringData:\n{}",
            self.id,
            self.labels.get(CONSUMER).map_or("", String::as_str),
            self.name,
            labels.collect::<String>(),
            data.collect::<String>(),
        )
    }

    /// When it is taken.
    pub(super) fn taken(&self) -> Taken {
        Taken {
            not_before: self.not_before,
            expires: self.expires,
        }
    }

    fn data(&self) -> Vec<(&'static str, String)> {
        let mut data = vec![("keyID", self.id.clone()), ("keyHash", self.hash.clone())];
        data.extend(self.not_before.map(|time| ("notBefore", words(time))));
        data.extend(self.expires.map(|time| ("expiresAt", words(time))));
        data
    }
}

// === impl Kept ===

impl Kept {
    /// Reads a Secret that has the label of a consumer; of another, there is none.
    pub(super) fn of(secret: &Secret, place: Option<String>) -> Option<Self> {
        let labels = secret.metadata.labels.clone().unwrap_or_default();
        labels.get(CONSUMER)?;
        let read = consumer_key(secret);
        // An id that is none may be anything, and is not told.
        let id = read.as_ref().ok().map(|read| read.id.clone());
        Some(Self {
            namespace: secret.metadata.namespace.clone().unwrap_or_default(),
            name: secret.metadata.name.clone().unwrap_or_default(),
            labels,
            id,
            taken: read.map(|read| Taken {
                not_before: read.not_before,
                expires: read.expires_at,
            }),
            place,
        })
    }

    /// Whose it is.
    pub(super) fn consumer(&self) -> &str {
        self.labels.get(CONSUMER).map_or("", String::as_str)
    }

    /// On which plan.
    pub(super) fn plan(&self) -> Option<&str> {
        self.labels.get(PLAN).map(String::as_str)
    }

    /// `file:line: Secret namespace/name`, as far as there is one of them.
    pub(super) fn secret(&self) -> String {
        let place = self.place.as_ref();
        let place = place.map_or_else(String::new, |place| format!("{place}: "));
        match &*self.namespace {
            "" => format!("{place}Secret {}", self.name),
            namespace => format!("{place}Secret {namespace}/{}", self.name),
        }
    }

    /// What people call it: its id, or the Secret.
    pub(super) fn called(&self) -> String {
        let id = self.id.as_ref();
        id.map_or_else(|| self.secret(), |id| format!("key {id}"))
    }

    /// What it is at a moment.
    pub(super) fn state(&self, now: i64) -> State {
        match &self.taken {
            Ok(taken) => taken.state(now),
            Err(why) => State::Unreadable(why.clone()),
        }
    }
}

// === impl Taken ===

impl Taken {
    /// As the sidecars have it.
    fn state(self, now: i64) -> State {
        if self.not_before.is_some_and(|from| now < from) {
            return State::NotYetValid;
        }
        match self.expires.is_some_and(|until| until <= now) {
            true => State::Expired,
            false => State::Valid,
        }
    }
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.not_before {
            Some(from) => write!(f, "from {}", words(from))?,
            None => f.write_str("from now")?,
        }
        match self.expires {
            Some(until) => write!(f, " until {}", words(until)),
            None => f.write_str(" until it is revoked"),
        }
    }
}

// === impl State ===

impl State {
    /// For people and programs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> New {
        New {
            name: "consumer-acme-12345678".into(),
            namespace: Some("shop".into()),
            labels: [(CONSUMER, "acme"), (PLAN, "true")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            id: "12345678".into(),
            hash: format!("sha256:{}", "0".repeat(64)),
            not_before: Some(100),
            expires: Some(200),
        }
    }

    #[test]
    fn a_file_says_what_a_cluster_is_sent() {
        let parsed = compiler::yaml::parse("a.yaml", &new().yaml());
        assert_eq!(parsed.problems, []);
        assert_eq!(parsed.documents[0].value, new().object());
        let nowhere = New {
            namespace: None,
            not_before: None,
            expires: None,
            ..new()
        };
        let text = nowhere.yaml();
        assert!(!text.contains("namespace"), "{text}");
        assert!(!text.contains("expiresAt"), "{text}");
        assert!(nowhere.object()["metadata"].get("namespace").is_none());
    }

    #[test]
    fn a_key_is_what_the_sidecars_take_it_for() {
        let secret = |object: Value| serde_json::from_value::<Secret>(object).unwrap();
        let kept = Kept::of(&secret(new().object()), None).unwrap();
        assert_eq!(kept.id.as_deref(), Some("12345678"));
        assert_eq!((kept.consumer(), kept.plan()), ("acme", Some("true")));
        for (now, state) in [
            (99, State::NotYetValid),
            (100, State::Valid),
            (199, State::Valid),
            (200, State::Expired),
        ] {
            assert_eq!(kept.state(now), state, "at {now}");
        }
        let mut wrong = new().object();
        wrong["stringData"]["keyHash"] = json!("swordfish");
        let wrong = Kept::of(&secret(wrong), None).unwrap();
        let State::Unreadable(why) = wrong.state(0) else {
            panic!("{wrong:?}");
        };
        assert!(why.starts_with("keyHash is missing, or "), "{why}");
        assert!(!format!("{wrong:?}").contains("swordfish"));
        let mut others = new().object();
        others["metadata"]["labels"] = json!({ "app": "web" });
        assert!(Kept::of(&secret(others), None).is_none());
    }

    #[test]
    fn of_two_with_one_id_the_first_by_name_holds() {
        let secret = |name: &str, namespace: &str| {
            let new = New {
                name: name.to_owned(),
                namespace: Some(namespace.to_owned()),
                ..new()
            };
            Kept::of(&serde_json::from_value(new.object()).unwrap(), None).unwrap()
        };
        let keys = in_order(vec![secret("b", "x"), secret("a", "x"), secret("c", "y")]);
        let told: Vec<_> = keys
            .iter()
            .map(|key| (key.name.as_str(), key.state(100)))
            .collect();
        let why = "its keyID is that of Secret a, which holds".to_owned();
        assert_eq!(
            told,
            [
                ("a", State::Valid),
                ("b", State::Unreadable(why)),
                ("c", State::Valid)
            ]
        );
    }
}

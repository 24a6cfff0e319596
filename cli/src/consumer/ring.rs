//! What is done with the keys of consumers, wherever they are kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail};
use compiler::{CONSUMER, PLAN};
use serde::Serialize;
use sidecar::policy::authentication::api_key::PREFIX;

use super::key::{self, Key};
use super::names;
use super::secret::{Kept, New, State, Taken, in_order};
use super::store::Store;
use super::time::{Span, words};
use crate::up::table;

/// The keys of a place, at a moment.
pub(super) struct Ring<'a> {
    store: &'a dyn Store,
    /// In seconds since 1970.
    now: i64,
}

/// A key that was made.
#[derive(Debug)]
pub(super) struct Made {
    /// To be shown, whatever went wrong after it was made.
    pub(super) key: Key,
    pub(super) consumer: String,
    /// What was done, in sentences.
    pub(super) told: Vec<String>,
    /// What was not.
    pub(super) failed: Option<anyhow::Error>,
}

/// A key as it is listed. There is no hash: of a key that somebody has made up, it could be undone.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) consumer: String,
    pub(super) plan: Option<String>,
    #[serde(rename = "keyID")]
    pub(super) id: Option<String>,
    pub(super) namespace: String,
    pub(super) secret: String,
    pub(super) not_before: Option<String>,
    pub(super) expires_at: Option<String>,
    pub(super) state: &'static str,
    /// Why it is unreadable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// The labels of a new key's Secret.
pub(super) fn labels(
    consumer: &str,
    plan: Option<&str>,
    others: &[(String, String)],
) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = others.iter().cloned().collect();
    labels.insert(CONSUMER.to_owned(), consumer.to_owned());
    labels.extend(plan.map(|plan| (PLAN.to_owned(), plan.to_owned())));
    labels
}

/// A new key, and what is to be kept of it.
pub(super) fn new(
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    taken: Taken,
) -> anyhow::Result<(Key, New)> {
    let key = Key::random()?;
    let consumer = labels.get(CONSUMER).map_or("", String::as_str);
    let new = New {
        name: names::secret(consumer, key.id()),
        namespace,
        id: key.id().to_owned(),
        hash: key.hash(),
        not_before: taken.not_before,
        expires: taken.expires,
        labels,
    };
    Ok((key, new))
}

/// What is told of a key that is kept.
pub(super) fn made(key: Key, new: &New, kept_in: &str) -> Made {
    let consumer = new.labels.get(CONSUMER).cloned().unwrap_or_default();
    let told = format!(
        "key {} of consumer {consumer} is taken {}; its hash is kept in {kept_in}, and the key is \
         shown this once:",
        new.id,
        new.taken()
    );
    Made {
        key,
        consumer,
        told: vec![told],
        failed: None,
    }
}

/// The keys as people read them.
pub(super) fn table(rows: &[Row]) -> String {
    let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |row: &Row| {
        let consumer = match &*row.namespace {
            "" => row.consumer.clone(),
            namespace => format!("{namespace}/{}", row.consumer),
        };
        let state = match &row.why {
            Some(why) => format!("{} (Secret {}): {why}", row.state, row.secret),
            None => row.state.to_owned(),
        };
        vec![
            consumer,
            cell(&row.plan),
            cell(&row.id),
            cell(&row.not_before),
            cell(&row.expires_at),
            state,
        ]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    let header = ["CONSUMER", "PLAN", "KEY", "NOT BEFORE", "EXPIRES", "STATE"];
    table::table(&header, &rows)
}

// === impl Ring ===

impl<'a> Ring<'a> {
    pub(super) fn of(store: &'a dyn Store, now: i64) -> Self {
        Self { store, now }
    }

    /// Makes the first key of a consumer.
    ///
    /// # Errors
    /// When it has one.
    pub(super) fn create(
        &self,
        name: &str,
        plan: Option<&str>,
        others: &[(String, String)],
        taken: Taken,
    ) -> anyhow::Result<Made> {
        self.read_whole()?;
        let namespace = self.store.namespace()?;
        let has = self.keys(Some(name))?;
        let mut has = has
            .iter()
            .filter(|kept| namespace.as_ref().is_none_or(|one| kept.namespace == *one));
        if let Some(first) = has.next() {
            bail!(
                "consumer {name} has a key: {}. `meshwright consumer rotate {name}` makes another, \
                 and `meshwright consumer revoke {name}` ends it",
                first.secret()
            );
        }
        let (key, new) = new(namespace, labels(name, plan, others), taken)?;
        let kept_in = self.store.add(&new)?;
        Ok(made(key, &new, &kept_in))
    }

    /// Makes another key of a consumer; those that are valid end after an overlap.
    ///
    /// # Errors
    /// When it has none, or one of them can't be ended; nothing is done then.
    pub(super) fn rotate(&self, name: &str, overlap: Span, taken: Taken) -> anyhow::Result<Made> {
        self.read_whole()?;
        // From when both are taken: before, nothing else would be.
        let both = taken.not_before.unwrap_or(self.now).max(self.now);
        let at = overlap.after(both).context("--overlap")?;
        let keys = self.of_consumer(name)?;
        let valid: Vec<&Kept> = keys
            .iter()
            .filter(|kept| kept.state(self.now) == State::Valid)
            .collect();
        // Of one that has ended, the consumer is the same.
        let alike = match valid.is_empty() {
            true => keys.iter().collect(),
            false => valid.clone(),
        };
        let ends_later = |kept: &&Kept| {
            let expires = kept.taken.as_ref().ok().and_then(|taken| taken.expires);
            expires.is_none_or(|expires| at < expires)
        };
        let ended: Vec<(&Kept, i64)> = valid
            .iter()
            .filter(|kept| ends_later(kept))
            .map(|kept| (*kept, at))
            .collect();
        self.store.can_end(&ended)?;
        let namespace = keys.first().map(|kept| kept.namespace.clone());
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let (key, new) = new(namespace, shared_labels(&alike)?, taken)?;
        let kept_in = self.store.add(&new)?;
        let mut made = made(key, &new, &kept_in);
        let mut told = Vec::new();
        let mut failed = Vec::new();
        for (kept, at) in ended {
            match self.store.end(kept, at) {
                Ok(()) => told.push(format!("{} ends at {}", kept.called(), words(at))),
                Err(error) => failed.push(format!(
                    "{} does not end at {}: {error:#}",
                    kept.called(),
                    words(at)
                )),
            }
        }
        for kept in &keys {
            match kept.state(self.now) {
                State::Unreadable(why) => {
                    told.push(format!("{} is left as it is: {why}", kept.secret()));
                }
                State::NotYetValid => told.push(format!(
                    "{} is left as it is: it is not yet valid",
                    kept.called()
                )),
                State::Valid | State::Expired => {}
            }
        }
        // What is said of the new key comes last, right before it.
        made.told.splice(0..0, told);
        if !failed.is_empty() {
            made.failed = Some(anyhow!(
                "{}\n`meshwright consumer revoke {name} --key ID` ends one at once",
                failed.join("\n")
            ));
        }
        Ok(made)
    }

    /// Deletes a key of a consumer, or all if somebody is `sure`; returns what was done, in sentences.
    ///
    /// # Errors
    /// When there is none, or nobody is sure.
    pub(super) fn revoke(
        &self,
        name: &str,
        id: Option<&str>,
        sure: impl FnOnce(&str) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        if let Some(rest) = id.and_then(|id| id.strip_prefix(PREFIX)) {
            // It is not said again, but for what is no secret of it.
            let id = rest
                .split('_')
                .next()
                .filter(|_| key::is_key(id.unwrap_or_default()));
            bail!(
                "--key: a key belongs in no command: write its id, the characters between {PREFIX} and \
                 the next _{}",
                id.map_or_else(String::new, |id| format!(", {id}"))
            );
        }
        let keys = self.of_consumer(name)?;
        let is_meant = |kept: &&Kept| id.is_none_or(|id| kept.id.as_deref() == Some(id));
        let meant: Vec<&Kept> = keys.iter().filter(is_meant).collect();
        let called: Vec<_> = meant.iter().map(|kept| kept.called()).collect();
        match id {
            Some(id) if meant.is_empty() => {
                let has: Vec<_> = keys.iter().map(Kept::called).collect();
                bail!(
                    "--key: consumer {name} has no key {id:?}; it has {}",
                    has.join(", ")
                );
            }
            Some(_) => {}
            None => {
                let all = called.join(", ");
                let question = format!(
                    "Revoke all keys of consumer {name}: {all}? Whoever sends one of them is refused."
                );
                if !sure(&question) {
                    bail!(
                        "nothing is revoked: --yes says that all keys of consumer {name} are meant \
                         ({all}), --key ID that one is"
                    );
                }
            }
        }
        self.store.remove(&meant)?;
        Ok(called
            .into_iter()
            .map(|key| format!("{key} of consumer {name} is revoked"))
            .collect())
    }

    /// The keys of a consumer, or of all.
    pub(super) fn list(&self, name: Option<&str>) -> anyhow::Result<Vec<Row>> {
        let keys = self.keys(name)?;
        Ok(keys.iter().map(|kept| self.row(kept)).collect())
    }

    fn row(&self, kept: &Kept) -> Row {
        let taken = kept.taken.as_ref().ok();
        let state = kept.state(self.now);
        Row {
            consumer: kept.consumer().to_owned(),
            plan: kept.plan().map(str::to_owned),
            id: kept.id.clone(),
            namespace: kept.namespace.clone(),
            secret: kept.name.clone(),
            not_before: taken.and_then(|taken| taken.not_before).map(words),
            expires_at: taken.and_then(|taken| taken.expires).map(words),
            state: state.name(),
            why: match state {
                State::Unreadable(why) => Some(why),
                _ => None,
            },
        }
    }

    fn keys(&self, name: Option<&str>) -> anyhow::Result<Vec<Kept>> {
        // Which of two with the same id holds, all of them say.
        let mut keys = in_order(self.store.keys(name)?);
        keys.retain(|kept| name.is_none_or(|name| kept.consumer() == name));
        Ok(keys)
    }

    /// The keys of a consumer, which are in one namespace.
    fn of_consumer(&self, name: &str) -> anyhow::Result<Vec<Kept>> {
        let keys = self.keys(Some(name))?;
        let namespaces: BTreeSet<&str> = keys.iter().map(|kept| &*kept.namespace).collect();
        let namespaces: Vec<_> = namespaces.into_iter().collect();
        match *namespaces {
            [] => {
                let unread = self.store.unread();
                let unread = match unread.is_empty() {
                    true => String::new(),
                    false => format!(" in what can be read:\n{}", unread.join("\n")),
                };
                bail!(
                    "consumer {name} has no key here{unread}; `meshwright consumer list` shows who \
                     has, and `meshwright consumer create {name}` makes one"
                )
            }
            [_] => Ok(keys),
            _ => bail!(
                "there is a consumer {name} in each of the namespaces {}: say with -n which is meant",
                namespaces.join(", ")
            ),
        }
    }

    /// Nothing is made where what is there can't be read.
    fn read_whole(&self) -> anyhow::Result<()> {
        let unread = self.store.unread();
        match unread.is_empty() {
            true => Ok(()),
            false => bail!(
                "what is there already can't be read whole, and no key is made:\n{}",
                unread.join("\n")
            ),
        }
    }
}

/// The labels that all of these keys have.
///
/// # Errors
/// When they are on different plans: nobody knows which is meant.
fn shared_labels(keys: &[&Kept]) -> anyhow::Result<BTreeMap<String, String>> {
    let plan = keys.first().and_then(|kept| kept.plan());
    if let Some(other) = keys.iter().find(|kept| kept.plan() != plan) {
        bail!(
            "the keys are on different plans: {} is on {}, {} on {}. Write the same label {PLAN} in \
             their Secrets, or revoke one with --key ID",
            keys.first().map(|kept| kept.called()).unwrap_or_default(),
            plan.unwrap_or("none"),
            other.called(),
            other.plan().unwrap_or("none"),
        );
    }
    let mut labels = keys
        .first()
        .map(|kept| kept.labels.clone())
        .unwrap_or_default();
    labels.retain(|name, value| keys.iter().all(|kept| kept.labels.get(name) == Some(value)));
    Ok(labels)
}

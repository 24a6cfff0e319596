//! Where keys are kept: a cluster, or a folder.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::secret::{Kept, New};
use super::time::words;
use crate::kubectl;
use crate::sidecar::Cluster;

/// A place that keeps keys.
pub(super) trait Store {
    /// What of it can't be read, in sentences: keys that stand there are not seen.
    fn unread(&self) -> Vec<String>;

    /// The keys of a consumer, or of all; a place may tell more than it was asked for.
    fn keys(&self, consumer: Option<&str>) -> anyhow::Result<Vec<Kept>>;

    /// The namespace of a new key; none where the place knows it without being told.
    fn namespace(&self) -> anyhow::Result<Option<String>>;

    /// Keeps a new key, over no other; returns where.
    fn add(&self, new: &New) -> anyhow::Result<String>;

    /// Whether each of these keys can be made to end at its moment.
    fn can_end(&self, keys: &[(&Kept, i64)]) -> anyhow::Result<()>;

    /// Makes a key end at a moment, in seconds since 1970.
    fn end(&self, kept: &Kept, at: i64) -> anyhow::Result<()>;

    /// Deletes keys.
    fn remove(&self, keys: &[&Kept]) -> anyhow::Result<()>;
}

// === impl Cluster ===

impl Store for Cluster {
    fn unread(&self) -> Vec<String> {
        Vec::new()
    }

    fn keys(&self, consumer: Option<&str>) -> anyhow::Result<Vec<Kept>> {
        let mut asking = kubectl::command(self, None);
        let label = compiler::CONSUMER;
        let wanted = consumer.map_or(label.to_owned(), |name| format!("{label}={name}"));
        asking.args(["get", "secrets", "--selector", &wanted]);
        let mut answer = kubectl::json(asking, None)?;
        let Value::Array(items) = answer["items"].take() else {
            return Ok(Vec::new());
        };
        let mut keys = Vec::with_capacity(items.len());
        for item in items {
            // What serde says of it might show what stands there.
            let secret = serde_json::from_value::<Secret>(item).ok();
            let secret = secret.context("kubectl answered something else than Secrets")?;
            keys.extend(Kept::of(&secret, None));
        }
        Ok(keys)
    }

    fn namespace(&self) -> anyhow::Result<Option<String>> {
        Ok(self.namespace.clone())
    }

    fn add(&self, new: &New) -> anyhow::Result<String> {
        let mut creating = kubectl::command(self, None);
        // `apply` would write over another.
        creating.args(["create", "-f", "-"]);
        kubectl::done(creating, Some(&new.object()))?;
        Ok(match &new.namespace {
            Some(namespace) => format!("Secret {namespace}/{}", new.name),
            None => format!("Secret {}", new.name),
        })
    }

    fn can_end(&self, _: &[(&Kept, i64)]) -> anyhow::Result<()> {
        Ok(())
    }

    fn end(&self, kept: &Kept, at: i64) -> anyhow::Result<()> {
        let mut patching = kubectl::command(self, Some(&kept.namespace));
        let patch = json!({ "stringData": { "expiresAt": words(at) } }).to_string();
        patching.args(["patch", "secret", &kept.name, "--type=merge", "-p", &patch]);
        kubectl::done(patching, None)
    }

    fn remove(&self, keys: &[&Kept]) -> anyhow::Result<()> {
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let mut deleting = kubectl::command(self, Some(&first.namespace));
        // Nothing holds a Secret that is deleted; to wait for it would take more rights.
        deleting.args(["delete", "secret", "--wait=false"]);
        deleting.args(keys.iter().map(|kept| &kept.name));
        kubectl::done(deleting, None)
    }
}

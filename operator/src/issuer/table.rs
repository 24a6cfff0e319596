//! Without a cluster: tokens that `meshwright up` makes, known by their hashes from a file.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use futures::future::BoxFuture;
use serde::Deserialize;

use super::{Issuer, Refusal, Workload};

/// The largest table that is read, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// The table in a file: `{"tokens":[{"sha256":"<hex>","namespace":…,"serviceAccount":…,"pod":…,
/// "uid":…,"expires":<seconds since 1970>}]}`. Read again whenever the file has changed.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<Entries>)>>,
}

/// Tells one state of a file from the next.
type Stamp = (Option<SystemTime>, u64, u64);

/// By the hash of the token.
type Entries = HashMap<[u8; 32], Entry>;

#[derive(Debug)]
struct Entry {
    workload: Workload,
    expires: SystemTime,
}

#[derive(Deserialize)]
struct File {
    tokens: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    sha256: String,
    namespace: String,
    service_account: String,
    pod: String,
    uid: String,
    expires: u64,
}

// === impl Table ===

impl Table {
    /// The table in that file, which need not be there yet.
    pub fn new(path: &Path) -> Table {
        Table {
            path: path.to_owned(),
            read: Mutex::default(),
        }
    }

    async fn entries(&self) -> Result<Arc<Entries>, Refusal> {
        self.read().await.map_err(|error| {
            tracing::warn!(%error, path = %self.path.display(), "the table of tokens can't be read");
            Refusal::Unavailable("the operator's table of tokens can't be read; its log says why".into())
        })
    }

    async fn read(&self) -> io::Result<Arc<Entries>> {
        let metadata = tokio::fs::metadata(&self.path).await?;
        let stamp = (metadata.modified().ok(), metadata.len(), metadata.ino());
        let lock = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, entries)) = &*lock()
            && *known == stamp
        {
            return Ok(entries.clone());
        }
        if metadata.len() > MAX_BYTES {
            return Err(io::Error::other(format!(
                "it is larger than {MAX_BYTES} bytes"
            )));
        }
        let entries = Arc::new(parse(&tokio::fs::read(&self.path).await?)?);
        *lock() = Some((stamp, entries.clone()));
        Ok(entries)
    }

    async fn find(&self, token: &str) -> Result<Workload, Refusal> {
        let entries = self.entries().await?;
        let hash = digest(&SHA256, token.trim().as_bytes());
        let entry = <[u8; 32]>::try_from(hash.as_ref())
            .ok()
            .and_then(|hash| entries.get(&hash));
        let Some(entry) = entry else {
            return Err(Refusal::Unknown(
                "the operator's table has no such token".into(),
            ));
        };
        if entry.expires <= SystemTime::now() {
            return Err(Refusal::Unknown(format!(
                "the token of {} has expired",
                entry.workload
            )));
        }
        Ok(entry.workload.clone())
    }

    async fn knows(&self, workload: &Workload) -> Result<(), Refusal> {
        let entries = self.entries().await?;
        // That its token has expired says nothing: a leaf is asked for with the token only once.
        if entries.values().any(|entry| entry.workload == *workload) {
            return Ok(());
        }
        Err(Refusal::Denied(format!(
            "{workload} is no longer in the operator's table: its certificate isn't renewed"
        )))
    }
}

impl Issuer for Table {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Workload, Refusal>> {
        Box::pin(self.find(token))
    }

    /// Addresses say nothing here: without namespaces every workload calls from a loopback address.
    fn still_runs<'a>(
        &'a self,
        workload: &'a Workload,
        _from: IpAddr,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(self.knows(workload))
    }
}

fn parse(json: &[u8]) -> io::Result<Entries> {
    let file: File = serde_json::from_slice(json)?;
    let entry = |(index, line): (usize, &Line)| {
        let invalid =
            |why: &dyn std::fmt::Display| io::Error::other(format!("tokens[{index}]: {why}"));
        let hash =
            from_hex(&line.sha256).ok_or_else(|| invalid(&"sha256 isn't 64 hexadecimal digits"))?;
        let workload = Workload::new(&line.namespace, &line.service_account, &line.pod, &line.uid)
            .map_err(|error| invalid(&error))?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(line.expires));
        let expires = expires.ok_or_else(|| invalid(&"expires is too late"))?;
        Ok((hash, Entry { workload, expires }))
    };
    file.tokens.iter().enumerate().map(entry).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::Ipv4Addr;

    const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    const LATER: u64 = 4_000_000_000;

    fn line(token: &str, pod: &str, expires: u64) -> serde_json::Value {
        let hash = digest(&SHA256, token.as_bytes());
        let hex: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        json!({ "sha256": hex, "namespace": "shop", "serviceAccount": "orders", "pod": pod, "uid": "u-1", "expires": expires })
    }

    fn table(lines: &[serde_json::Value]) -> (tempfile::TempDir, Table) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        std::fs::write(&path, json!({ "tokens": lines }).to_string()).unwrap();
        (folder, Table::new(&path))
    }

    #[tokio::test]
    async fn a_token_in_the_table_is_its_workloads() {
        let (_folder, table) = table(&[line("secret", "orders-1", LATER)]);
        let found = table.identify("secret\n").await.unwrap();
        assert_eq!(
            found,
            Workload::new("shop", "orders", "orders-1", "u-1").unwrap()
        );
    }

    #[tokio::test]
    async fn an_unknown_and_an_expired_token_are_nobodys() {
        let (_folder, table) = table(&[line("old", "orders-1", 1)]);
        for token in ["old", "other", ""] {
            let refused = table.identify(token).await;
            assert!(matches!(refused, Err(Refusal::Unknown(_))), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_table_that_changed_is_read_again() {
        let (_folder, table) = table(&[line("one", "orders-1", LATER)]);
        let first = table.identify("one").await.unwrap();
        let two =
            json!({ "tokens": [line("one", "orders-1", LATER), line("two", "orders-2", LATER)] });
        std::fs::write(&table.path, two.to_string()).unwrap();
        assert_eq!(table.identify("two").await.unwrap().pod, "orders-2");

        std::fs::write(&table.path, r#"{"tokens":[]}"#).unwrap();
        assert!(matches!(
            table.identify("one").await,
            Err(Refusal::Unknown(_))
        ));
        assert!(matches!(
            table.still_runs(&first, ANYWHERE).await,
            Err(Refusal::Denied(_))
        ));
    }

    #[tokio::test]
    async fn a_workload_in_the_table_is_renewed_though_its_token_has_expired() {
        let (_folder, table) = table(&[line("old", "orders-1", 1)]);
        let workload = Workload::new("shop", "orders", "orders-1", "u-1").unwrap();
        assert_eq!(table.still_runs(&workload, ANYWHERE).await, Ok(()));
        let predecessor = Workload {
            uid: "u-0".into(),
            ..workload
        };
        assert!(table.still_runs(&predecessor, ANYWHERE).await.is_err());
    }

    #[tokio::test]
    async fn a_table_that_is_missing_or_broken_is_no_verdict_on_the_token() {
        let (_folder, table) = table(&[json!({ "sha256": "zz" })]);
        let refused = table.identify("one").await;
        assert!(
            matches!(refused, Err(Refusal::Unavailable(_))),
            "{refused:?}"
        );
        let missing = Table::new(Path::new("/nowhere/tokens.json"));
        assert!(matches!(
            missing.identify("one").await,
            Err(Refusal::Unavailable(_))
        ));
    }
}

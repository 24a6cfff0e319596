//! Claims without a cluster: a file beside the certificate authority's keys, for one operator.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use compiler::ObjectKey;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use wire::grant::Record;

use super::{Kept, Store, StoreError};

/// The file.
const NAME: &str = "claims.json";
/// The most that is read.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A file, whose writers are all in this process. Cheap to share.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    turn: Arc<Mutex<()>>,
}

/// By namespace and name.
type All = BTreeMap<String, Versioned>;

#[derive(Debug, Serialize, Deserialize)]
struct Versioned {
    version: u64,
    record: Record,
}

// === impl Folder ===

impl Folder {
    /// In that folder, which is there.
    pub fn new(folder: &Path) -> Folder {
        Folder {
            path: folder.join(NAME),
            turn: Arc::default(),
        }
    }

    /// Does something with the file, while nobody else does.
    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let folder = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = folder.turn.lock().unwrap_or_else(PoisonError::into_inner);
            act(&folder)
        });
        let failed = |why: tokio::task::JoinError| StoreError::Unreadable(why.to_string());
        done.await.map_err(failed)?
    }

    fn load(&self) -> Result<All, StoreError> {
        let mut text = String::new();
        let read =
            File::open(&self.path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(All::new()),
            Err(error) => return Err(self.failed(error)),
        }
        serde_json::from_str(&text).map_err(|why| {
            let path = self.path.display();
            StoreError::Unreadable(format!(
                "{path} can't be read: {why}; deleted, it is made anew"
            ))
        })
    }

    /// All of it or nothing: a file that was half written would be no file.
    fn save(&self, all: &All) -> Result<(), StoreError> {
        let text = serde_json::to_vec(all);
        let text = text.map_err(|why| StoreError::Unreadable(why.to_string()))?;
        let beside = self.path.with_extension("new");
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        let replaced = written.and_then(|()| fs::rename(&beside, &self.path));
        replaced.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> StoreError {
        StoreError::File {
            path: self.path.clone(),
            error,
        }
    }
}

impl Store for Folder {
    fn read<'a>(
        &'a self,
        object: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Kept>, StoreError>> {
        let key = object.to_string();
        Box::pin(self.with(move |folder| {
            let found = folder.load()?.remove(&key);
            Ok(found.map(|found| Kept {
                record: found.record,
                version: found.version.to_string(),
            }))
        }))
    }

    fn write<'a>(
        &'a self,
        object: &'a ObjectKey,
        record: &'a Record,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        let (key, record) = (object.to_string(), record.clone());
        let expected = version.map(ToOwned::to_owned);
        Box::pin(self.with(move |folder| {
            let mut all = folder.load()?;
            let before = all.get(&key).map(|found| found.version);
            if before.map(|before| before.to_string()) != expected {
                return Ok(None);
            }
            let version = before.unwrap_or_default().wrapping_add(1);
            all.insert(key, Versioned { version, record });
            folder.save(&all)?;
            Ok(Some(version.to_string()))
        }))
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<(ObjectKey, String)>, StoreError>> {
        Box::pin(self.with(|folder| {
            let all = folder.load()?.into_iter().filter_map(|(key, found)| {
                let (namespace, name) = key.split_once('/')?;
                Some((ObjectKey::new(namespace, name), found.version.to_string()))
            });
            Ok(all.collect())
        }))
    }

    fn remove<'a>(
        &'a self,
        object: &'a ObjectKey,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (key, version) = (object.to_string(), version.to_owned());
        Box::pin(self.with(move |folder| {
            let mut all = folder.load()?;
            if all
                .get(&key)
                .is_some_and(|found| found.version.to_string() == version)
            {
                all.remove(&key);
                folder.save(&all)?;
            }
            Ok(())
        }))
    }
}

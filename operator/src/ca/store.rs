//! Where the certificate authority's keys are kept: behind [`KeyStore`], a folder or
//! ([`super::secret`]) a Secret.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

/// Keys and certificates, and how far a rotation has come: JSON.
pub const AUTHORITY: &str = "authority.json";
/// The same as it was kept before there were rotations: PEM.
pub const AUTHORITY_OF_OLD: &str = "authority.pem";
/// In a folder: the request for a rotation, if there was one.
pub const REQUEST: &str = "rotate";
/// The trust bundle alone, for whoever has to trust the mesh: no secret.
pub const ROOTS: &str = "roots.pem";

/// The most that is read.
const MAX_BYTES: u64 = 256 * 1024;
/// The longest request for a rotation, in bytes.
const MAX_REQUEST: usize = 128;

/// Keeps one text that nobody else may read, for one or several replicas of the operator.
pub trait KeyStore: Send + Sync + 'static {
    /// What is kept; `None` before the first [`KeyStore::save`].
    fn load(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>>;

    /// Replaces what was loaded as `version` (`None`: nothing was there), unless another replica
    /// has done so meanwhile. `roots` is the public part of it.
    fn save(
        &self,
        text: String,
        roots: String,
        version: Option<String>,
    ) -> BoxFuture<'_, Result<Saved, StoreError>>;

    /// The request for a rotation that was made last: any text, another one for each request.
    fn request(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }
}

/// A request, unless it is none: what others write is bounded.
pub(super) fn request_of(text: &str) -> Option<String> {
    let text = text.trim();
    let is_one = !text.is_empty() && text.len() <= MAX_REQUEST;
    (is_one && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

/// What a store keeps. Never shown.
pub struct Kept {
    /// Certificates and private keys.
    pub text: String,
    /// Tells it from what another replica writes.
    pub version: String,
}

/// What became of a [`KeyStore::save`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is kept.
    Done,
    /// Another replica was first; load again.
    Overtaken,
}

/// Why keys cannot be read or written, for the person on call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder's fault.
    #[error("can't {what} {path}: {error}")]
    File {
        /// "read", "write", …
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The API server's answer, or its absence.
    #[error("can't {what} the Secret {name}: {error}")]
    Secret {
        /// "read", "write", …
        what: &'static str,
        /// Namespace and name.
        name: String,
        /// Why.
        error: Box<kube::Error>,
    },
    /// The same of the ConfigMap that asks for a rotation.
    #[error("can't read the ConfigMap {name}: {error}")]
    ConfigMap {
        /// Namespace and name.
        name: String,
        /// Why.
        error: Box<kube::Error>,
    },
    /// It is there, and is something else.
    #[error("{0}")]
    Other(String),
}

/// A folder that belongs to the operator alone (mode 0700, files 0600).
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

// === impl Kept ===

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

// === impl Folder ===

impl Folder {
    /// Opens the folder, and makes it if it isn't there.
    ///
    /// # Errors
    /// When it can't be made or its mode can't be set.
    pub fn open(path: &Path) -> Result<Folder, StoreError> {
        let error = |error| StoreError::File {
            what: "make",
            path: path.to_owned(),
            error,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(error)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(error)?;
        Ok(Folder {
            path: path.to_owned(),
        })
    }

    fn read(&self) -> Result<Option<Kept>, StoreError> {
        let Some(text) = self.text(AUTHORITY)?.or(self.text(AUTHORITY_OF_OLD)?) else {
            return Ok(None);
        };
        let version = blake3::hash(text.as_bytes()).to_hex().to_string();
        Ok(Some(Kept { text, version }))
    }

    /// What is in a file; `None` when there is none.
    fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.path.join(name);
        let read = || -> io::Result<String> {
            let mut text = String::new();
            File::open(&path)?
                .take(MAX_BYTES)
                .read_to_string(&mut text)?;
            Ok(text)
        };
        match read() {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::File {
                what: "read",
                path,
                error,
            }),
        }
    }

    fn write(&self, text: &str, roots: &str, version: Option<&str>) -> Result<Saved, StoreError> {
        if self.read()?.map(|kept| kept.version).as_deref() != version {
            return Ok(Saved::Overtaken);
        }
        let target = self.path.join(AUTHORITY);
        let error = |error| StoreError::File {
            what: "write",
            path: target.clone(),
            error,
        };
        let new = self.write_beside(AUTHORITY, text).map_err(error)?;
        if version.is_none() {
            // A link, unlike a renaming, never replaces: of two that start together, one is first.
            let linked = fs::hard_link(&new, &target);
            let _ = fs::remove_file(&new);
            match linked {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Ok(Saved::Overtaken);
                }
                linked => linked.map_err(error)?,
            }
        } else {
            fs::rename(new, &target).map_err(error)?;
        }
        let new = self.write_beside(ROOTS, roots).map_err(error)?;
        fs::rename(new, self.path.join(ROOTS)).map_err(error)?;
        // What is of no use any more is not left lying about; most often there is nothing.
        let _ = fs::remove_file(self.path.join(AUTHORITY_OF_OLD));
        Ok(Saved::Done)
    }

    /// Writes a file of another name, so that a reader sees the old one or the new one.
    fn write_beside(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self
            .path
            .join(format!(".{name}.{:016x}", rand::random::<u64>()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let written = file
            .write_all(content.as_bytes())
            .and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.map(|()| path)
    }
}

// Small files on a local disk: not worth a thread of their own.
impl KeyStore for Folder {
    fn load(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>> {
        Box::pin(async { self.read() })
    }

    fn save(
        &self,
        text: String,
        roots: String,
        version: Option<String>,
    ) -> BoxFuture<'_, Result<Saved, StoreError>> {
        Box::pin(async move { self.write(&text, &roots, version.as_deref()) })
    }

    fn request(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(self.text(REQUEST)?.and_then(|text| request_of(&text))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_saved_is_loaded_and_only_its_owner_can_read_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("ca");
        let folder = Folder::open(&path).unwrap();
        assert!(folder.read().unwrap().is_none());

        assert_eq!(folder.write("one", "roots", None).unwrap(), Saved::Done);

        let kept = Folder::open(&path).unwrap().read().unwrap().unwrap();
        assert_eq!(kept.text, "one");
        assert_eq!(fs::read_to_string(path.join(ROOTS)).unwrap(), "roots");
        assert_eq!((mode(&path), mode(&path.join(AUTHORITY))), (0o700, 0o600));
        assert_eq!(
            fs::read_dir(&path).unwrap().count(),
            2,
            "nothing is left beside"
        );
    }

    #[test]
    fn who_comes_second_does_not_replace_what_the_first_wrote() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        assert_eq!(folder.write("one", "", None).unwrap(), Saved::Done);
        assert_eq!(folder.write("two", "", None).unwrap(), Saved::Overtaken);

        let version = folder.read().unwrap().map(|kept| kept.version);
        assert_eq!(
            folder.write("three", "", version.as_deref()).unwrap(),
            Saved::Done
        );
        assert_eq!(
            folder.write("four", "", version.as_deref()).unwrap(),
            Saved::Overtaken
        );
        assert_eq!(folder.read().unwrap().unwrap().text, "three");
    }

    #[test]
    fn a_folder_that_others_could_read_is_closed_to_them() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Folder::open(parent.path()).unwrap();
        assert_eq!(mode(parent.path()), 0o700);
    }

    #[test]
    fn keys_are_not_shown() {
        let kept = Kept {
            text: "PRIVATE".into(),
            version: "1".into(),
        };
        assert!(!format!("{kept:?}").contains("PRIVATE"));
    }
}

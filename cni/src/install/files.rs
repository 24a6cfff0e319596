//! The files of a node's networks: read as a container runtime reads them, and replaced as wholes.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::Error;
use crate::network::{MAX_BYTES, Network, PLUGIN};

/// What the name of a single plugin's file gets, once it has become a list.
const KEPT: &str = "meshwright";

/// A network's file.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// As it was read.
    pub(super) text: String,
    pub(super) network: Network,
}

/// What tells a file that was not touched since without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    mode: u32,
    /// Of its last change, in seconds and nanoseconds.
    changed: (i64, i64),
}

// === files ===

/// Reads a network; none where a runtime sees none: a folder, or a file that is gone since it was listed.
pub(super) fn read(path: &Path) -> Result<Option<Found>, Error> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    if kind.is_dir() {
        return Ok(None);
    }
    if kind.is_symlink() {
        return Err(Error::Link(path.to_owned()));
    }
    let text = match read_text(path) {
        Ok(text) => text,
        Err(Error::File { source, .. })
            if source.kind() == io::ErrorKind::NotFound && !is_there(path)? =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let path = path.to_owned();
    match Network::read(&text) {
        Ok(network) => Ok(Some(Found {
            path,
            text,
            network,
        })),
        Err(why) => Err(Error::Network { path, why }),
    }
}

pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(at(path))?;
    file.take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(at(path))?;
    match text.len() as u64 > MAX_BYTES {
        true => Err(at(path)(io::ErrorKind::FileTooLarge.into())),
        false => Ok(text),
    }
}

/// Whether something has this name, be it a link to nothing.
pub(super) fn is_there(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(path)(error)),
    }
}

/// What a single plugin's file becomes with us.
pub(super) fn listed(single: &Path) -> Option<Network> {
    let found = read(single).ok().flatten()?;
    Some(found.network.with_plugin())
}

/// Whether the single plugin can become this list: nothing has its name but what we made, of this very
/// plugin before the process ended half way, or of the one before, which its installer wrote again.
pub(super) fn check_free(single: &Path, list: &Path, network: &Network) -> Result<(), Error> {
    if !is_there(list)? {
        return Ok(());
    }
    let there = read(list).ok().flatten().map(|found| found.network);
    let ours = there.is_some_and(|there| {
        there == *network || listed(&kept(single)).is_some_and(|before| there == before)
    });
    match ours {
        true => Ok(()),
        false => Err(Error::Taken {
            single: single.to_owned(),
            list: list.to_owned(),
        }),
    }
}

/// What a single plugin's file is called once it has become a list.
pub(super) fn kept(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(KEPT);
    name.into()
}

/// Replaces a file as a whole, if it still holds what it held `before`. What it is written to first ends
/// in nothing that a runtime reads.
pub(super) fn replace(
    path: &Path,
    content: &mut dyn io::Read,
    mode: u32,
    before: Option<&str>,
) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut new =
        NamedTempFile::with_prefix_in(format!(".{PLUGIN}-"), folder).map_err(at(folder))?;
    io::copy(content, &mut new).map_err(at(path))?;
    let permissions = fs::Permissions::from_mode(mode & 0o777);
    new.as_file()
        .set_permissions(permissions)
        .map_err(at(path))?;
    new.as_file().sync_all().map_err(at(path))?;
    // What its owner wrote meanwhile is newer than what we have edited.
    if let Some(before) = before
        && read_text(path)? != before
    {
        return Err(Error::Changed(path.to_owned()));
    }
    new.persist(path).map_err(|error| at(path)(error.error))?;
    Ok(())
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(at(from))
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}

// === impl Stamp ===

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            mode: metadata.mode(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

//! What survives a restart of the sidecar: key, chain, roots, and the last good configuration.
//!
//! The folder is meant for memory-backed storage: nothing in it may reach a disk. Files are
//! replaced by renaming, so that a kill at any moment leaves the old or the new one, never half, and so
//! does a volume that is full. The configuration is also appended to; who reads it can tell what was cut
//! off.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::net::tls::KeyAndChain;

const KEY: &str = "key.pem";
const CHAIN: &str = "chain.pem";
const ROOTS: &str = "roots.pem";
const CONFIG: &str = "config.bin";

/// The largest file that is read back; ours are far smaller.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// The folder. Mode 0700, its files 0600.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// A file that is there as a whole, and does not count yet.
#[derive(Debug)]
struct Prepared {
    temporary: PathBuf,
    place: PathBuf,
}

// === impl Store ===

impl Store {
    /// Opens the folder, making it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to another user.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Key and chain of an earlier life, if both are there and belong together.
    pub fn key_and_chain(&self) -> Option<KeyAndChain> {
        let key_pem = self.read(KEY)?;
        let pair = KeyPair::from_pem(std::str::from_utf8(&key_pem).ok()?).ok()?;
        let chain = certificates(&self.read(CHAIN)?)?;
        let leaf = chain.first()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
        // A kill between the two renames leaves a key without its chain.
        if parsed.public_key().raw != pair.subject_public_key_info().as_slice() {
            return None;
        }
        Some(KeyAndChain {
            chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der())),
        })
    }

    /// Roots of an earlier life, DER.
    pub fn roots(&self) -> Option<Vec<Vec<u8>>> {
        let roots = certificates(&self.read(ROOTS)?)?;
        Some(roots.iter().map(|root| root.to_vec()).collect())
    }

    /// The last good configuration, as the delta stream's end wrote it.
    pub fn config(&self) -> Option<Vec<u8>> {
        self.read(CONFIG)
    }

    /// Keeps key and chain (PEM).
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_key_and_chain(&self, key_pem: &str, chain: &[Vec<u8>]) -> io::Result<()> {
        // Both are there before either counts: a full volume must not part a key from its chain.
        let key = self.prepare(KEY, key_pem.as_bytes())?;
        let chain = self.prepare(CHAIN, &pem(chain))?;
        key.replace()?;
        chain.replace()
    }

    /// Keeps the trust bundle.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_roots(&self, roots: &[Vec<u8>]) -> io::Result<()> {
        self.prepare(ROOTS, &pem(roots))?.replace()
    }

    /// Keeps the last good configuration.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_config(&self, bytes: &[u8]) -> io::Result<()> {
        self.prepare(CONFIG, bytes)?.replace()
    }

    /// Adds to the configuration that is kept.
    ///
    /// # Errors
    /// When there is none, or it cannot be written to: then it may end in a part of `bytes`.
    pub fn append_config(&self, bytes: &[u8]) -> io::Result<()> {
        let path = self.folder.join(CONFIG);
        OpenOptions::new().append(true).open(path)?.write_all(bytes)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(name);
        let length = fs::metadata(&path).ok()?.len();
        (length <= MAX_FILE).then(|| fs::read(&path).ok()).flatten()
    }

    fn prepare(&self, name: &str, bytes: &[u8]) -> io::Result<Prepared> {
        let prepared = Prepared {
            temporary: self.folder.join(format!("{name}.new")),
            place: self.folder.join(name),
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&prepared.temporary)?;
        file.write_all(bytes)?;
        Ok(prepared)
    }
}

// === impl Prepared ===

impl Prepared {
    fn replace(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.place)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Once it has its place there is none. What could not be written as a whole would take room
        // that others need.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|found| !found.is_empty())
}

/// Certificates as PEM (RFC 7468).
fn pem(certificates: &[Vec<u8>]) -> Vec<u8> {
    let blocks = certificates.iter().map(|der| pem_block("CERTIFICATE", der));
    blocks.collect::<String>().into_bytes()
}

fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII.
        block.push_str(&String::from_utf8_lossy(line));
        block.push('\n');
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}

/// The first trust: roots from the PEM file written at injection.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn read_bundle(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    parse_bundle(&fs::read(path)?)
}

/// Roots from PEM text.
///
/// # Errors
/// When it holds no certificate.
pub fn parse_bundle(pem: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let none = || io::Error::new(io::ErrorKind::InvalidData, "it holds no PEM certificate");
    let roots = certificates(pem).ok_or_else(none)?;
    Ok(roots.iter().map(|root| root.to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::CertificateParams;

    fn leaf() -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&key).unwrap();
        (key, leaf.der().to_vec())
    }

    #[test]
    fn key_chain_roots_and_config_come_back_and_only_their_owner_can_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let store = Store::open(&path).unwrap();
        let (key, leaf) = leaf();
        store
            .save_key_and_chain(&key.serialize_pem(), std::slice::from_ref(&leaf))
            .unwrap();
        store.save_roots(std::slice::from_ref(&leaf)).unwrap();
        store.save_config(b"old").unwrap();
        store.save_config(b"he").unwrap();
        store.append_config(b"ld").unwrap();

        let store = Store::open(&path).unwrap();
        assert_eq!(store.key_and_chain().unwrap().chain[0].as_ref(), &leaf[..]);
        assert_eq!(store.roots().unwrap(), vec![leaf]);
        assert_eq!(store.config().unwrap(), b"held");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        for name in [KEY, CHAIN, ROOTS, CONFIG] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_chain_that_cannot_be_written_leaves_the_key_that_there_was_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (key, first) = leaf();
        store
            .save_key_and_chain(&key.serialize_pem(), std::slice::from_ref(&first))
            .unwrap();
        // In the place where the next one would be written first.
        let place = folder.path().join("chain.pem.new");
        fs::create_dir(&place).unwrap();
        let (key, next) = leaf();
        store
            .save_key_and_chain(&key.serialize_pem(), &[next])
            .unwrap_err();
        fs::remove_dir(&place).unwrap();
        assert_eq!(store.key_and_chain().unwrap().chain[0].as_ref(), &first[..]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_key_that_does_not_belong_to_the_chain_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (key, _) = leaf();
        let (_, other) = leaf();
        store
            .save_key_and_chain(&key.serialize_pem(), &[other])
            .unwrap();
        assert!(store.key_and_chain().is_none());
    }
}

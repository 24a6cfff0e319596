//! The folder that one running mesh keeps its sockets, logs and secrets in, while it runs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

/// Longer names would make socket paths too long for the kernel (108 bytes).
const LONGEST_NAME: usize = 40;
/// How many meshes from folders of the same name run beside each other.
const MOST_NAMESAKES: u32 = 100;

/// Where things are in the folder.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The folder itself.
    pub root: PathBuf,
}

/// The folder of a mesh that this process runs. Removed when dropped.
#[derive(Debug)]
pub struct State {
    /// The mesh's name: its folder's.
    pub name: String,
    /// Where things are in it.
    pub layout: Layout,
    /// Held as long as the mesh runs: a folder that isn't locked is left over from a kill.
    _lock: Flock<File>,
}

// === impl Layout ===

impl Layout {
    /// Where `exec` and `status` ask.
    pub fn control(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Where sidecars ask for connections to the host's network.
    pub fn way_out(&self) -> PathBuf {
        self.root.join("way-out.sock")
    }

    /// The copy of the user's folder that the operator reads.
    pub fn accepted(&self) -> PathBuf {
        self.root.join("accepted")
    }

    /// Where files are made ready for [`Layout::accepted`].
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// What completes the user's folder: Pods, and Services with addresses.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// The operator's own: the certificate authority's keys.
    pub fn operator(&self) -> PathBuf {
        self.root.join("operator")
    }

    /// The table of issued tokens.
    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens.json")
    }

    /// The log of one program.
    pub fn log(&self, program: &str) -> PathBuf {
        self.root.join("logs").join(format!("{program}.log"))
    }

    /// What one pod keeps.
    pub fn pod(&self, pod: &str) -> PathBuf {
        self.root.join("pods").join(pod)
    }

    /// The hosts file of the workloads of one namespace.
    pub fn hosts(&self, namespace: &str) -> PathBuf {
        self.root.join("names").join(format!("{namespace}.hosts"))
    }

    /// Which name server they ask, and how.
    pub fn resolv_conf(&self, namespace: &str) -> PathBuf {
        self.root
            .join("names")
            .join(format!("{namespace}.resolv.conf"))
    }
}

// === impl State ===

impl State {
    /// Creates the folder of a mesh called `name`, or, when that one runs, of `name-2` and so on
    /// unless the name was asked for.
    pub fn create(name: &str, asked_for: bool) -> anyhow::Result<Self> {
        let base = base()?;
        private_folder(&base)?;
        sweep(&base)?;
        let name = tidy(name);
        for nth in 1..=MOST_NAMESAKES {
            let name = if nth == 1 {
                name.clone()
            } else {
                format!("{name}-{nth}")
            };
            let root = base.join(&name);
            if let Some(lock) = lock(&root)? {
                let layout = Layout { root };
                for folder in [
                    "accepted", "staging", "runtime", "operator", "logs", "pods", "names",
                ] {
                    private_folder(&layout.root.join(folder))?;
                }
                return Ok(Self {
                    name,
                    layout,
                    _lock: lock,
                });
            }
            if asked_for {
                bail!(
                    "a mesh named `{name}` is running already; stop it, or choose another --name"
                );
            }
        }
        bail!("{MOST_NAMESAKES} meshes named `{name}` are running already; stop some of them")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.layout.root);
        // Only when this was the last mesh.
        let _ = base().and_then(|base| Ok(fs::remove_dir(base)?));
    }
}

/// The names of the meshes that run, for this user.
pub fn running() -> anyhow::Result<Vec<(String, Layout)>> {
    let entries = match fs::read_dir(base()?) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut meshes = Vec::new();
    for entry in entries {
        let layout = Layout {
            root: entry?.path(),
        };
        if std::os::unix::net::UnixStream::connect(layout.control()).is_ok() {
            let name = layout
                .root
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            meshes.push((name, layout));
        }
    }
    meshes.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(meshes)
}

/// Writes a file that only its owner may read, in one step: whoever reads sees the old or the new.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Hidden: whoever watches the folder leaves it alone.
    let temporary = path.with_file_name(format!(".{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    fs::rename(temporary, path)
}

/// Creates a folder that only its owner may enter; one that is there must be such a folder, for
/// anybody may create folders in /tmp.
pub fn private_folder(path: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("creating {}", path.display())),
    }
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir()
        || metadata.uid() != nix::unistd::geteuid().as_raw()
        || metadata.mode() & 0o077 != 0
    {
        bail!(
            "{} is not a folder that only you may enter; remove it, or set XDG_RUNTIME_DIR to a folder of yours",
            path.display()
        );
    }
    Ok(())
}

fn base() -> anyhow::Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    let parent = runtime.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    if !parent.is_dir() {
        bail!(
            "XDG_RUNTIME_DIR names {}, which is no folder",
            parent.display()
        );
    }
    Ok(parent.join(format!("meshwright-{}", nix::unistd::geteuid())))
}

/// Locks the folder, created if it isn't there. `None`: another process holds it.
fn lock(root: &Path) -> anyhow::Result<Option<Flock<File>>> {
    loop {
        private_folder(root)?;
        let Ok(folder) = File::open(root) else {
            continue;
        };
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // Whoever held it before may have removed it between the two calls.
                let same = fs::metadata(root)
                    .is_ok_and(|now| lock.metadata().is_ok_and(|then| then.ino() == now.ino()));
                if same {
                    return Ok(Some(lock));
                }
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("locking {}", root.display()));
            }
        }
    }
}

/// Removes what killed meshes left.
fn sweep(base: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(base)? {
        let root = entry?.path();
        // Of those that run, the lock is held; one that is just being created looks again whether
        // what it locked is still there.
        if root.is_dir()
            && let Some(_lock) = lock(&root)?
        {
            fs::remove_dir_all(&root)
                .with_context(|| format!("removing what a killed mesh left: {}", root.display()))?;
        }
    }
    Ok(())
}

/// A name that is fit for a folder's.
fn tidy(name: &str) -> String {
    let tidy: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(LONGEST_NAME)
        .collect();
    let tidy = tidy.trim_matches('-');
    if tidy.is_empty() {
        "mesh".to_owned()
    } else {
        tidy.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_by_one_mesh_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("shop");
        let first = lock(&root).unwrap();
        assert!(first.is_some());
        assert!(lock(&root).unwrap().is_none());
        drop(first);
        assert!(lock(&root).unwrap().is_some());
    }

    #[test]
    fn what_a_killed_mesh_left_is_removed_and_what_runs_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        private_folder(&base).unwrap();
        let (runs, killed) = (base.join("runs"), base.join("killed"));
        let _lock = lock(&runs).unwrap();
        drop(lock(&killed).unwrap());
        fs::write(killed.join("tokens.json"), "{}").unwrap();

        sweep(&base).unwrap();

        assert!(runs.exists() && !killed.exists());
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        assert!(
            private_folder(&open)
                .unwrap_err()
                .to_string()
                .contains("XDG_RUNTIME_DIR")
        );
    }

    #[test]
    fn a_name_becomes_fit_for_a_folder() {
        assert_eq!(tidy("My Shop/2"), "my-shop-2");
        assert_eq!(tidy("…"), "mesh");
    }
}

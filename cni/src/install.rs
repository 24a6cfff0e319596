//! Keeps the plugin on a node: its program in the container runtime's folder, and its entry at the
//! end of the first network there.
//!
//! In this order, so that there is never an entry whose program is missing, which would stop every
//! pod of the node. Files are replaced as wholes, under names that no runtime reads before they are
//! complete. Whoever made the network may write it again: then the entry is added again, at once.
//!
//! When this process ends the plugin stays, and works on: it needs no process. Only a DaemonSet that
//! was deleted takes its entry away. The program stays even then: some runtimes take a pod down with
//! the list of plugins that it was made with.

use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tempfile::NamedTempFile;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::network::{MAX_BYTES, Network, PLUGIN, Refusal, Shape};

/// How often the folder is looked at, if it tells of no change: a folder that was replaced doesn't.
const LOOK: Duration = Duration::from_secs(5);
/// The names that a container runtime takes for networks end so, and it takes the first by name.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// What the name of a single plugin's file gets, once it has become a list.
const KEPT: &str = "meshwright";

/// Where the container runtime of this node looks.
#[derive(Clone, Debug, clap::Args)]
pub struct InstallArgs {
    /// The folder of plugins' programs, as this process sees it.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The folder of networks, as this process sees it.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

/// The two folders.
#[derive(Clone, Debug)]
pub struct Place {
    programs: PathBuf,
    networks: PathBuf,
}

/// Why the plugin is not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Of the file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is on its way, on a new node.
    #[error(
        "{} holds no network (*.conflist, *.conf): none is installed on this node yet, or its folder is another (chart \
         value cni.confDir)",
        .0.display()
    )]
    NoNetwork(PathBuf),
    /// Nothing can be added to it.
    #[error("the network {}: {why}", path.display())]
    Network {
        /// Of its file.
        path: PathBuf,
        /// Why not.
        #[source]
        why: Refusal,
    },
    /// The entry is not there, or not the last.
    #[error("the network {} does not end with the plugin meshwright-cni", .0.display())]
    NoEntry(PathBuf),
}

/// A network's file.
struct Found {
    path: PathBuf,
    network: Network,
}

// === impl Place ===

impl From<&InstallArgs> for Place {
    fn from(args: &InstallArgs) -> Self {
        Self {
            programs: args.bin_dir.clone(),
            networks: args.conf_dir.clone(),
        }
    }
}

impl Place {
    /// Puts the plugin there, and puts it back whenever it is gone, until `end`.
    ///
    /// # Errors
    /// When the program can't be put there. What else fails is logged, and tried again.
    pub async fn keep(&self, end: impl Future<Output = ()>) -> Result<(), Error> {
        self.put_program()?;
        tokio::select! {
            () = end => {}
            () = self.keep_entry() => {}
        }
        Ok(())
    }

    async fn keep_entry(&self) {
        let (nudge, mut nudged) = watch::channel(());
        let watcher = self.watch(nudge);
        if let Err(error) = &watcher {
            tracing::warn!(%error, "changes of the folder of networks are seen {LOOK:?} late");
        }
        let mut last = None;
        loop {
            nudged.borrow_and_update();
            let said = match self.put_entry() {
                Ok(None) => None,
                Ok(Some(path)) => {
                    tracing::info!(path = %path.display(), "the plugin is at the end of the network");
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            // What stays wrong is said once.
            if said != last {
                if let Some(error) = &said {
                    tracing::warn!(
                        error,
                        "the plugin is not in place: pods that it should capture won't be ready"
                    );
                }
                last = said;
            }
            let _ = timeout(LOOK, nudged.changed()).await;
        }
    }

    fn watch(&self, nudge: watch::Sender<()>) -> notify::Result<RecommendedWatcher> {
        let tell = move |event: notify::Result<notify::Event>| {
            // Our own reading is of no interest.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                nudge.send_replace(());
            }
        };
        let mut watcher = notify::recommended_watcher(tell)?;
        watcher.watch(&self.networks, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }

    /// Whether a pod that starts now passes the plugin.
    ///
    /// # Errors
    /// Why it does not.
    pub fn is_installed(&self) -> Result<(), Error> {
        let program = self.programs.join(PLUGIN);
        fs::metadata(&program).map_err(at(&program))?;
        let first = self.first()?;
        match first.network.has_plugin() {
            true => Ok(()),
            false => Err(Error::NoEntry(first.path)),
        }
    }

    /// Copies this very program.
    fn put_program(&self) -> Result<(), Error> {
        let own = std::env::current_exe().map_err(at(Path::new(PLUGIN)))?;
        let mut program = fs::File::open(&own).map_err(at(&own))?;
        replace(&self.programs.join(PLUGIN), &mut program, 0o755)
    }

    /// Adds the plugin to the first network, unless it is there; answers the file that it wrote.
    fn put_entry(&self) -> Result<Option<PathBuf>, Error> {
        let Found { path, network } = self.first()?;
        if network.has_plugin() {
            return Ok(None);
        }
        let mode = fs::metadata(&path).map_err(at(&path))?.permissions().mode();
        let single = network.shape() == Shape::Single;
        let text = network.with_plugin().to_text();
        if !single {
            replace(&path, &mut text.as_bytes(), mode)?;
            return Ok(Some(path));
        }
        // Until the second step the first file by name is still the one without us.
        let list = path.with_extension("conflist");
        replace(&list, &mut text.as_bytes(), mode)?;
        rename(&path, &kept(&path))?;
        Ok(Some(list))
    }

    /// Leaves the networks as they were without the plugin.
    ///
    /// # Errors
    /// The last file that could not be written; the others were.
    pub fn remove(&self) -> Result<(), Error> {
        let mut removed = Ok(());
        for path in self.files()? {
            match self.remove_from(&path) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(path = %path.display(), "the plugin is taken from the network")
                }
                Err(error) => {
                    tracing::error!(%error, "the plugin stays in a network");
                    removed = Err(error);
                }
            }
        }
        removed
    }

    fn remove_from(&self, path: &Path) -> Result<bool, Error> {
        let Ok(Found { network, .. }) = read(path) else {
            // Not a network, and so none that we are in.
            return Ok(false);
        };
        let Some(without) = network.without_plugin() else {
            return Ok(false);
        };
        // One plugin again, if it was one and nobody has added another.
        for ending in ["conf", "json"] {
            let single = path.with_extension(ending);
            let kept = kept(&single);
            let before = read(&kept).map(|before| before.network.with_plugin().without_plugin());
            if before.is_ok_and(|before| before.as_ref() == Some(&without)) {
                rename(&kept, &single)?;
                fs::remove_file(path).map_err(at(path))?;
                return Ok(true);
            }
        }
        let mode = fs::metadata(path).map_err(at(path))?.permissions().mode();
        replace(path, &mut without.to_text().as_bytes(), mode)?;
        Ok(true)
    }

    /// The network that a container runtime takes: the first file by name that is one.
    fn first(&self) -> Result<Found, Error> {
        let mut wrong = Error::NoNetwork(self.networks.clone());
        for path in self.files()? {
            match read(&path) {
                Ok(found) => return Ok(found),
                // Gone since it was listed.
                Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                // It is the network, of whoever wrote it so: another must not be taken for it.
                Err(
                    error @ Error::Network {
                        why: Refusal::Version(_),
                        ..
                    },
                ) => return Err(error),
                Err(error) => wrong = error,
            }
        }
        Err(wrong)
    }

    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.networks).map_err(at(&self.networks))? {
            let path = entry.map_err(at(&self.networks))?.path();
            let ending = path.extension().and_then(OsStr::to_str);
            if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

// === files ===

fn read(path: &Path) -> Result<Found, Error> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(at(path))?;
    file.take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(at(path))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(at(path)(io::ErrorKind::FileTooLarge.into()));
    }
    let path = path.to_owned();
    match Network::read(&text) {
        Ok(network) => Ok(Found { path, network }),
        Err(why) => Err(Error::Network { path, why }),
    }
}

/// What a single plugin's file is called once it has become a list.
fn kept(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(KEPT);
    name.into()
}

/// Replaces a file as a whole. What it is written to first ends in nothing that a runtime reads.
fn replace(path: &Path, content: &mut dyn io::Read, mode: u32) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut new =
        NamedTempFile::with_prefix_in(format!(".{PLUGIN}-"), folder).map_err(at(folder))?;
    io::copy(content, &mut new).map_err(at(path))?;
    let permissions = fs::Permissions::from_mode(mode & 0o777);
    new.as_file()
        .set_permissions(permissions)
        .map_err(at(path))?;
    new.as_file().sync_all().map_err(at(path))?;
    new.persist(path).map_err(|error| at(path)(error.error))?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(at(from))
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;

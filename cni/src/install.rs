//! Keeps the plugin on a node: its program in the container runtime's folder, and its entry at the
//! end of the first network there.
//!
//! In this order, so that there is never an entry whose program is missing, which would stop every
//! pod of the node. Files are replaced as wholes, under names that no runtime reads before they are
//! complete. Whoever made the network may write it again: then the entry is added again, at once, and
//! where that goes on without end, after pauses ([`pace`]). A program that is gone is put back first.
//!
//! When this process ends the plugin stays, and works on: it needs no process. Only a DaemonSet that
//! was deleted takes its entry away. The program stays even then: some runtimes take a pod down with
//! the list of plugins that it was made with.

mod files;
mod pace;

use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::network::{Network, PLUGIN, Refusal, Shape};
use files::{
    Found, Stamp, at, check_free, is_there, kept, listed, read, read_text, rename, replace,
};
use pace::Pace;

/// How often the folders are looked at, if they tell of no change: a folder that was replaced doesn't.
const LOOK: Duration = Duration::from_secs(5);
/// The names that a container runtime takes for networks end so, and it takes the first by name.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// How often a network that others write at the same moment is tried, when the plugin is taken from it.
const REMOVALS: u32 = 5;

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
    /// Nothing can be added to it. It is the node's network all the same: another must not be taken for it.
    #[error("the network {}: {why}", path.display())]
    Network {
        /// Of its file.
        path: PathBuf,
        /// Why not.
        #[source]
        why: Refusal,
    },
    /// What it leads to may be another file here than on the node, and would be replaced by a copy.
    #[error(
        "the network {} is a symbolic link, which is not followed: put the file itself in its place",
        .0.display()
    )]
    Link(PathBuf),
    /// Of a single plugin's list, which would replace somebody else's.
    #[error(
        "the network {} is one plugin, and has to become the list {}, which is there already and is another's: remove \
         the one of the two that is not in use",
        single.display(), list.display()
    )]
    Taken {
        /// The file of the single plugin.
        single: PathBuf,
        /// The file that has the name of its list.
        list: PathBuf,
    },
    /// While it was being edited.
    #[error("the network {} was written by another at this moment, and is read again", .0.display())]
    Changed(PathBuf),
    /// The entry is not there, or not the last.
    #[error("the network {} does not end with the plugin meshwright-cni", .0.display())]
    NoEntry(PathBuf),
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
    /// When the program can't be put there. What fails later is logged, and tried again.
    pub async fn keep(&self, end: impl Future<Output = ()>) -> Result<(), Error> {
        let mut program = None;
        self.put_program(&mut program)?;
        tokio::select! {
            () = end => {}
            () = self.keep_both(program) => {}
        }
        Ok(())
    }

    async fn keep_both(&self, mut program: Option<Stamp>) {
        let (nudge, mut nudged) = watch::channel(());
        let watcher = self.watch(nudge);
        if let Err(error) = &watcher {
            tracing::warn!(%error, "changes of the folders are seen {LOOK:?} late");
        }
        let mut pace = Pace::default();
        let mut last = None;
        loop {
            nudged.borrow_and_update();
            let now = Instant::now();
            let said = match self.look(&mut program, &mut pace, now) {
                Ok(()) => None,
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
            let _ = timeout(pace.rest(now).unwrap_or(LOOK).min(LOOK), nudged.changed()).await;
        }
    }

    /// Puts back what is gone: first the program, lest there be an entry without one.
    fn look(
        &self,
        program: &mut Option<Stamp>,
        pace: &mut Pace,
        now: Instant,
    ) -> Result<(), Error> {
        if self.put_program(program)? {
            tracing::info!("the plugin's program was gone or another, and is put back");
        }
        if pace.rest(now).is_some() {
            // Said when the pause began.
            return Ok(());
        }
        let Some(path) = self.put_entry()? else {
            return Ok(());
        };
        tracing::info!(path = %path.display(), "the plugin is at the end of the network");
        if let Some((times, pause)) = pace.put(now) {
            tracing::warn!(
                path = %path.display(),
                times,
                "somebody writes the network again and again without the plugin, as Cilium does unless its value \
                 cni.exclusive is false: the plugin is not put back for {pause:?}, and pods that it should capture \
                 won't be ready if they start meanwhile; tell whoever made the network to leave others' plugins in it"
            );
        }
        Ok(())
    }

    fn watch(&self, nudge: watch::Sender<()>) -> notify::Result<RecommendedWatcher> {
        let tell = move |event: notify::Result<notify::Event>| {
            // Our own reading is of no interest.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                nudge.send_replace(());
            }
        };
        let mut watcher = notify::recommended_watcher(tell)?;
        for folder in [&self.networks, &self.programs] {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
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

    /// Copies this very program, unless it is there; says whether it did. `stamp` is that of the copy.
    fn put_program(&self, stamp: &mut Option<Stamp>) -> Result<bool, Error> {
        let path = self.programs.join(PLUGIN);
        let there = Stamp::of(&path).ok();
        if there.is_some() && there == *stamp {
            return Ok(false);
        }
        let own = std::env::current_exe().map_err(at(Path::new(PLUGIN)))?;
        let mut program = fs::File::open(&own).map_err(at(&own))?;
        replace(&path, &mut program, 0o755, None)?;
        *stamp = Some(Stamp::of(&path).map_err(at(&path))?);
        Ok(true)
    }

    /// Adds the plugin to the first network, unless it is there; answers the file that it wrote.
    fn put_entry(&self) -> Result<Option<PathBuf>, Error> {
        let Found {
            path,
            text,
            network,
        } = self.first()?;
        if network.has_plugin() {
            return Ok(None);
        }
        let mode = fs::metadata(&path).map_err(at(&path))?.permissions().mode();
        let single = network.shape() == Shape::Single;
        let network = network.with_plugin();
        let new = network.to_text();
        if !single {
            replace(&path, &mut new.as_bytes(), mode, Some(&text))?;
            return Ok(Some(path));
        }
        let list = path.with_extension("conflist");
        check_free(&path, &list, &network)?;
        // Until the second step the first file by name is still the one without us.
        replace(&list, &mut new.as_bytes(), mode, None)?;
        if read_text(&path)? != text {
            return Err(Error::Changed(path));
        }
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
            let mut done = self.remove_from(&path);
            for _ in 1..REMOVALS {
                if !matches!(done, Err(Error::Changed(_))) {
                    break;
                }
                done = self.remove_from(&path);
            }
            match done {
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
        let (text, network) = match read(path) {
            Ok(Some(Found { text, network, .. })) => (text, network),
            // Not a network that is edited, and so none that we are in.
            Ok(None) | Err(Error::Network { .. } | Error::Link(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(without) = network.without_plugin() else {
            return Ok(false);
        };
        // One plugin again, if it was one and nobody has added another.
        for ending in ["conf", "json"] {
            let single = path.with_extension(ending);
            let kept = kept(&single);
            let before = listed(&kept).and_then(Network::without_plugin);
            if before.is_some_and(|before| before == without) {
                match is_there(&single)? {
                    // Whoever made it has written it again.
                    true => fs::remove_file(&kept).map_err(at(&kept))?,
                    false => rename(&kept, &single)?,
                }
                fs::remove_file(path).map_err(at(path))?;
                return Ok(true);
            }
        }
        let mode = fs::metadata(path).map_err(at(path))?.permissions().mode();
        let new = without.to_text();
        replace(path, &mut new.as_bytes(), mode, Some(&text))?;
        Ok(true)
    }

    /// The network that a container runtime takes: the first file by name. One that can't be read, or
    /// not be added to, is it all the same.
    fn first(&self) -> Result<Found, Error> {
        for path in self.files()? {
            if let Some(found) = read(&path)? {
                return Ok(found);
            }
        }
        Err(Error::NoNetwork(self.networks.clone()))
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

#[cfg(test)]
mod tests;

//! The network namespace of a pod, entered from its node.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use sidecar::capture::{self, Rules};

use crate::plugin::Network;

/// Where the calling thread's own namespace is to be seen.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why nothing was done in the namespace of a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or no namespace.
    #[error("the pod's network namespace {path} can't be entered: {source}")]
    Entering {
        /// As the runtime wrote it.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It would be the node that is redirected.
    #[error("{0} is the node's own network namespace, which is never redirected")]
    Own(String),
    /// It was entered, and there it failed.
    #[error(transparent)]
    Redirect(#[from] capture::Error),
    /// No thread could be had, or it panicked.
    #[error("no thread to enter the pod's network namespace with")]
    Thread,
}

/// The real namespaces of this machine.
#[derive(Debug)]
pub struct Namespaces;

// === impl Namespaces ===

impl Network for Namespaces {
    fn redirect(&self, netns: &Path, rules: &Rules) -> Result<(), Error> {
        inside(netns, || capture::redirect(rules))
    }

    fn is_redirected(&self, netns: &Path) -> Result<bool, Error> {
        inside(netns, capture::is_installed)
    }
}

/// Does something in another network namespace, on a thread that ends with it.
fn inside<T: Send>(
    netns: &Path,
    act: impl FnOnce() -> Result<T, capture::Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            enter(netns)?;
            Ok(act()?)
        });
        thread
            .map_err(|_| Error::Thread)?
            .join()
            .map_err(|_| Error::Thread)?
    })
}

fn enter(netns: &Path) -> Result<(), Error> {
    let path = netns.display().to_string();
    let entering = |source| Error::Entering {
        path: path.clone(),
        source,
    };
    let file = File::open(netns).map_err(entering)?;
    let there = file.metadata().map_err(entering)?;
    let here = std::fs::metadata(OWN).map_err(entering)?;
    if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
        return Err(Error::Own(path));
    }
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| entering(errno.into()))
}

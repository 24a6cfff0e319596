//! Making the namespaces of one workload: a network with one way in, captured; its own hosts file.
//!
//! A namespace of mounts can only be made by a process with a single thread, so a short-lived one
//! (`meshwright __place`) makes it, hands over both namespaces as descriptors, and ends: a
//! namespace lives as long as somebody holds it open.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use sidecar::capture::{self, Escape, Rules};

use super::links::Links;
use crate::fds;

/// The mark on packets of sidecars, by which the redirect lets them pass.
pub const SIDECAR_MARK: u32 = 1337;

/// The namespaces of one workload, held open.
#[derive(Debug)]
pub struct Namespaces {
    pub(crate) network: OwnedFd,
    pub(crate) mounts: OwnedFd,
}

/// How a workload's namespaces are furnished.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Furniture {
    /// The workload's address.
    pub(super) address: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub(super) prefix: u8,
    /// Where packets go that have nowhere else to go.
    pub(super) gateway: Ipv4Addr,
    /// Files bound over others: from, to.
    pub(super) files: Vec<(PathBuf, PathBuf)>,
}

/// Makes a workload's namespaces, joined to the bridge through an interface called `link`.
/// Blocks. Must be called in the namespace of the bridge.
pub(super) fn make(link: &str, bridge: u32, furniture: &Furniture) -> anyhow::Result<Namespaces> {
    let (here, there) = UnixStream::pair()?;
    let mut child = Command::new(super::process::own_executable())
        .arg("__place")
        .stdin(OwnedFd::from(there))
        .spawn()
        .context("starting a process in new namespaces")?;
    let made = (|| {
        let (answer, descriptors) = fds::receive::<Result<(), String>>(&here)?;
        answer.map_err(anyhow::Error::msg)?;
        let [network, mounts] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| anyhow::anyhow!("two namespaces were expected"))?;
        let mut links = Links::here();
        links
            .pair(link, bridge, network.as_fd(), furniture.address)
            .context("joining the workload to the bridge (a pair of kernel type veth)")?;
        fds::send(&here, furniture, &[])?;
        let (answer, _) = fds::receive::<Result<(), String>>(&here)?;
        answer.map_err(anyhow::Error::msg)?;
        Ok(Namespaces { network, mounts })
    })();
    drop(here);
    child.wait()?;
    made
}

/// The hidden subcommand: the half of [`make`] inside the new namespaces.
pub fn run() -> anyhow::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let made = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("new namespaces were refused: {error}"));
    match made {
        Ok(()) => {
            let (network, mounts) = (
                File::open("/proc/self/ns/net")?,
                File::open("/proc/self/ns/mnt")?,
            );
            fds::send(
                &socket,
                &Ok::<_, String>(()),
                &[network.as_fd(), mounts.as_fd()],
            )?;
        }
        Err(error) => return Ok(fds::send(&socket, &Err::<(), _>(error), &[])?),
    }
    let (furniture, _) = fds::receive::<Furniture>(&socket)?;
    let done = furnish(&furniture).map_err(|error| format!("{error:#}"));
    Ok(fds::send(&socket, &done, &[])?)
}

fn furnish(furniture: &Furniture) -> anyhow::Result<()> {
    let mut links = Links::here();
    links.loopback_up().context("bringing up loopback")?;
    // Before the namespace can be reached.
    capture::redirect(&Rules::new(Escape::Mark(SIDECAR_MARK)))?;
    links
        .uplink(furniture.address, furniture.prefix, furniture.gateway)
        .context("setting the workload's address")?;
    // As in a pod, an application without privileges may listen on port 80. A sandbox that
    // forbids this is no reason to stop: then that one application says so.
    let _ = write(
        Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        "0",
    );
    for (from, to) in &furniture.files {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("showing a file of its own as {}", to.display()))?;
    }
    Ok(())
}

/// Writes to a file of the kernel's: in one call, without creating it.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

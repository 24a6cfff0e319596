//! The floor of a hop: a process that copies bytes both ways and reads none of them.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tokio::net::{TcpListener, TcpStream};

use crate::child::{Proxy, free_address};

/// The first argument of this benchmark when it is to be a relay.
pub(crate) const ROLE: &str = "relay";

/// Copied at once: bulk is not to wait for system calls.
const BUFFER: usize = 64 * 1024;

/// Starts one; returns when it listens.
pub(crate) async fn start(to: SocketAddr) -> Result<Proxy> {
    let address = free_address().await?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ROLE.to_owned(), address.to_string(), to.to_string()]);
    Proxy::start(command, address).await
}

/// Is a relay until it is killed.
pub(crate) fn run(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    // Not left behind when the benchmark is killed.
    set_pdeathsig(Signal::SIGKILL)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (mut from, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await?;
                from.set_nodelay(true)?;
                to.set_nodelay(true)?;
                tokio::io::copy_bidirectional_with_sizes(&mut from, &mut to, BUFFER, BUFFER).await
            });
        }
    })
}

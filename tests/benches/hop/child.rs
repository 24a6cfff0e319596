//! A proxy in a process of its own, which ends with its owner.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::{TcpListener, TcpStream};

use crate::measure::Watched;

/// Envoy needs a second or two on a busy machine.
const START: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    child: Child,
}

/// An address that nobody listens on at the moment.
pub(crate) async fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?)
}

// === impl Proxy ===

impl Proxy {
    /// Starts `command`, and returns when somebody listens at `address`.
    pub(crate) async fn start(mut command: Command, address: SocketAddr) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut proxy = Self { address, child };
        let listens = async || {
            if let Some(status) = proxy.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            TcpStream::connect(address).await?;
            Ok(())
        };
        tests::wait_until(&format!("{name} listens"), START, listens).await?;
        Ok(proxy)
    }

    /// For its CPU time.
    pub(crate) fn process(&self) -> Watched {
        Watched(self.child.id())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

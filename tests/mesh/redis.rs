//! A real Redis in the mesh, for what replicas share.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::net::TcpStream;

/// The password of its default user.
pub(crate) const PASSWORD: &str = "s3cret";

/// A Redis in the mesh, behind the Service `redis`.
pub(crate) struct Redis {
    address: SocketAddr,
    server: Option<Child>,
    _sidecar: Sidecar,
}

impl Redis {
    pub(crate) async fn start(mesh: &Mesh) -> Result<Self> {
        // A place for it, and a sidecar beside it.
        let (listener, sidecar) = mesh.listener("redis").await?;
        let mut redis = Self {
            address: listener.local_addr()?,
            server: None,
            _sidecar: sidecar,
        };
        drop(listener);
        redis.run().await?;
        Ok(redis)
    }

    pub(crate) async fn run(&mut self) -> Result<()> {
        let (ip, port) = (self.address.ip().to_string(), self.address.port());
        let mut command = Command::new("redis-server");
        command.args(["--bind", &ip, "--port", &port.to_string()]);
        command.args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--requirepass",
            PASSWORD,
        ]);
        let server = command.stdout(Stdio::null()).stdin(Stdio::null()).spawn();
        let server = server.context("redis-server: apt-get install redis-server")?;
        self.server = Some(server);
        wait_until("the store listens", SOON, async || {
            TcpStream::connect(self.address).await?;
            Ok(())
        })
        .await
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let server = self.server.as_ref().context("it does not run")?;
        Ok(kill(Pid::from_raw(server.id().try_into()?), signal)?)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The Service that it is behind, and the Secret that its address stands in.
pub(crate) fn documents() -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: redis, namespace: shop }}\n\
         spec: {{ selector: {{ app: redis }}, ports: [{{ name: tcp-redis, port: 6379, targetPort: 8080 }}] }}\n\
         ---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: store\n  namespace: shop\n  \
         labels: {{ meshwright.dev/credential: \"\" }}\n\
         stringData: {{ url: \"redis://:{PASSWORD}@redis:6379/1\" }}\n"
    )
}

//! A real Redis in the mesh, for what replicas share.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidecar::net::resp::{self, Reply};
use tempfile::TempDir;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The password of its default user.
pub(crate) const PASSWORD: &str = "s3cret";

/// A Redis in the mesh, behind the Service `redis`.
pub(crate) struct Redis {
    address: SocketAddr,
    server: Option<Child>,
    /// Where it keeps what it has, if it outlives its death.
    folder: Option<TempDir>,
    _sidecar: Sidecar,
}

impl Redis {
    /// One that forgets all when it dies.
    pub(crate) async fn start(mesh: &Mesh) -> Result<Self> {
        Self::with(mesh, None).await
    }

    /// One that knows all that it was told when it comes back.
    pub(crate) async fn durable(mesh: &Mesh) -> Result<Self> {
        Self::with(mesh, Some(tempfile::tempdir()?)).await
    }

    async fn with(mesh: &Mesh, folder: Option<TempDir>) -> Result<Self> {
        // A place for it, and a sidecar beside it.
        let (listener, sidecar) = mesh.listener("redis").await?;
        let mut redis = Self {
            address: listener.local_addr()?,
            server: None,
            folder,
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
        command.args(["--save", "", "--requirepass", PASSWORD]);
        match &self.folder {
            None => command.args(["--appendonly", "no"]),
            Some(folder) => {
                command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]);
                command.arg(folder.path())
            }
        };
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

    /// Tells it something past the mesh, and answers what it says: a status, or the text of a report.
    pub(crate) async fn tell(&self, words: &[&str]) -> Result<String> {
        self.tell_with(PASSWORD, words).await
    }

    /// The same, with another password.
    pub(crate) async fn tell_with(&self, password: &str, words: &[&str]) -> Result<String> {
        let command = |words: &[&str]| {
            let words = words.iter().map(|word| word.as_bytes().to_vec());
            resp::command(&Vec::from_iter(words))
        };
        let mut stream = TcpStream::connect(self.address).await?;
        let commands = [command(&["AUTH", password]), command(words)].concat();
        stream.write_all(&commands).await?;
        let (mut read, mut last) = (Vec::new(), String::new());
        for _ in 0..2 {
            last = loop {
                match resp::read(&read) {
                    Ok(Some((reply, length))) => {
                        read.drain(..length);
                        match reply {
                            Reply::Status(text) => break text,
                            Reply::Bulk(Some(text)) => break String::from_utf8(text)?,
                            other => bail!("{other:?}"),
                        }
                    }
                    Ok(None) => ensure!(stream.read_buf(&mut read).await? > 0, "it ended"),
                    Err(_) => bail!("no answer: {read:?}"),
                }
            };
        }
        Ok(last)
    }

    /// Where it is, past the mesh.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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

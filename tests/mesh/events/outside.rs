//! Brokers outside the mesh, which prove over TLS that they are who they should be.

use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::brokers::{nats_server, rabbitmq};
use tokio::net::TcpStream;

use super::brokers::{PASSWORD, broker, carries};
use super::*;

/// A broker that speaks TLS alone, with a certificate for `localhost`.
struct Outside {
    port: u16,
    folder: TempDir,
    /// What its certificate is vouched for by: itself.
    authority: String,
    server: Option<Child>,
}

impl Outside {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        std::fs::write(folder.path().join("cert"), key.cert.pem())?;
        std::fs::write(folder.path().join("key"), key.signing_key.serialize_pem())?;
        Ok(Self {
            port: rabbitmq::free(),
            folder,
            authority: key.cert.pem(),
            server: None,
        })
    }

    async fn run(mut self, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.server = Some(command.stderr(Stdio::null()).spawn()?);
        wait_until("it listens", SOON, async || {
            TcpStream::connect(("127.0.0.1", self.port)).await?;
            Ok(())
        })
        .await?;
        Ok(self)
    }

    async fn nats() -> Result<Self> {
        let outside = Self::new()?;
        let (folder, port) = (outside.folder.path().display(), outside.port);
        let config = format!(
            "host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: \"{folder}\" }}\n\
             tls {{ cert_file: \"{folder}/cert\", key_file: \"{folder}/key\" }}\n\
             authorization {{ user: mesh, password: {PASSWORD} }}\n"
        );
        let path = outside.folder.path().join("nats.conf");
        std::fs::write(&path, config)?;
        let mut command = Command::new(nats_server());
        command.arg("-c").arg(path);
        outside.run(command).await
    }

    async fn redis() -> Result<Self> {
        let outside = Self::new()?;
        let file = |name: &str| outside.folder.path().join(name);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", "0", "--save", ""]);
        command.args(["--tls-port", &outside.port.to_string()]);
        command.arg("--tls-cert-file").arg(file("cert"));
        command.arg("--tls-key-file").arg(file("key"));
        command.arg("--tls-ca-cert-file").arg(file("cert"));
        command.args(["--tls-auth-clients", "no", "--requirepass", PASSWORD]);
        outside.run(command).await
    }

    /// A mesh that calls it by that address.
    async fn mesh(&self, scheme: &str, host: &str, user: &str) -> Result<Mesh> {
        let authority = serde_json::to_string(&self.authority)?;
        let secret = broker(
            &format!("{scheme}://{host}:{}", self.port),
            &format!("{user}\"ca.crt\": {authority}, "),
        );
        let services = services(&["stock", "billing"]);
        Mesh::start(&format!(
            "{services}{secret}{ROUTE}{}",
            subscription("", "")
        ))
        .await
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[tokio::test]
async fn a_nats_outside_the_mesh_carries_events_over_tls() -> Result<()> {
    let nats = Outside::nats().await?;
    carries(&nats.mesh("tls", "localhost", "username: mesh, ").await?).await
}

#[tokio::test]
async fn a_redis_outside_the_mesh_carries_events_over_tls() -> Result<()> {
    let redis = Outside::redis().await?;
    carries(&redis.mesh("rediss", "localhost", "").await?).await
}

#[tokio::test]
async fn a_broker_that_proves_another_name_is_told_nothing() -> Result<()> {
    let nats = Outside::nats().await?;
    let mesh = nats.mesh("tls", "127.0.0.1", "username: mesh, ").await?;
    let stock = mesh.workload("stock").await?;
    mesh.programmed("stock").await?;
    let sent = publish(&stock.sidecar, "events/stock", &[], "{}").await?;
    ensure!(sent.status == 503, "{sent:?}");
    Ok(())
}

//! Brokers outside the mesh, which prove over TLS that they are who they should be.

use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tests::brokers::rabbitmq::Node;
use tests::brokers::{nats_server, rabbitmq};
use tokio::net::TcpStream;

use super::brokers::{PASSWORD, broker, carries};
use super::*;

/// A broker that speaks TLS alone, with a certificate for `localhost`.
struct Outside {
    port: u16,
    folder: TempDir,
    /// What vouches for its certificate, and for that of whoever may call it.
    authority: String,
    /// Who may: a certificate and its key.
    shown: (String, String),
    server: Option<Child>,
    node: Option<Node>,
}

/// Whether it asks for a certificate.
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    No,
    Yes,
}

impl Outside {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // By another name than those below it: else they would look as if they had signed themselves.
        params.distinguished_name.push(DnType::CommonName, "above");
        let key = KeyPair::generate()?;
        let above = params.self_signed(&key)?;
        let issuer = Issuer::from_params(&params, &key);
        let below = |name: &str| -> Result<_> {
            let key = KeyPair::generate()?;
            let certificate =
                CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let (certificate, key) = below("localhost")?;
        for (name, pem) in [
            ("cert", &certificate),
            ("key", &key),
            ("above", &above.pem()),
        ] {
            std::fs::write(folder.path().join(name), pem)?;
        }
        Ok(Self {
            port: rabbitmq::free(),
            folder,
            authority: above.pem(),
            shown: below("shop")?,
            server: None,
            node: None,
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

    async fn nats(asks: Asks) -> Result<Self> {
        let outside = Self::new()?;
        let (folder, port) = (outside.folder.path().display(), outside.port);
        let verify = asks == Asks::Yes;
        let config = format!(
            "host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: \"{folder}\" }}\n\
             tls {{ cert_file: \"{folder}/cert\", key_file: \"{folder}/key\", ca_file: \"{folder}/above\", verify: {verify} }}\n\
             authorization {{ user: mesh, password: {PASSWORD} }}\n"
        );
        let path = outside.folder.path().join("nats.conf");
        std::fs::write(&path, config)?;
        let mut command = Command::new(nats_server());
        command.arg("-c").arg(path);
        outside.run(command).await
    }

    async fn redis(asks: Asks) -> Result<Self> {
        let outside = Self::new()?;
        let file = |name: &str| outside.folder.path().join(name);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", "0", "--save", ""]);
        command.args(["--tls-port", &outside.port.to_string()]);
        command.arg("--tls-cert-file").arg(file("cert"));
        command.arg("--tls-key-file").arg(file("key"));
        command.arg("--tls-ca-cert-file").arg(file("above"));
        let asks = if asks == Asks::Yes { "yes" } else { "no" };
        command.args(["--tls-auth-clients", asks, "--requirepass", PASSWORD]);
        outside.run(command).await
    }

    /// One that asks for a certificate.
    async fn rabbitmq() -> Result<Self> {
        let mut outside = Self::new()?;
        let (folder, port) = (outside.folder.path().display(), outside.port);
        let listeners = format!(
            "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {folder}/above\n\
             ssl_options.certfile = {folder}/cert\nssl_options.keyfile = {folder}/key\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        );
        let definitions = json!({
            "users": [{ "name": "mesh", "password": PASSWORD, "tags": [] }],
            "vhosts": [{ "name": "/" }],
            "permissions": [
                { "user": "mesh", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" },
            ],
        });
        let node = tokio::task::spawn_blocking(move || Node::configured(&listeners, &definitions));
        outside.node = Some(node.await?);
        Ok(outside)
    }

    /// A mesh that calls it by that address.
    async fn mesh(&self, scheme: &str, host: &str, user: &str) -> Result<Mesh> {
        self.mesh_that_shows(scheme, host, user, None).await
    }

    /// The same, which shows a certificate and its key.
    async fn mesh_that_shows(
        &self,
        scheme: &str,
        host: &str,
        user: &str,
        shown: Option<&(String, String)>,
    ) -> Result<Mesh> {
        let mut said = format!(
            "{user}\"ca.crt\": {}, ",
            serde_json::to_string(&self.authority)?
        );
        if let Some((certificate, key)) = shown {
            let [certificate, key] = [certificate, key].map(serde_json::to_string);
            said += &format!("\"tls.crt\": {}, \"tls.key\": {}, ", certificate?, key?);
        }
        let secret = broker(&format!("{scheme}://{host}:{}", self.port), &said);
        let services = services(&["stock", "billing"]);
        let written = match scheme {
            // It has no history.
            "amqps" => subscription("", "").replace(", startFrom: { type: Earliest }", ""),
            _ => subscription("", ""),
        };
        Mesh::start(&format!("{services}{secret}{ROUTE}{written}")).await
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
    let nats = Outside::nats(Asks::No).await?;
    carries(&nats.mesh("tls", "localhost", "username: mesh, ").await?).await
}

#[tokio::test]
async fn a_redis_outside_the_mesh_carries_events_over_tls() -> Result<()> {
    let redis = Outside::redis(Asks::No).await?;
    carries(&redis.mesh("rediss", "localhost", "").await?).await
}

/// Carries events to a broker that asks for a certificate, which is shown, and told to nobody.
async fn shows(outside: &Outside, scheme: &str, user: &str) -> Result<()> {
    let mesh = outside.mesh_that_shows(scheme, "localhost", user, Some(&outside.shown));
    let mesh = mesh.await?;
    carries(&mesh).await?;
    let key = outside.shown.1.lines().nth(1).context("a key")?;
    for told in [
        mesh.operator_log()?,
        mesh.verdict("billing").await?.to_string(),
    ] {
        ensure!(!told.contains(key), "a key is told");
    }
    Ok(())
}

#[tokio::test]
async fn a_rabbitmq_outside_the_mesh_carries_events_over_tls_and_is_shown_a_certificate()
-> Result<()> {
    let rabbit = Outside::rabbitmq().await?;
    shows(&rabbit, "amqps", "username: mesh, ").await
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_is_shown_that_of_its_secret() -> Result<()> {
    shows(&Outside::nats(Asks::Yes).await?, "tls", "username: mesh, ").await?;
    shows(&Outside::redis(Asks::Yes).await?, "rediss", "").await
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_in_vain_is_told_nothing() -> Result<()> {
    let nats = Outside::nats(Asks::Yes).await?;
    let mesh = nats.mesh("tls", "localhost", "username: mesh, ").await?;
    let stock = mesh.workload("stock").await?;
    mesh.programmed("stock").await?;
    let sent = publish(&stock.sidecar, "events/stock", &[], "{}").await?;
    ensure!(sent.status == 503, "{sent:?}");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_proves_another_name_is_told_nothing() -> Result<()> {
    let nats = Outside::nats(Asks::No).await?;
    let mesh = nats.mesh("tls", "127.0.0.1", "username: mesh, ").await?;
    let stock = mesh.workload("stock").await?;
    mesh.programmed("stock").await?;
    let sent = publish(&stock.sidecar, "events/stock", &[], "{}").await?;
    ensure!(sent.status == 503, "{sent:?}");
    Ok(())
}

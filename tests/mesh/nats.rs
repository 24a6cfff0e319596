//! A real NATS with JetStream in the mesh, for events.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::{brokers, wait_until};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Who may use it.
const USER: &str = "mesh";
pub(crate) const PASSWORD: &str = "s3cret";

/// A NATS in the mesh, behind the Service `nats`, which knows all that it has confirmed when it comes back.
pub(crate) struct Nats {
    address: SocketAddr,
    server: Option<Child>,
    folder: TempDir,
    password: String,
    _sidecar: Sidecar,
}

/// A connection past the mesh.
pub(crate) struct Direct {
    stream: BufReader<TcpStream>,
    next: u32,
}

impl Nats {
    pub(crate) async fn start(mesh: &Mesh) -> Result<Self> {
        // A place for it, and a sidecar beside it.
        let (listener, sidecar) = mesh.listener("nats").await?;
        let mut nats = Self {
            address: listener.local_addr()?,
            server: None,
            folder: tempfile::tempdir()?,
            password: PASSWORD.to_owned(),
            _sidecar: sidecar,
        };
        drop(listener);
        nats.run().await?;
        Ok(nats)
    }

    /// Writes what it goes by.
    fn configured(&self) -> Result<std::path::PathBuf> {
        let (host, port) = (self.address.ip(), self.address.port());
        let (folder, password) = (self.folder.path().display(), &self.password);
        let config = format!(
            "host: {host}\nport: {port}\n\
             jetstream {{ store_dir: \"{folder}\", sync_interval: always }}\n\
             authorization {{ user: {USER}, password: {password} }}\n"
        );
        let path = self.folder.path().join("nats.conf");
        std::fs::write(&path, config)?;
        Ok(path)
    }

    /// Has it ask for another password from now on, also of whoever is connected.
    pub(crate) async fn asks_for(&mut self, password: &str) -> Result<()> {
        password.clone_into(&mut self.password);
        self.configured()?;
        self.signal(Signal::SIGHUP)?;
        wait_until("it asks for the new one", SOON, async || {
            let mut direct = self.direct().await?;
            direct.request("$JS.API.INFO", "").await.map(drop)
        })
        .await
    }

    /// Starts it, or starts it again.
    pub(crate) async fn run(&mut self) -> Result<()> {
        let path = self.configured()?;
        let log = std::fs::File::create(self.folder.path().join("log"))?;
        let mut command = Command::new(brokers::nats_server());
        command.arg("-c").arg(path).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.server = Some(command.spawn()?);
        wait_until("NATS answers", SOON, async || {
            let mut direct = self.direct().await?;
            direct.request("$JS.API.INFO", "").await.map(drop)
        })
        .await
    }

    /// Where it is, past the mesh.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let server = self.server.as_ref().context("it does not run")?;
        Ok(kill(Pid::from_raw(server.id().try_into()?), signal)?)
    }

    pub(crate) async fn direct(&self) -> Result<Direct> {
        let stream = TcpStream::connect(self.address).await?;
        let mut direct = Direct {
            stream: BufReader::new(stream),
            next: 0,
        };
        let mut info = String::new();
        direct.stream.read_line(&mut info).await?;
        ensure!(info.starts_with("INFO "), "{info}");
        let password = &self.password;
        let connect = format!(
            "CONNECT {{\"user\":\"{USER}\",\"pass\":\"{password}\",\"headers\":true,\"verbose\":false}}\r\n"
        );
        direct.stream.write_all(connect.as_bytes()).await?;
        Ok(direct)
    }

    /// How many messages a topic holds.
    pub(crate) async fn held(&self, topic: &str) -> Result<usize> {
        let mut direct = self.direct().await?;
        let Some((_, state)) = direct.stream(topic).await? else {
            return Ok(0);
        };
        let messages = state["messages"].as_u64().context("a state")?;
        Ok(messages.try_into()?)
    }

    /// How much of a topic its groups have in hand: delivered, and not acknowledged.
    pub(crate) async fn in_hand(&self, topic: &str) -> Result<u64> {
        self.counted(topic, &["num_ack_pending"]).await
    }

    /// How much of a topic its groups are not done with.
    pub(crate) async fn undone(&self, topic: &str) -> Result<u64> {
        let counts = ["num_pending", "num_ack_pending"];
        self.counted(topic, &counts).await
    }

    async fn counted(&self, topic: &str, counts: &[&str]) -> Result<u64> {
        let mut direct = self.direct().await?;
        let (stream, _) = direct.stream(topic).await?.context("no stream")?;
        let asked = format!("$JS.API.CONSUMER.LIST.{stream}");
        let groups = direct.request(&asked, "").await?;
        let groups = groups["consumers"].as_array().context("its groups")?;
        let all = groups.iter();
        let all = all.flat_map(|group| counts.iter().map(|count| group[*count].as_u64()));
        all.map(|count| count.context("a count")).sum()
    }

    /// What a topic holds, oldest first: headers, and data.
    pub(crate) async fn messages(&self, topic: &str) -> Result<Vec<(String, String)>> {
        use base64::Engine as _;
        let mut direct = self.direct().await?;
        let Some((stream, state)) = direct.stream(topic).await? else {
            return Ok(Vec::new());
        };
        let last = state["last_seq"].as_u64().context("a state")?;
        let mut messages = Vec::new();
        for place in 1..=last {
            let asked = format!("{{\"seq\":{place}}}");
            let answer = direct
                .request(&format!("$JS.API.STREAM.MSG.GET.{stream}"), &asked)
                .await?;
            let text = |field: &str| {
                let text = answer["message"][field].as_str().unwrap_or_default();
                let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
                anyhow::Ok(String::from_utf8(bytes)?)
            };
            if answer["message"].is_object() {
                messages.push((text("hdrs")?, text("data")?));
            }
        }
        Ok(messages)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Direct {
    /// Asks, and reads the answer as JSON.
    pub(crate) async fn request(&mut self, subject: &str, body: &str) -> Result<Value> {
        self.next += 1;
        let (inbox, number) = (format!("_INBOX.test.{}", self.next), self.next);
        let text = format!(
            "SUB {inbox} {number}\r\nPUB {subject} {inbox} {}\r\n{body}\r\n",
            body.len()
        );
        self.stream.write_all(text.as_bytes()).await?;
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "it ended");
            let line = line.trim_end();
            let mut words = line.split(' ');
            match words.next() {
                Some("PING") => self.stream.write_all(b"PONG\r\n").await?,
                Some("MSG" | "HMSG") => {
                    let all: usize = words.next_back().context("a length")?.parse()?;
                    let mut data = vec![0; all + 2];
                    self.stream.read_exact(&mut data).await?;
                    let text = String::from_utf8(data)?;
                    let text = text.trim_end();
                    if line.starts_with("HMSG") {
                        bail!("{text}");
                    }
                    return Ok(serde_json::from_str(text)?);
                }
                Some("-ERR") => bail!("{line}"),
                _ => {}
            }
        }
    }

    /// The stream that holds a topic, and its state; none where nothing holds it.
    async fn stream(&mut self, topic: &str) -> Result<Option<(String, Value)>> {
        let asked = format!("{{\"subject\":\"{topic}\"}}");
        let names = self.request("$JS.API.STREAM.NAMES", &asked).await?;
        let Some(stream) = names["streams"][0].as_str() else {
            return Ok(None);
        };
        let info = format!("$JS.API.STREAM.INFO.{stream}");
        let mut info = self.request(&info, "").await?;
        Ok(Some((stream.to_owned(), info["state"].take())))
    }

    /// Publishes with headers, as JetStream confirms it.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<()> {
        self.next += 1;
        let (inbox, number) = (format!("_INBOX.test.{}", self.next), self.next);
        let lines = headers.iter();
        let lines: String = lines
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!("NATS/1.0\r\n{lines}\r\n");
        let text = format!(
            "SUB {inbox} {number}\r\nHPUB {topic} {inbox} {} {}\r\n{head}{body}\r\n",
            head.len(),
            head.len() + body.len()
        );
        self.stream.write_all(text.as_bytes()).await?;
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "it ended");
            match line.split(' ').next() {
                Some("PING\r\n") => self.stream.write_all(b"PONG\r\n").await?,
                Some("MSG") => {
                    let mut confirmed = String::new();
                    self.stream.read_line(&mut confirmed).await?;
                    ensure!(confirmed.contains("\"seq\""), "{confirmed}");
                    return Ok(());
                }
                Some("HMSG" | "-ERR") => bail!("{line}"),
                _ => {}
            }
        }
    }
}

/// The Service that it is behind, and the broker `events`.
pub(crate) fn documents() -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: nats, namespace: shop }}\n\
         spec: {{ selector: {{ app: nats }}, ports: [{{ name: tcp-nats, port: 4222, targetPort: 8080 }}] }}\n\
         ---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: nats\n  namespace: shop\n  \
         labels: {{ meshwright.dev/broker: events }}\n\
         stringData: {{ url: \"nats://nats:4222\", username: {USER}, password: {PASSWORD} }}\n"
    )
}

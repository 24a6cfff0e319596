//! Callers in a pod's network, who say more than its own program can: bodies, headers, and answers that go on.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tests::client::Answer;
use tests::cluster::{run, wait_until};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::installation::PODS;
use crate::shop::Shop;

/// One who listens, in the network of `web`'s pod.
pub(super) struct Listening {
    curl: Child,
    said: Lines<BufReader<ChildStdout>>,
    /// The last place that it was told.
    pub(super) place: String,
}

/// A curl in the network of a pod of that name.
async fn curl(shop: &Shop, caller: &str, url: &str) -> Result<Command> {
    let host = url.split('/').nth(2).context("a URL with a host")?;
    let service = shop.of_kind("service", host).await?;
    let address = service["spec"]["clusterIP"].as_str();
    // Names are known in pods, and not where this program is.
    let known = format!("{host}:80:{}", address.context("an address")?);
    let pod = shop.pod(caller).await?;
    let mut curl = shop
        .cluster
        .command_in_pod(&shop.namespace, &pod, caller, "curl")
        .await?;
    curl.args(["--silent", "--show-error", "--noproxy", "*"]);
    curl.args(["--resolve", &known, url]);
    Ok(curl)
}

/// What is answered to a request with these headers, and with a body if there is one.
pub(super) async fn asks(
    shop: &Shop,
    caller: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Result<Answer> {
    let mut curl = curl(shop, caller, url).await?;
    curl.arg("--include");
    for (name, value) in headers {
        curl.args(["--header", &format!("{name}: {value}")]);
    }
    if body.is_some() {
        curl.args(["--data-binary", "@-"]);
    }
    let said = run(&mut curl, body.unwrap_or_default()).await?;
    let (head, body) = said.split_once("\r\n\r\n").context("no head")?;
    let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = line.split(' ').nth(1).context("no status")?;
    let mut headers = HeaderMap::new();
    for field in fields.split("\r\n") {
        let (name, value) = field.split_once(": ").context("a header")?;
        headers.append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    Ok(Answer {
        status: status.parse()?,
        headers,
        body: body.to_owned(),
    })
}

// === impl Listening ===

impl Listening {
    /// Waits until it begins: behind that place, or with what is new.
    pub(super) async fn begins(shop: &Shop, behind: Option<&str>) -> Result<Self> {
        wait_until("it begins to listen", PODS, async || {
            let mut curl = curl(shop, "web", "http://orders/live").await?;
            curl.args(["--no-buffer", "--fail"]);
            if let Some(place) = behind {
                curl.args(["--header", &format!("last-event-id: {place}")]);
            }
            curl.stdout(Stdio::piped()).kill_on_drop(true);
            let mut curl = curl.spawn()?;
            let said = BufReader::new(curl.stdout.take().context("a pipe")?).lines();
            let place = String::new();
            let mut listening = Self { curl, said, place };
            // It is told its place before the first event.
            while listening.place.is_empty() {
                let line = listening.line().await?.context("it was refused")?;
                ensure!(!line.starts_with("data: "), "{line}");
            }
            Ok(listening)
        })
        .await
    }

    async fn line(&mut self) -> Result<Option<String>> {
        let line = timeout(PODS, self.said.next_line())
            .await
            .context("silence")??;
        if let Some(place) = line.as_deref().and_then(|line| line.strip_prefix("id: ")) {
            place.clone_into(&mut self.place);
        }
        Ok(line)
    }

    /// The id of the next event; none when the stream has ended.
    pub(super) async fn hears(&mut self) -> Result<Option<String>> {
        while let Some(line) = self.line().await? {
            if let Some(event) = line.strip_prefix("data: ") {
                let event: Value = serde_json::from_str(event)?;
                return Ok(Some(event["id"].as_str().context("an id")?.to_owned()));
            }
        }
        self.curl.wait().await?;
        Ok(None)
    }

    /// Hears of these, in this order, and of nothing between them.
    pub(super) async fn hears_of(&mut self, ids: &[&str]) -> Result<()> {
        for id in ids {
            let heard = self.hears().await?;
            ensure!(heard.as_deref() == Some(*id), "{heard:?} and not {id}");
        }
        Ok(())
    }
}

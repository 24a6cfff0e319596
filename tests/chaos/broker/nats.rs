//! NATS, with JetStream.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, ConnectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{PASSWORD, USER};
use crate::history::Letter;

pub(super) fn configure(folder: &Path, address: SocketAddr) -> Result<()> {
    let store = folder.join("store");
    let config = format!(
        "listen: \"{address}\"\n\
         jetstream {{ store_dir: \"{}\", sync_interval: always }}\n\
         authorization {{ user: {USER}, password: {PASSWORD} }}\n",
        store.display()
    );
    Ok(std::fs::write(folder.join("config"), config)?)
}

pub(super) async fn answers(address: SocketAddr) -> Result<()> {
    let client = connect(address).await?;
    ask(&client, "INFO", json!({})).await.map(drop)
}

/// `read` is the place of the last that was read.
pub(super) async fn letters(address: SocketAddr, read: &mut String) -> Result<Vec<Letter>> {
    let client = connect(address).await?;
    let stream = stream(&client, "stock.dlq").await?;
    let info = ask(&client, &format!("STREAM.INFO.{stream}"), json!({})).await?;
    let last = info["state"]["last_seq"].as_u64().context("a state")?;
    let from = read.parse::<u64>().unwrap_or(0) + 1;
    let mut letters = Vec::new();
    for place in from..=last {
        let asked = format!("STREAM.MSG.GET.{stream}");
        let answer = ask(&client, &asked, json!({ "seq": place })).await?;
        let decoded = |field: &str| {
            let text = answer["message"][field].as_str().unwrap_or_default();
            anyhow::Ok(STANDARD.decode(text)?)
        };
        let head = String::from_utf8(decoded("hdrs")?)?;
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value)
        };
        letters.push(super::letter(header, &decoded("data")?)?);
    }
    *read = last.to_string();
    Ok(letters)
}

pub(super) async fn is_done(address: SocketAddr) -> Result<()> {
    let client = connect(address).await?;
    let stream = stream(&client, "stock").await?;
    let list = ask(&client, &format!("CONSUMER.LIST.{stream}"), json!({})).await?;
    let consumers = list["consumers"].as_array().context("no consumers")?;
    ensure!(!consumers.is_empty(), "there is no group");
    for one in consumers {
        let (waiting, open) = (&one["num_pending"], &one["num_ack_pending"]);
        ensure!(
            *waiting == 0 && *open == 0,
            "{waiting} wait, {open} are open"
        );
    }
    Ok(())
}

/// The stream of a topic.
async fn stream(client: &Client, topic: &str) -> Result<String> {
    let names = ask(client, "STREAM.NAMES", json!({ "subject": topic })).await?;
    let name = names["streams"][0].as_str();
    Ok(name
        .with_context(|| format!("nothing holds {topic}"))?
        .to_owned())
}

async fn connect(address: SocketAddr) -> Result<Client> {
    let options = ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned());
    Ok(options.connect(address.to_string()).await?)
}

/// What JetStream answers.
async fn ask(client: &Client, what: &str, body: Value) -> Result<Value> {
    let answer = client.request(format!("$JS.API.{what}"), body.to_string().into());
    let answer: Value = serde_json::from_slice(&answer.await?.payload)?;
    ensure!(answer["error"].is_null(), "{}", answer["error"]);
    Ok(answer)
}

//! RabbitMQ.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::AMQPValue;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use tests::brokers::rabbitmq::Node;

use super::{PASSWORD, USER};
use crate::history::Letter;

/// Where the topics are.
pub(crate) const VIRTUAL_HOST: &str = "shop";

pub(super) fn definitions() -> Value {
    json!({
        "users": [{ "name": USER, "password": PASSWORD, "tags": [] }],
        "vhosts": [{ "name": VIRTUAL_HOST }],
        "permissions": [{
            "user": USER, "vhost": VIRTUAL_HOST, "configure": ".*", "write": ".*", "read": ".*",
        }],
    })
}

pub(super) async fn answers(address: SocketAddr) -> Result<()> {
    connect(address).await.map(drop)
}

/// Takes them out.
pub(super) async fn letters(address: SocketAddr) -> Result<Vec<Letter>> {
    let connection = connect(address).await?;
    let channel = connection.create_channel().await?;
    let mut letters = Vec::new();
    loop {
        let asked = channel.basic_get("stock.dlq".into(), BasicGetOptions::default());
        let Some(message) = asked.await? else {
            // It has heard of all acknowledgements by then.
            connection.close(200, "".into()).await?;
            return Ok(letters);
        };
        let delivery = &message.delivery;
        let table = delivery.properties.headers().as_ref();
        let table = table.context("a dead letter without headers")?.inner();
        let header = |name: &str| match table.get(name) {
            Some(AMQPValue::LongString(text)) => std::str::from_utf8(text.as_bytes()).ok(),
            _ => None,
        };
        letters.push(super::letter(header, &delivery.data)?);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
}

/// That no queue holds anything, but that of dead letters.
pub(super) fn is_done(node: &Node) -> Result<()> {
    let asked = [
        "list_queues",
        "--quiet",
        "--vhost",
        VIRTUAL_HOST,
        "name",
        "messages",
    ];
    let said = tokio::task::block_in_place(|| node.control(&asked));
    let mut lines = said
        .lines()
        .map(|line| line.split_once('\t').unwrap_or((line, "")));
    let of_group = |(name, _): &(&str, &str)| name.starts_with("stock/");
    ensure!(
        lines.clone().any(|line| of_group(&line)),
        "there is no group: {said}"
    );
    let full = lines.find(|line| of_group(line) && line.1 != "0");
    ensure!(full.is_none(), "{full:?}");
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<Connection> {
    let uri = format!("amqp://{USER}:{PASSWORD}@{address}/{VIRTUAL_HOST}");
    let connection = Connection::connect(&uri, ConnectionProperties::default());
    Ok(connection.await?)
}

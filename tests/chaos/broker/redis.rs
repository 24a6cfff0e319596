//! Redis, with its streams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};

use super::PASSWORD;
use crate::history::Letter;

/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

pub(super) fn configure(folder: &Path, address: SocketAddr) -> Result<()> {
    let config = format!(
        "bind {}\nport {}\ndir {}\nsave \"\"\nrequirepass {PASSWORD}\n\
         appendonly yes\nappendfsync always\n",
        address.ip(),
        address.port(),
        folder.display()
    );
    Ok(std::fs::write(folder.join("config"), config)?)
}

pub(super) async fn answers(address: SocketAddr) -> Result<()> {
    let mut connection = connect(address).await?;
    Ok(cmd("PING").query_async::<()>(&mut connection).await?)
}

/// `read` is the place of the last that was read.
pub(super) async fn letters(address: SocketAddr, read: &mut String) -> Result<Vec<Letter>> {
    type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;
    let mut connection = connect(address).await?;
    let from = match read.is_empty() {
        true => "-".to_owned(),
        false => format!("({read}"),
    };
    let mut asked = cmd("XRANGE");
    asked.arg("stock.dlq").arg(from).arg("+");
    let entries: Entries = asked.query_async(&mut connection).await?;
    let mut letters = Vec::new();
    for (place, fields) in &entries {
        let field = |name: &str| {
            let mut fields = fields.iter();
            let (_, value) = fields.find(|(found, _)| found == name)?;
            Some(&**value)
        };
        let text = |name: &str| std::str::from_utf8(field(name)?).ok();
        letters.push(super::letter(text, field("data").unwrap_or_default())?);
        read.clone_from(place);
    }
    Ok(letters)
}

pub(super) async fn is_done(address: SocketAddr) -> Result<()> {
    let mut connection = connect(address).await?;
    let mut asked = cmd("XINFO");
    asked.arg("GROUPS").arg("stock");
    let groups: Vec<HashMap<String, Value>> = asked.query_async(&mut connection).await?;
    ensure!(!groups.is_empty(), "there is no group");
    for one in groups {
        let number = |name: &str| match one.get(name) {
            Some(Value::Int(number)) => Ok(*number),
            other => Err(other.cloned()).ok().context("no number"),
        };
        let (waiting, open) = (number("lag")?, number("pending")?);
        ensure!(waiting == 0 && open == 0, "{waiting} wait, {open} are open");
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://:{PASSWORD}@{address}/"))?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Ok(connection.await?)
}

//! Redis: one connection publishes and acknowledges, another one waits for what comes.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, cmd};
use tokio::sync::Notify;

use super::{Event, GROUP, IN_FLIGHT, Poster, TOPIC};
use crate::broker::PASSWORD;

/// How long a request for entries waits at the broker, milliseconds.
const WAITS: u32 = 1_000;

/// A connection.
#[derive(Clone)]
pub(crate) struct Redis {
    client: Client,
    connection: MultiplexedConnection,
}

/// An entry of a stream: its id, and its fields.
type Entry = (String, Vec<(String, Vec<u8>)>);

// === impl Redis ===

impl Redis {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self> {
        let client = Client::open(format!("redis://:{PASSWORD}@{address}/"))?;
        let connection = open(&client).await?;
        Ok(Self { client, connection })
    }

    pub(super) async fn publish(&self, event: &Event) -> Result<()> {
        let mut command = cmd("XADD");
        command.arg(TOPIC).arg("NOMKSTREAM").arg("*");
        for (name, value) in &event.headers {
            command.arg(name).arg(value);
        }
        command.arg("data").arg(&*event.data);
        let mut connection = self.connection.clone();
        Ok(command.query_async::<()>(&mut connection).await?)
    }

    pub(super) async fn deliver(self, poster: Rc<Poster>) -> Result<()> {
        let mut waiting = open(&self.client).await?;
        let (in_flight, done) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        loop {
            let free = IN_FLIGHT - in_flight.get();
            if free == 0 {
                done.notified().await;
                continue;
            }
            let mut command = cmd("XREADGROUP");
            command.arg("GROUP").arg(GROUP).arg("bare");
            command.arg("COUNT").arg(free).arg("BLOCK").arg(WAITS);
            command.arg("STREAMS").arg(TOPIC).arg(">");
            let read = command.query_async::<Option<Vec<(String, Vec<Entry>)>>>(&mut waiting);
            let entries = read.await?.unwrap_or_default();
            for entry in entries.into_iter().flat_map(|(_, entries)| entries) {
                in_flight.set(in_flight.get() + 1);
                let (connection, poster) = (self.connection.clone(), poster.clone());
                let (in_flight, done) = (in_flight.clone(), done.clone());
                tokio::task::spawn_local(async move {
                    let carried = carry(connection, &poster, entry).await;
                    in_flight.set(in_flight.get() - 1);
                    done.notify_one();
                    carried
                });
            }
        }
    }
}

async fn open(client: &Client) -> Result<MultiplexedConnection> {
    // One that waits at the broker is answered late.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let opened = client.get_multiplexed_async_connection_with_config(&config);
    Ok(opened.await?)
}

/// Posts an entry, and acknowledges it.
async fn carry(
    mut connection: MultiplexedConnection,
    poster: &Poster,
    (id, mut fields): Entry,
) -> Result<()> {
    let data = fields.iter().position(|(name, _)| name == "data");
    let data = data.map(|place| fields.swap_remove(place).1);
    let headers = fields.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_slice()));
    poster
        .post(headers, Bytes::from(data.unwrap_or_default()))
        .await?;
    let mut command = cmd("XACK");
    command.arg(TOPIC).arg(GROUP).arg(id);
    Ok(command.query_async::<()>(&mut connection).await?)
}

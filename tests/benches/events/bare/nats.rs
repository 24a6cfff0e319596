//! NATS, with JetStream, which is asked in JSON here as well.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::{ConnectOptions, HeaderMap, Message};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Event, GROUP, IN_FLIGHT, Poster, TOPIC};
use crate::broker::{PASSWORD, USER};

/// How long a request for messages waits at the broker.
const WAITS: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Clone)]
pub(crate) struct Nats(async_nats::Client);

// === impl Nats ===

impl Nats {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self> {
        let options = ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned());
        Ok(Self(options.connect(address.to_string()).await?))
    }

    pub(super) async fn publish(&self, event: &Event) -> Result<()> {
        let mut headers = HeaderMap::new();
        for (name, value) in &event.headers {
            headers.insert(*name, value.as_str());
        }
        headers.insert("Nats-Msg-Id", event.header("ce-id"));
        let asked = self
            .0
            .request_with_headers(TOPIC, headers, event.data.clone());
        let held: Value = serde_json::from_slice(&asked.await?.payload)?;
        ensure!(held["error"].is_null(), "{held}");
        Ok(())
    }

    pub(super) async fn deliver(self, poster: Rc<Poster>) -> Result<()> {
        let streams = self.ask("STREAM.NAMES", json!({ "subject": TOPIC }));
        let streams = streams.await?;
        let stream = streams["streams"][0].as_str().context("no stream")?;
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{GROUP}");
        let inbox = self.0.new_inbox();
        let mut coming = self.0.subscribe(inbox.clone()).await?;
        let (in_flight, done) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        let mut asked_for = 0;
        loop {
            let free = IN_FLIGHT - in_flight.get() - asked_for;
            // As its clients do: not one by one.
            if free >= IN_FLIGHT / 2 {
                let body = json!({ "batch": free, "expires": WAITS.as_nanos() as u64 });
                let body = body.to_string().into();
                self.0
                    .publish_with_reply(next.clone(), inbox.clone(), body)
                    .await?;
                asked_for += free;
            }
            let message = tokio::select! {
                message = coming.next() => message.context("the connection ended")?,
                () = done.notified() => continue,
            };
            if message.status.is_some() {
                asked_for = 0;
                continue;
            }
            asked_for -= 1;
            in_flight.set(in_flight.get() + 1);
            let (client, poster) = (self.0.clone(), poster.clone());
            let (in_flight, done) = (in_flight.clone(), done.clone());
            tokio::task::spawn_local(async move {
                let carried = carry(&client, &poster, message).await;
                in_flight.set(in_flight.get() - 1);
                done.notify_one();
                carried
            });
        }
    }

    /// What JetStream answers.
    async fn ask(&self, what: &str, body: Value) -> Result<Value> {
        let asked = self
            .0
            .request(format!("$JS.API.{what}"), body.to_string().into());
        Ok(serde_json::from_slice(&asked.await?.payload)?)
    }
}

/// Posts a message, and acknowledges it; returns once the broker has heard that.
async fn carry(client: &async_nats::Client, poster: &Poster, message: Message) -> Result<()> {
    let reply = message.reply.context("a message that is not JetStream's")?;
    let headers = message.headers.unwrap_or_default();
    let all = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| (name, value.as_str().as_bytes()))
    });
    poster.post(all, message.payload).await?;
    client.request(reply, "+ACK".into()).await?;
    Ok(())
}

//! RabbitMQ: one channel publishes, with as many confirmations under way as there are events.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::{Event, GROUP, IN_FLIGHT, Poster, TOPIC};
use crate::broker::{PASSWORD, USER, VIRTUAL_HOST};

/// A connection with a channel.
#[derive(Clone)]
pub(crate) struct RabbitMq {
    channel: Channel,
    _connection: Rc<Connection>,
}

// === impl RabbitMq ===

impl RabbitMq {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self> {
        let uri = format!("amqp://{USER}:{PASSWORD}@{address}/{VIRTUAL_HOST}");
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            channel,
            _connection: Rc::new(connection),
        })
    }

    pub(super) async fn publish(&self, event: &Event) -> Result<()> {
        let mut table = FieldTable::default();
        for (name, value) in &event.headers {
            table.insert((*name).into(), AMQPValue::LongString(value.as_str().into()));
        }
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(event.header("ce-id").into())
            .with_headers(table);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (exchange, key) = (TOPIC.into(), TOPIC.into());
        let sent = self
            .channel
            .basic_publish(exchange, key, options, &event.data, properties);
        let confirmed = sent.await?.await?;
        ensure!(confirmed == Confirmation::Ack(None), "{confirmed:?}");
        Ok(())
    }

    pub(super) async fn deliver(self, poster: Rc<Poster>) -> Result<()> {
        let (prefetch, qos) = (u16::try_from(IN_FLIGHT)?, BasicQosOptions::default());
        self.channel.basic_qos(prefetch, qos).await?;
        let queue = format!("{TOPIC}/{GROUP}").as_str().into();
        let options = BasicConsumeOptions::default();
        let consumer =
            self.channel
                .basic_consume(queue, "bare".into(), options, FieldTable::default());
        let mut coming = consumer.await?;
        loop {
            let delivery = coming.next().await.context("the channel ended")??;
            let poster = poster.clone();
            tokio::task::spawn_local(async move { carry(&poster, delivery).await });
        }
    }
}

/// Posts a message, and acknowledges it.
async fn carry(poster: &Poster, delivery: Delivery) -> Result<()> {
    let properties = &delivery.properties;
    let entries = properties.headers().iter().flatten();
    let entries = entries.filter_map(|(name, value)| match value {
        AMQPValue::LongString(value) => Some((name.as_str(), value.as_bytes())),
        _ => None,
    });
    let media_type = properties.content_type().as_ref();
    let media_type = media_type.map(|it| ("content-type", it.as_str().as_bytes()));
    let headers = entries.chain(media_type);
    poster.post(headers, Bytes::from(delivery.data)).await?;
    delivery.acker.ack(BasicAckOptions::default()).await?;
    Ok(())
}

//! Events on their way to a broker: each is held by it, or nobody waits for that.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::broker::{Broker, Message, Unpublished};
use super::super::cloud_event::{Event, Malformed};
use super::id::known_by;
use super::{error, refused};
use crate::config;
use crate::config::publish::Publishing;
use crate::proxy::Proxy;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::{Error, Reason};
use crate::telemetry::metrics::events::Published;

/// How long a broker may take to confirm an event.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many events of a batch are unconfirmed at once.
const UNDER_WAY: usize = 64;

/// How the events of a request get to a broker.
pub(super) enum Way<'r> {
    /// Whoever sent them is answered when it has confirmed them.
    Waited(&'r Rc<Proxy>, &'r Publishing, Rc<dyn Broker>),
    /// Whoever sent them is answered before.
    Unwaited(&'r Rc<Proxy>, &'r Arc<Publishing>),
}

/// What names an event.
#[derive(Serialize)]
struct Named<'e> {
    id: Option<&'e str>,
    source: Option<&'e str>,
}

/// Has an event held by a broker. Without an `id` it is one that nobody has published before, nor will again.
pub(super) async fn hold(
    px: &Proxy,
    broker: &dyn Broker,
    (named, topic): (&config::broker::Broker, &Arc<str>),
    (event, id): (&Event, Option<&str>),
) -> Result<(), Unpublished> {
    let (headers, data) = event.to_message();
    let held = broker.publish(topic, id, Message { headers, data }, PATIENCE);
    let held = held.await;
    px.metrics.all().events.published(
        named,
        topic,
        match &held {
            Ok(false) => Published::Held,
            Ok(true) => Published::Duplicate,
            Err(
                Unpublished::UnknownTopic | Unpublished::TooLarge { .. } | Unpublished::Refused(_),
            ) => Published::Refused,
            Err(Unpublished::Unconfirmed(_) | Unpublished::Away) => Published::Unconfirmed,
        },
    );
    held.map(drop)
}

// === impl Way ===

impl<'r> Way<'r> {
    /// As the rule says.
    ///
    /// # Errors
    /// `broker_unavailable`, for those who wait.
    pub(super) async fn of(px: &'r Rc<Proxy>, to: &'r Arc<Publishing>) -> Result<Self, Error> {
        if to.unwaited {
            return Ok(Self::Unwaited(px, to));
        }
        let broker = px.brokers.at(px, &to.broker).await;
        let away = |why: crate::events::broker::Unsubscribed| {
            Error::new(Reason::BrokerUnavailable, why.to_string())
        };
        Ok(Self::Waited(px, to, broker.map_err(away)?))
    }

    fn to(&self) -> &Publishing {
        match self {
            Self::Waited(_, to, _) => to,
            Self::Unwaited(_, to) => to,
        }
    }

    fn px(&self) -> &Proxy {
        match self {
            Self::Waited(px, ..) | Self::Unwaited(px, _) => px,
        }
    }

    async fn give(&self, event: Event, id: Option<String>) -> Result<(), Error> {
        match self {
            Self::Waited(px, to, broker) => {
                let at = (&*to.broker, &to.topic);
                let held = hold(px, &**broker, at, (&event, id.as_deref()));
                held.await.map_err(|why| error(to, why))
            }
            Self::Unwaited(px, to) => {
                px.publishing.unwaited.publish(px, to, (event, id));
                Ok(())
            }
        }
    }

    /// Publishes one event.
    ///
    /// # Errors
    /// That it is not held, for those who wait.
    pub(super) async fn one(
        &self,
        event: Event,
        id: Option<String>,
    ) -> Result<Response<ResponseBody>, Error> {
        let told = Named::of(&event).written();
        self.give(event, id).await?;
        Ok(answered(StatusCode::ACCEPTED, told))
    }

    /// Publishes a batch: each event for itself, so that one that can't be published keeps no other.
    ///
    /// # Errors
    /// That none of them is held.
    pub(super) async fn many(
        &self,
        events: impl Iterator<Item = Result<Event, Malformed>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let publishing = events.map(async |event| match event {
            Ok(event) => {
                let told = json!(Named::of(&event));
                let id = known_by(&self.to().topic, &event, &[]);
                (Some(told), self.give(event, Some(id)).await)
            }
            Err(why) => (None, Err(refused(self.to(), &self.px().metrics, &why))),
        });
        // In the order of the batch, as far as a broker keeps it: each is begun when it is its turn.
        let mut all = futures::stream::iter(publishing).buffered(UNDER_WAY);
        let (mut accepted, mut told, mut first) = (0_usize, Vec::new(), None);
        while let Some((event, held)) = all.next().await {
            let mut entry = event.unwrap_or_else(|| json!({}));
            let status = match held {
                Ok(()) => {
                    accepted += 1;
                    StatusCode::ACCEPTED
                }
                Err(error) => {
                    entry["reason"] = error.reason.name().into();
                    if let Some(said) = error.said() {
                        entry["detail"] = said.into();
                    }
                    let status = error.status();
                    // What may pass is told before what never will: then all of it is sent again.
                    let passes = status == StatusCode::SERVICE_UNAVAILABLE;
                    match &first {
                        Some(_) if !passes => {}
                        _ => first = Some(error),
                    }
                    status
                }
            };
            entry["status"] = status.as_u16().into();
            told.push(entry);
        }
        match first {
            Some(error) if accepted == 0 => Err(error),
            first => {
                let status = match first {
                    None => StatusCode::ACCEPTED,
                    Some(_) => StatusCode::MULTI_STATUS,
                };
                let rejected = told.len() - accepted;
                let told = json!({ "accepted": accepted, "rejected": rejected, "events": told });
                Ok(answer(status, &told))
            }
        }
    }
}

// === impl Named ===

impl<'e> Named<'e> {
    fn of(event: &'e Event) -> Self {
        Self {
            id: event.attribute("id"),
            source: event.attribute("source"),
        }
    }

    fn written(&self) -> Bytes {
        // Texts: there is nothing that JSON can't say.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

pub(super) fn answer(status: StatusCode, told: &Value) -> Response<ResponseBody> {
    answered(status, told.to_string().into())
}

/// An answer that is this JSON.
fn answered(status: StatusCode, told: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::mesh(told));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

//! A body that is published record by record while it comes.
//!
//! No more of it is held than the records that a broker has not confirmed yet, so many and so long that it is kept
//! busy, and what has come of the next one: whoever sends faster waits. Each record becomes an event around it, whose
//! id is the upload's key and the record's number. Sent again with its key, what is held already is told apart by the
//! broker as long as it remembers; and whoever is told how far it came need not send what came before a second time.

mod attempt;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesOrdered, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::attempt::{Attempt, Outcome, Settled};
use super::super::broker::Broker;
use super::super::cloud_event::{Event, Malformed};
use super::super::received::MALFORMED;
use super::super::split::{Broken, Record, Splitter, Wrong};
use super::hold::answer;
use super::id::{digest, new_id};
use super::room::Share;
use super::{attributes, key, refused, said_length, too_large, traced};
use crate::config::publish::{Publishing, Split};
use crate::policy::idempotency::key::Principal;
use crate::proxy::Proxy;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reason};
use crate::proxy::idle;
use crate::telemetry::metrics::events::Published;

/// How many records are unconfirmed at once, and how many bytes they have together unless one is longer.
const UNDER_WAY: usize = 256;
const BYTES: usize = 4 * 1024 * 1024;
/// What a record takes beside its own bytes.
const BESIDE: usize = 512;
/// How many of those that failed are told one by one.
const TOLD: usize = 20;

const RESUME_FROM: HeaderName = HeaderName::from_static("resume-from");

/// What is uploaded, and how far it is.
struct Upload<'u> {
    px: &'u Rc<Proxy>,
    to: &'u Arc<Publishing>,
    split: &'u Split,
    broker: Rc<dyn Broker>,
    headers: &'u HeaderMap,
    /// What its events' ids begin with.
    key: String,
    /// Who sends it, as far as duplicates are concerned.
    sender: Bytes,
    /// The first record that is published; those before it were, at another time.
    from: u64,
    /// How many records have come.
    came: u64,
    /// How many of these were none. What a broker finds too long is known later.
    wrong: u64,
    under_way: FuturesOrdered<LocalBoxFuture<'u, Settled>>,
    /// How many bytes these have.
    bytes: usize,
    share: Share,
    report: Report,
}

/// What is told in the end.
#[derive(Default)]
struct Report {
    accepted: u64,
    rejected: u64,
    failed: Vec<Value>,
    /// The first record that is neither held nor dealt with, and why.
    stopped: Option<(u64, Error)>,
}

/// Publishes a body's records, and answers with a report.
///
/// # Errors
/// Those of [`super::carry`]; the report is in the problem document.
pub(super) async fn carry(
    px: &Rc<Proxy>,
    cx: &mut Context,
    (to, split, sender): (&Arc<Publishing>, &Split, Option<Principal>),
    head: &Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    of_records(&head.headers)?;
    if said_length(&head.headers).is_some_and(|length| length > to.max_bytes) {
        return Err(too_large(to));
    }
    let key = key(&head.headers)?;
    let from = resumes_from(&head.headers)?;
    if from > 1 && key.is_none() {
        let said = "resume-from: it is sent with the idempotency-key of the upload that it resumes";
        return Err(Error::new(Reason::BadRequest, said).saying(said));
    }
    let broker = px.brokers.at(px, &to.broker).await;
    let broker = broker.map_err(|why| Error::new(Reason::BrokerUnavailable, why.to_string()))?;
    let upload = Upload {
        px,
        to,
        split,
        broker,
        headers: &head.headers,
        key: key.unwrap_or_else(|| new_id(SystemTime::now())),
        sender: Bytes::copy_from_slice(sender.as_ref().map_or(&[], Principal::as_bytes)),
        from,
        came: 0,
        wrong: 0,
        under_way: FuturesOrdered::new(),
        bytes: 0,
        share: px.publishing.share(),
        report: Report::default(),
    };
    // The first one tells whether the key can be part of an id at all.
    let first = upload.event(0, Bytes::new());
    first.map_err(|why| refused(to, &px.metrics, &why))?;
    upload.carry_out(cx, body).await
}

/// Refuses what says that it is something else than records.
fn of_records(headers: &HeaderMap) -> Result<(), Error> {
    let media_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let begins = |with: &[u8]| {
        let begin = media_type.and_then(|media_type| media_type.get(..with.len()));
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(with))
    };
    let said = if headers.contains_key("ce-specversion") || begins(b"application/cloudevents") {
        "content-type: what is sent here is split into records, and an event is none; send events where no split is written"
    } else if begins(b"multipart/") {
        "content-type: what is sent here is split into records, and a form is none; send the file itself as the body"
    } else {
        return Ok(());
    };
    Err(Error::new(Reason::EventUnsupported, said).saying(said))
}

/// The first record that is to be published.
fn resumes_from(headers: &HeaderMap) -> Result<u64, Error> {
    let Some(from) = headers.get(RESUME_FROM) else {
        return Ok(1);
    };
    let from = from.to_str().ok().and_then(|from| from.parse::<u64>().ok());
    from.filter(|from| *from > 0).ok_or_else(|| {
        let said = "resume-from: it is the number of a record, from 1; send what resumeFrom of the answer said";
        Error::new(Reason::BadRequest, said).saying(said)
    })
}

// === impl Upload ===

impl<'u> Upload<'u> {
    async fn carry_out(
        mut self,
        cx: &mut Context,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Error> {
        let read = self.read(cx, &mut body).await;
        if let Err(why) = read {
            // Behind all that came before it, of which some may still be unconfirmed.
            let number = self.came + 1;
            self.settle_all().await;
            self.report.stops(number, why);
        } else {
            self.settle_all().await;
        }
        self.answer()
    }

    /// Publishes what comes, until all has come or more may not be.
    async fn read(&mut self, cx: &mut Context, body: &mut RequestBody) -> Result<(), Error> {
        let mut splitter = Splitter::new(&self.split.format, self.split.max_record_bytes);
        let (limit, sent) = (cx.idle_limit(), cx.sent());
        let mut bytes = 0;
        loop {
            let frame = idle::bound(limit, || sent.get(), body.frame());
            let frame = self.meanwhile(frame).await?;
            let Some(frame) = frame.map_err(Error::from)? else {
                break;
            };
            let frame = frame.map_err(Error::from)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            bytes += data.len() as u64;
            if bytes > self.to.max_bytes {
                return Err(too_large(self.to));
            }
            let mut input: &[u8] = data;
            while let Some(record) = splitter.next(&mut input).map_err(broken)? {
                self.begin(record, splitter.held()).await?;
            }
            self.make_room(0, splitter.held()).await?;
        }
        if let Some(record) = splitter.end().map_err(broken)? {
            self.begin(record, splitter.held()).await?;
        }
        Ok(())
    }

    /// Waits for something, and for what is under way beside it.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Error> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                Some(settled) = self.under_way.next() => self.settled(settled),
            }
            self.goes_on()?;
        }
    }

    /// Begins to publish a record; waits when too many are under way.
    async fn begin(&mut self, record: Record, held: usize) -> Result<(), Error> {
        let number = self.came + 1;
        if number < self.from {
            self.came = number;
            return Ok(());
        }
        let Record { data, wrong } = record;
        // What stands in it may be nothing that an attribute can be.
        let made = wrong.map_or_else(
            || {
                let event = self.event(number, data.clone());
                event.map_err(|why| Wrong::Malformed(why.to_string()))
            },
            Err,
        );
        if let Err(why) = &made {
            if self.wrong == self.split.max_failed {
                let why = why.to_string();
                let events = &self.px.metrics.all().events;
                events.published(&self.to.broker, &self.to.topic, Published::Malformed);
                return Err(unbearable(number, Reason::EventMalformed, &why));
            }
            self.wrong += 1;
        }
        let bytes = data.len() + BESIDE;
        self.make_room(bytes, held).await?;
        self.came = number;
        self.bytes += bytes;
        let (px, to, split) = (self.px, self.to, self.split);
        let attempt = Attempt {
            px,
            to,
            split,
            broker: self.broker.clone(),
            number,
        };
        let content = (self.sender.clone(), digest(&[&data]));
        let settling: LocalBoxFuture<'u, Settled> = match made {
            Ok(event) => Box::pin(async move { attempt.hold(event, content, bytes).await }),
            Err(why) => {
                let letter = self.letter(number, data)?;
                let events = &px.metrics.all().events;
                events.published(&to.broker, &to.topic, Published::Malformed);
                let long = matches!(why, Wrong::Long(_));
                Box::pin(async move {
                    let failed = (Reason::EventMalformed, why.to_string(), long);
                    let outcome = attempt.failed(letter, content, failed).await;
                    Settled {
                        number,
                        bytes,
                        outcome,
                    }
                })
            }
        };
        self.under_way.push_back(settling);
        Ok(())
    }

    /// Waits until there is room for so many bytes, beside so many that are held of the body.
    async fn make_room(&mut self, bytes: usize, held: usize) -> Result<(), Error> {
        loop {
            let full = self.under_way.len() >= UNDER_WAY || self.bytes + bytes > BYTES;
            let share = match full && !self.under_way.is_empty() {
                true => None,
                false => Some(self.share.hold(self.bytes + bytes + held)),
            };
            match share {
                Some(Ok(())) => return Ok(()),
                Some(Err(overloaded)) if self.under_way.is_empty() => return Err(overloaded),
                _ => {}
            }
            if let Some(settled) = self.under_way.next().await {
                self.settled(settled);
            }
            self.goes_on()?;
        }
    }

    async fn settle_all(&mut self) {
        while let Some(settled) = self.under_way.next().await {
            self.settled(settled);
        }
    }

    /// Notes what became of a record; they come in the order in which they were begun.
    fn settled(&mut self, settled: Settled) {
        self.bytes -= settled.bytes;
        let report = &mut self.report;
        match settled.outcome {
            Outcome::Held => report.accepted += 1,
            Outcome::Failed(reason, why) => {
                if report.rejected >= self.split.max_failed {
                    report.stops(settled.number, unbearable(settled.number, reason, &why));
                    return;
                }
                report.rejected += 1;
                if report.failed.len() < TOLD {
                    report.failed.push(json!({
                        "record": settled.number, "reason": reason.name(), "detail": why,
                    }));
                }
            }
            Outcome::Stopped(why) => report.stops(settled.number, why),
        }
    }

    /// Begins nothing more when something has stopped it.
    fn goes_on(&mut self) -> Result<(), Error> {
        match &self.report.stopped {
            None => Ok(()),
            // Which stays the first.
            Some((_, why)) => Err(Error::new(why.reason, String::new())),
        }
    }

    /// The event around a record.
    fn event(&self, number: u64, data: Bytes) -> Result<Event, Malformed> {
        let id = format!("{}-{number}", self.key);
        let mut event = Event::new(id, &*self.to.event_source, &*self.to.event_type)?;
        event.set("time", Timestamp::now().to_string())?;
        event.set("datacontenttype", self.split.format.media_type())?;
        event.data = data;
        attributes::set(self.to, &mut event, self.headers)?;
        Ok(traced(event, self.headers))
    }

    /// What a record that is none is to those who look at it later.
    fn letter(&self, number: u64, data: Bytes) -> Result<Event, Error> {
        let id = format!("{}-{number}", self.key);
        let made = || {
            let mut event = Event::new(id, &*self.to.event_source, MALFORMED)?;
            event.set("datacontenttype", self.split.format.raw_media_type())?;
            event.set("dlqtopic", &*self.to.topic)?;
            event.set("dlqtime", Timestamp::now().to_string())?;
            event.data = data;
            Ok(traced(event, self.headers))
        };
        made().map_err(|why| refused(self.to, &self.px.metrics, &why))
    }

    fn answer(self) -> Result<Response<ResponseBody>, Error> {
        let Report {
            accepted,
            rejected,
            failed,
            stopped,
        } = self.report;
        let mut told = Map::from_iter([
            ("id".to_owned(), self.key.into()),
            ("accepted".to_owned(), accepted.into()),
            ("rejected".to_owned(), rejected.into()),
            ("failed".to_owned(), failed.into()),
        ]);
        match stopped {
            None => Ok(answer(StatusCode::ACCEPTED, &told.into())),
            Some((number, why)) => {
                told.insert("resumeFrom".to_owned(), number.max(self.from).into());
                Err(why.reporting(told))
            }
        }
    }
}

// === impl Report ===

impl Report {
    fn stops(&mut self, number: u64, why: Error) {
        // In their order: what comes later is not the first.
        self.stopped.get_or_insert((number, why));
    }
}

/// That of a body nothing more can be read.
fn broken(why: Broken) -> Error {
    Error::new(Reason::EventMalformed, why.to_string()).saying(why.to_string())
}

/// One record too many that is none.
fn unbearable(number: u64, reason: Reason, why: &str) -> Error {
    let said = format!("record {number}: {why}");
    Error::new(reason, said.clone()).saying(said)
}

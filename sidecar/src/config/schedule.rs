//! Schedule → [`Schedule`]: when events are due, and what they say.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use wire::cron::{Cron, zone};
use wire::mesh;

use crate::events::cloud_event::Event;

/// When events are due.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// As people write both.
    pub text: String,
    /// How much later than due one may begin.
    pub deadline: Option<Duration>,
    /// What becomes of what is due while something is not done.
    pub overlap: Overlap,
    /// By how much all is later than the expression says.
    pub delay: Duration,
    /// Which form of the object this is.
    pub form: String,
    data: Bytes,
    /// `type` and `source` of events.
    attributes: (String, String),
    /// What their ids begin with.
    object: String,
}

/// What becomes of what is due while something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It is delivered beside it.
    Allow,
    /// It waits.
    Forbid,
    /// It is delivered instead.
    Replace,
}

// === build ===

impl Schedule {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Schedule) -> Result<Self, String> {
        let overlap = match sent.overlap() {
            mesh::Overlap::Allow => Overlap::Allow,
            mesh::Overlap::Forbid => Overlap::Forbid,
            mesh::Overlap::Replace => Overlap::Replace,
            mesh::Overlap::Unspecified => {
                return Err("schedule.overlap: it is not known to this sidecar".to_owned());
            }
        };
        let built = Self {
            cron: Cron::parse(&sent.cron).map_err(|why| format!("schedule.cron: {why}"))?,
            zone: zone(&sent.time_zone, &sent.zone)
                .map_err(|why| format!("schedule.zone: {why}"))?,
            text: format!("{} {}", sent.cron, sent.time_zone),
            deadline: sent.starting_deadline_ms.map(Duration::from_millis),
            overlap,
            delay: Duration::from_millis(sent.delay_ms),
            form: sent.form,
            data: sent.data,
            attributes: (sent.event_type, sent.event_source),
            object: sent.object,
        };
        match built.made(Timestamp::UNIX_EPOCH) {
            Ok(_) => Ok(built),
            Err(why) => Err(format!("schedule: its events are none: {why}")),
        }
    }

    // === request ===

    /// The first time after that one, without the delay.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.cron.next(after, &self.zone)
    }

    /// The last time of those after `after` whose delay is over.
    pub fn newest(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let until = now.checked_sub(self.delay).ok()?;
        self.cron.newest(after, until, &self.zone)
    }

    /// Whether what was due at a time may no longer begin.
    pub fn is_missed(&self, due: Timestamp, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| {
            let last = due.checked_add(self.delay + deadline);
            last.is_ok_and(|last| last < now)
        })
    }

    /// The event that is due at a time: the same, whoever delivers it.
    pub fn event(&self, due: Timestamp) -> Event {
        self.made(due).unwrap_or_else(|_| {
            // It was made when this was built, and only its time is another one.
            let (kind, source) = &self.attributes;
            Event::trusted(&self.id(due), source, kind)
        })
    }

    /// The `id` of the event that is due at a time.
    pub fn id(&self, due: Timestamp) -> String {
        format!("{}-{due}", self.object)
    }

    fn made(&self, due: Timestamp) -> Result<Event, String> {
        let (kind, source) = &self.attributes;
        let made = || {
            let mut event = Event::new(self.id(due), source, kind)?;
            event.set("time", due.to_string())?;
            if !self.data.is_empty() {
                event.set("datacontenttype", "application/json")?;
            }
            event.data = self.data.clone();
            Ok(event)
        };
        made().map_err(|why: crate::events::cloud_event::Malformed| why.to_string())
    }
}

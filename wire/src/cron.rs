//! Cron expressions, and the moments that they name in a time zone.
//!
//! The compiler refuses what is none, and sidecars go by it, so both read them here. Neither a clock nor a
//! database of zones is asked: a zone is the bytes of its TZif, as they were sent.
//!
//! Where clocks are set, the hour decides, as in Vixie's cron. One that is named means an hour of the day: what
//! falls into the time that is skipped is due once at its end, and what happens twice is due the first time. One
//! that begins with `*` means time that passes: nothing is made up for, and what happens twice is due twice.

mod parse;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

pub use parse::InvalidCron;

/// The longest expression, in bytes.
pub const MAX_CRON_BYTES: usize = 128;

/// From one leap day to the next there may be eight years.
const MAX_DAYS: usize = 9 * 366;
/// How often a zone sets its clocks in that time, at most.
const MAX_TRANSITIONS: usize = 100;

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Each a bit, as in all that follow.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// From Sunday, which is 0.
    weekdays: u64,
    /// Whether days of the month are left open, and so for those of the week: of two that are not, either will do.
    any_day: bool,
    any_weekday: bool,
    /// Whether the hour begins with `*`.
    every_hour: bool,
}

/// A span of time in which a zone's clocks are not set.
#[derive(Clone, Copy)]
struct Span {
    /// When it began, and the offset before that; nothing where it goes back for ever.
    since: Option<(Timestamp, Offset)>,
    offset: Offset,
}

/// A zone's rules, as they were sent.
///
/// # Errors
/// That the bytes are no TZif.
pub fn zone(name: &str, tzif: &[u8]) -> Result<TimeZone, String> {
    TimeZone::tzif(name, tzif).map_err(|why| why.to_string())
}

// === impl Cron ===

impl Cron {
    /// Reads an expression: five fields, or six with seconds before them, or one of `@hourly`, `@daily`, `@midnight`,
    /// `@weekly`, `@monthly`, `@yearly` and `@annually`.
    ///
    /// # Errors
    /// A clause that names the field and the remedy.
    pub fn parse(text: &str) -> Result<Cron, InvalidCron> {
        parse::read(text)
    }

    /// The first moment after `after` that it names; nothing when there is none for years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second()).ok()?;
        let floor = match second > after {
            // Before 1970 it is rounded up.
            true => second,
            false => second.checked_add(SignedDuration::from_secs(1)).ok()?,
        };
        let just_after = floor.checked_add(SignedDuration::from_nanos(1)).ok()?;
        let mut before = zone.preceding(just_after);
        let mut span = Span::beginning(zone, before.next().map(|one| one.timestamp()), floor)?;
        let mut ends = zone.following(floor).map(|one| one.timestamp());
        for _ in 0..MAX_TRANSITIONS {
            let end = ends.next();
            let is_before_end = |moment: &Timestamp| end.is_none_or(|end| *moment < end);
            if let Some(due) = self.within(span, floor).filter(is_before_end) {
                return Some(due);
            }
            span = Span::beginning(zone, Some(end?), end?)?;
        }
        None
    }

    /// The last moment that it names of those after `after` and up to `until`.
    pub fn newest(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let due = |after| self.next(after, zone).filter(|due| *due <= until);
        let mut newest = due(after)?;
        // There is none after `none`; what is left between the two is halved.
        let mut none = until;
        while newest < none {
            let half = (none.as_second() - newest.as_second()) / 2;
            let middle = Timestamp::from_second(newest.as_second() + half).ok()?;
            match due(middle.max(newest)) {
                Some(later) => newest = later,
                None if half == 0 => break,
                None => none = middle,
            }
        }
        Some(newest)
    }

    /// The first moment of a span that is not before `floor`, however long the span is.
    fn within(&self, span: Span, floor: Timestamp) -> Option<Timestamp> {
        let mut from = span.offset.to_datetime(floor);
        if let Some((since, before)) = span.since {
            let (old, new) = (before.to_datetime(since), span.offset.to_datetime(since));
            from = from.max(new);
            if !self.every_hour && since >= floor {
                // Skipped: it is due as soon as it is over.
                let skipped = self.civil(old).filter(|due| *due < new);
                if skipped.is_some() {
                    return Some(since);
                }
            }
            if !self.every_hour {
                // It has been this late before.
                from = from.max(old);
            }
        }
        span.offset.to_timestamp(self.civil(from)?).ok()
    }

    /// The first date and time from then on that matches.
    fn civil(&self, from: DateTime) -> Option<DateTime> {
        let (mut date, mut time) = (from.date(), from.time());
        for _ in 0..MAX_DAYS {
            if !has(self.months, date.month()) {
                let last = date.last_of_month();
                (date, time) = (last.tomorrow().ok()?, Time::midnight());
                continue;
            }
            if self.is_on(date)
                && let Some(time) = self.time(time)
            {
                return Some(date.to_datetime(time));
            }
            (date, time) = (date.tomorrow().ok()?, Time::midnight());
        }
        None
    }

    fn is_on(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        }
    }

    /// The first time of a day from then on.
    fn time(&self, from: Time) -> Option<Time> {
        let mut hour = first(self.hours, from.hour())?;
        let mut minute = match hour == from.hour() {
            true => first(self.minutes, from.minute()),
            false => first(self.minutes, 0),
        };
        if (hour, minute) == (from.hour(), Some(from.minute())) {
            match first(self.seconds, from.second()) {
                Some(second) => return Time::new(hour, from.minute(), second, 0).ok(),
                None => minute = first(self.minutes, from.minute() + 1),
            }
        }
        if minute.is_none() {
            hour = first(self.hours, hour + 1)?;
            minute = first(self.minutes, 0);
        }
        Time::new(hour, minute?, first(self.seconds, 0)?, 0).ok()
    }
}

// === impl Span ===

impl Span {
    /// The span that begins then, or the one without a beginning, in which `inside` is.
    fn beginning(zone: &TimeZone, since: Option<Timestamp>, inside: Timestamp) -> Option<Span> {
        let since = match since {
            None => None,
            Some(since) => {
                let just_before = since.checked_sub(SignedDuration::from_nanos(1)).ok()?;
                Some((since, zone.to_offset(just_before)))
            }
        };
        Some(Span {
            since,
            offset: zone.to_offset(inside),
        })
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits.checked_shr(number).unwrap_or(0) & 1 == 1)
}

/// The first number from `from` on that has its bit.
fn first(bits: u64, from: i8) -> Option<i8> {
    let from = u32::try_from(from).ok()?;
    let rest = bits.checked_shr(from)?;
    let found = (rest != 0).then(|| from + rest.trailing_zeros())?;
    i8::try_from(found).ok()
}

#[cfg(test)]
mod tests;

//! What a cron expression says, or what is wrong with it.

use super::{Cron, MAX_CRON_BYTES};

/// Why something is no cron expression: a clause for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCron(String);

/// A field: what it is called, what it may be, and what its numbers are called from the lowest on.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
    /// Whether `?` is written for `*`.
    open: bool,
}

const SECOND: Field = numbers("second", 0, 59);
const MINUTE: Field = numbers("minute", 0, 59);
const HOUR: Field = numbers("hour", 0, 23);
const DAY: Field = Field {
    open: true,
    ..numbers("day of the month", 1, 31)
};
const MONTH: Field = Field {
    names: &[
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ],
    ..numbers("month", 1, 12)
};
const WEEKDAY: Field = Field {
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    open: true,
    ..numbers("day of the week", 0, 7)
};

const fn numbers(name: &'static str, low: u32, high: u32) -> Field {
    Field {
        name,
        low,
        high,
        names: &[],
        open: false,
    }
}

pub(super) fn read(text: &str) -> Result<Cron, InvalidCron> {
    if text.len() > MAX_CRON_BYTES {
        return told(format!("it is longer than {MAX_CRON_BYTES} bytes"));
    }
    let written = text.trim();
    if written.starts_with("TZ=") || written.starts_with("CRON_TZ=") {
        return told("a time zone is written in timeZone, beside it");
    }
    if written.starts_with('@') {
        return read(nicknamed(written)?);
    }
    let fields = Vec::from_iter(written.split_ascii_whitespace());
    let (second, rest) = match &fields[..] {
        rest if rest.len() == 5 => ("0", rest),
        [second, rest @ ..] if rest.len() == 5 => (*second, rest),
        _ => {
            let count = fields.len();
            return told(format!(
                "it has {count} fields: write minute, hour, day of the month, month and day of the week, such as \
                 0 2 * * *, or six with the second before them"
            ));
        }
    };
    let [minute, hour, day, month, weekday] = rest else {
        return told("it has not five fields");
    };
    let weekdays = WEEKDAY.read(weekday)?;
    let cron = Cron {
        seconds: SECOND.read(second)?,
        minutes: MINUTE.read(minute)?,
        hours: HOUR.read(hour)?,
        days: DAY.read(day)?,
        months: MONTH.read(month)?,
        // 7 is Sunday too.
        weekdays: (weekdays | weekdays >> 7) & 0x7f,
        any_day: is_open(day),
        any_weekday: is_open(weekday),
        every_hour: hour.starts_with('*'),
    };
    let days_of = |month: u32| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let months = (1..=12u32).filter(|month| cron.months >> month & 1 == 1);
    let first = cron.days.trailing_zeros();
    if cron.any_weekday && !months.into_iter().any(|month| first <= days_of(month)) {
        return told(format!("no month that it names has a day {first}"));
    }
    Ok(cron)
}

fn nicknamed(written: &str) -> Result<&'static str, InvalidCron> {
    Ok(match written {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ if written.starts_with("@every") => {
            return told("@every names no moments: write */5 * * * * for every five minutes");
        }
        _ => {
            return told(
                "of names there are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually",
            );
        }
    })
}

fn is_open(field: &str) -> bool {
    matches!(field, "*" | "?")
}

fn told<T>(why: impl Into<String>) -> Result<T, InvalidCron> {
    Err(InvalidCron(why.into()))
}

// === impl Field ===

impl Field {
    /// The numbers of a field, each as a bit.
    fn read(&self, text: &str) -> Result<u64, InvalidCron> {
        text.split(',').try_fold(0, |all, item| {
            let (range, step) = match item.split_once('/') {
                None => (item, None),
                Some((range, step)) => (range, Some(step)),
            };
            let (low, high) = match range.split_once('-') {
                _ if range == "*" || (self.open && range == "?") => (self.low, self.last()),
                Some((low, high)) => (self.number(low)?, self.number(high)?),
                None => {
                    let low = self.number(range)?;
                    // `5/15` is from 5 on.
                    (low, step.map_or(low, |_| self.last()))
                }
            };
            if low > high {
                let name = self.name;
                return told(format!(
                    "the {name} {range:?} ends before it begins: write two ranges, with a comma between them"
                ));
            }
            let step = match step {
                None => 1,
                Some(step) => match step.parse::<usize>() {
                    Ok(step) if (1..=self.span()).contains(&step) => step,
                    _ => {
                        let (name, span) = (self.name, self.span());
                        return told(format!("the {name} has the step {step:?}: it is 1 to {span}"));
                    }
                },
            };
            Ok((low..=high).step_by(step).fold(all, |all, one| all | 1 << one))
        })
    }

    /// The last of those that `*` means: 7 is Sunday a second time.
    fn last(&self) -> u32 {
        self.high.min(match self.names.is_empty() {
            true => self.high,
            false => self.low + u32::try_from(self.names.len()).unwrap_or(1) - 1,
        })
    }

    fn span(&self) -> usize {
        usize::try_from(self.last() - self.low + 1).unwrap_or(1)
    }

    fn number(&self, text: &str) -> Result<u32, InvalidCron> {
        let mut names = self.names.iter();
        if let Some(place) = names.position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.low + u32::try_from(place).unwrap_or(0));
        }
        let digits = text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (self.low..=self.high).contains(&number) => Ok(number),
            _ => {
                let Field {
                    name, low, high, ..
                } = self;
                let names = match self.names {
                    [first, .., last] => format!(", or {first} to {last}"),
                    _ => String::new(),
                };
                told(format!(
                    "the {name} {text:?} is none: it is {low} to {high}{names}"
                ))
            }
        }
    }
}

//! What is asked of an event's data that are JSON: one test of what stands at a path.
//!
//! A path is one of RFC 9535, JSONPath, as far as it leads down: names, places and all of a level. What searches,
//! slices or computes is refused, so that data are read once from their beginning to their end, however they are
//! made. Nothing is built of them: numbers are compared as they are written, in decimals of any length.

mod decimal;
mod json;
mod path;

use std::cmp::Ordering;

use self::decimal::Decimal;
pub use self::json::Json;
use self::json::Repeated;
pub use self::path::{MAX_LENGTH, MAX_STEPS, Path, Unreadable};
use crate::mesh;
use crate::mesh::event_data;

/// A test of data.
#[derive(Debug)]
pub struct Data {
    path: Path,
    test: Test,
}

#[derive(Debug)]
enum Test {
    /// A string that is this text, a number that it is, or `true`, `false` or `null` where it is that.
    Equals(String, Option<Decimal>),
    /// A number that is one of these, compared with it.
    Number(Decimal, &'static [Ordering]),
    /// That something is there, or that nothing is.
    Exists(bool),
}

// === impl Data ===

impl Data {
    /// Builds one.
    ///
    /// # Errors
    /// The field, a colon, and what is wrong with it.
    pub fn build(sent: &mesh::EventData) -> Result<Self, String> {
        use event_data::Test as Sent;
        let path = Path::parse(&sent.path).map_err(|why| format!("path: {why}"))?;
        let number = |field: &str, text: &str, orders| match Decimal::parse(text) {
            Some(number) => Ok(Test::Number(number, orders)),
            None => Err(format!(
                "{field}: it is no number: write it as JSON does, such as 10, -2.5 or 1e3"
            )),
        };
        let test = match &sent.test {
            None => return Err("test: it says nothing".to_owned()),
            Some(Sent::Equals(text)) => Test::Equals(text.clone(), Decimal::parse(text)),
            Some(Sent::LessThan(text)) => number("lessThan", text, &[Ordering::Less])?,
            Some(Sent::LessThanOrEqual(text)) => {
                let orders = &[Ordering::Less, Ordering::Equal];
                number("lessThanOrEqual", text, orders)?
            }
            Some(Sent::GreaterThan(text)) => number("greaterThan", text, &[Ordering::Greater])?,
            Some(Sent::GreaterThanOrEqual(text)) => {
                let orders = &[Ordering::Greater, Ordering::Equal];
                number("greaterThanOrEqual", text, orders)?
            }
            Some(Sent::Exists(wanted)) => Test::Exists(*wanted),
        };
        Ok(Self { path, test })
    }

    /// Whether data pass: something at the path does, where it leads to several. None do in which the path comes
    /// by an object that has a member twice, since no two readers agree on which one counts.
    pub fn passes(&self, json: Json<'_>) -> bool {
        let mut found = false;
        let walked = json.at(self.path.steps(), &mut |value| {
            found |= match &self.test {
                Test::Exists(_) => true,
                Test::Equals(text, number) => match value.as_bytes() {
                    [b'"', ..] => json::is_text(value, text),
                    [b'-' | b'0'..=b'9', ..] => number.as_ref().is_some_and(|number| {
                        Decimal::parse(value).is_some_and(|value| value == *number)
                    }),
                    [b'{' | b'[', ..] => false,
                    _ => value == text,
                },
                Test::Number(number, orders) => {
                    let value = Decimal::parse(value);
                    value.is_some_and(|value| orders.contains(&value.cmp(number)))
                }
            };
        });
        match (walked, &self.test) {
            (Err(Repeated), _) => false,
            (Ok(()), Test::Exists(wanted)) => found == *wanted,
            (Ok(()), _) => found,
        }
    }
}

#[cfg(test)]
mod tests;

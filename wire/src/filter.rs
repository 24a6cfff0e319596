//! Which events pass: the filter dialects of CloudEvents Subscriptions, section 3.2.4
//! (<https://github.com/cloudevents/spec/blob/main/subscriptions/spec.md>), and one of our own, which tests data.
//!
//! The operator reads a filter once to say what is wrong with it; every sidecar that filters by it asks it
//! about each event. It is bounded when it is read.

use crate::cesql::{Attributes, Expression, Value};
use crate::data::{Data, Json};
use crate::mesh;
use crate::mesh::event_filter::Dialect;

/// The most filters in a filter, itself counted.
pub const MAX_FILTERS: usize = 64;

/// The longest name of an attribute, in bytes. The specification of CloudEvents advises 20.
pub const MAX_NAME: usize = 64;

/// The most filters within one another.
pub const MAX_DEPTH: usize = 8;

/// A filter.
#[derive(Debug)]
pub enum Filter {
    /// Attributes that have these values.
    Exact(Vec<(String, String)>),
    /// Attributes whose values begin so.
    Prefix(Vec<(String, String)>),
    /// Attributes whose values end so.
    Suffix(Vec<(String, String)>),
    /// All of these.
    All(Vec<Filter>),
    /// One of these, or several.
    Any(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// An expression that comes to true, or to what is cast to it.
    Sql(Expression),
    /// A test of data that are JSON.
    Data(Data),
}

/// What is asked whether it passes.
pub trait Filtered: Attributes {
    /// The data, where they are JSON that is looked into.
    fn json(&self) -> Option<Json<'_>>;
}

/// Why a filter can't be read: the field, a colon, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

// === impl Filter ===

impl Filter {
    /// Builds one.
    ///
    /// # Errors
    /// What of it says nothing, or is too much.
    pub fn build(sent: &mesh::EventFilter) -> Result<Self, Unreadable> {
        let mut left = MAX_FILTERS;
        Self::within(sent, "", 1, &mut left)
    }

    fn within(
        sent: &mesh::EventFilter,
        at: &str,
        depth: usize,
        left: &mut usize,
    ) -> Result<Self, Unreadable> {
        let wrong = |what: String| Unreadable(format!("{at}{what}"));
        if depth > MAX_DEPTH {
            return Err(wrong(format!(
                "filter: filters stand within one another {MAX_DEPTH} deep at most"
            )));
        }
        *left = left.checked_sub(1).ok_or_else(|| {
            wrong(format!(
                "filter: {MAX_FILTERS} filters are the most within one"
            ))
        })?;
        let mut list = |name: &str, sent: &mesh::EventFilters| {
            if sent.filters.is_empty() {
                return Err(wrong(format!("{name}: it is empty")));
            }
            let filters = sent.filters.iter().enumerate();
            let filters = filters.map(|(place, one)| {
                Self::within(one, &format!("{at}{name}[{place}]."), depth + 1, left)
            });
            filters.collect::<Result<Vec<_>, _>>()
        };
        Ok(match &sent.dialect {
            None => return Err(wrong("filter: it says nothing".to_owned())),
            Some(Dialect::Exact(sent)) => Self::Exact(values(at, "exact", sent)?),
            Some(Dialect::Prefix(sent)) => Self::Prefix(values(at, "prefix", sent)?),
            Some(Dialect::Suffix(sent)) => Self::Suffix(values(at, "suffix", sent)?),
            Some(Dialect::All(sent)) => Self::All(list("all", sent)?),
            Some(Dialect::Any(sent)) => Self::Any(list("any", sent)?),
            Some(Dialect::Not(sent)) => {
                let inner = Self::within(sent, &format!("{at}not."), depth + 1, left)?;
                Self::Not(Box::new(inner))
            }
            Some(Dialect::Sql(sql)) => {
                let read = Expression::parse(sql);
                Self::Sql(read.map_err(|why| wrong(format!("sql: {why}")))?)
            }
            Some(Dialect::Data(sent)) => {
                let read = Data::build(sent);
                Self::Data(read.map_err(|why| wrong(format!("data.{why}")))?)
            }
        })
    }

    /// Whether an event passes. One without an attribute that is asked for does not, and none for which an
    /// expression fails; nor does one whose data are no JSON, where they are asked for.
    pub fn passes(&self, event: &dyn Filtered) -> bool {
        let all = |values: &[(String, String)], fits: fn(&str, &str) -> bool| {
            values.iter().all(|(name, wanted)| {
                let value = event.attribute(name);
                value.is_some_and(|value| fits(&text(value), wanted))
            })
        };
        match self {
            Self::Exact(values) => all(values, |value, wanted| value == wanted),
            Self::Prefix(values) => all(values, |value, wanted| value.starts_with(wanted)),
            Self::Suffix(values) => all(values, |value, wanted| value.ends_with(wanted)),
            Self::All(filters) => filters.iter().all(|one| one.passes(event)),
            Self::Any(filters) => filters.iter().any(|one| one.passes(event)),
            Self::Not(filter) => !filter.passes(event),
            Self::Sql(expression) => expression.evaluate(event).is_ok_and(is_true),
            Self::Data(data) => event.json().is_some_and(|json| data.passes(json)),
        }
    }
}

/// Whether a value is true, as the boolean that it is cast to (section 3.7 of the specification of expressions):
/// attributes of many events are texts alone.
fn is_true(value: Value<'_>) -> bool {
    match value {
        Value::Boolean(value) => value,
        Value::Integer(number) => number != 0,
        Value::String(text) => text.eq_ignore_ascii_case("true"),
    }
}

/// A value as it is written.
fn text(value: Value<'_>) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text,
        Value::Integer(number) => number.to_string().into(),
        Value::Boolean(value) => value.to_string().into(),
    }
}

fn values(
    at: &str,
    name: &str,
    sent: &mesh::EventValues,
) -> Result<Vec<(String, String)>, Unreadable> {
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        let may_be = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (1..=MAX_NAME).contains(&text.len()) && bytes.all(may_be)
    };
    if sent.values.is_empty() {
        return Err(Unreadable(format!("{at}{name}: it is empty")));
    }
    let values = sent.values.iter().map(|one| match is_name(&one.attribute) {
        true => Ok((one.attribute.clone(), one.value.clone())),
        false => Err(Unreadable(format!(
            "{at}{name}: {:?} is no name of an attribute: these are of a-z and 0-9, {MAX_NAME} at most",
            one.attribute.chars().take(MAX_NAME).collect::<String>()
        ))),
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::event_data;

    struct Event(&'static [(&'static str, &'static str)]);

    impl Attributes for Event {
        fn attribute(&self, name: &str) -> Option<Value<'_>> {
            let found = self.0.iter().find(|(own, _)| *own == name)?;
            Some(Value::String(found.1.into()))
        }
    }

    impl Filtered for Event {
        fn json(&self) -> Option<Json<'_>> {
            let data = self.0.iter().find(|(own, _)| *own == "data")?;
            Json::read(data.1.as_bytes())
        }
    }

    const EVENT: Event = Event(&[
        ("id", "7"),
        ("type", "com.shop.stock.updated"),
        ("subject", "/eu/madrid"),
        ("data", "{\"qty\": 9}"),
    ]);

    fn values(pairs: &[(&str, &str)]) -> mesh::EventValues {
        let values = pairs.iter().map(|(attribute, value)| mesh::EventValue {
            attribute: (*attribute).to_owned(),
            value: (*value).to_owned(),
        });
        mesh::EventValues {
            values: values.collect(),
        }
    }

    fn filter(dialect: Dialect) -> mesh::EventFilter {
        mesh::EventFilter {
            dialect: Some(dialect),
        }
    }

    fn list(filters: Vec<mesh::EventFilter>) -> mesh::EventFilters {
        mesh::EventFilters { filters }
    }

    fn passes(dialect: Dialect) -> bool {
        Filter::build(&filter(dialect)).unwrap().passes(&EVENT)
    }

    #[test]
    fn an_event_passes_whose_attributes_all_have_the_values() {
        assert!(passes(Dialect::Exact(values(&[("id", "7")]))));
        let both = [("id", "7"), ("type", "com.shop")];
        assert!(!passes(Dialect::Exact(values(&both))));
        assert!(passes(Dialect::Prefix(values(&both))));
        assert!(passes(Dialect::Suffix(values(&[
            ("subject", "madrid"),
            ("id", "7")
        ]))));
        assert!(!passes(Dialect::Suffix(values(&[("subject", "/eu")]))));
    }

    #[test]
    fn an_attribute_that_an_event_does_not_have_passes_nothing() {
        let missing = || values(&[("region", "eu")]);
        assert!(!passes(Dialect::Exact(missing())));
        assert!(!passes(Dialect::Prefix(missing())));
        assert!(!passes(Dialect::Suffix(missing())));
        assert!(!passes(Dialect::Sql("region = 'eu'".into())));
        let not = filter(Dialect::Exact(missing()));
        assert!(passes(Dialect::Not(Box::new(not))));
    }

    #[test]
    fn filters_are_joined_and_turned_round() {
        let yes = || filter(Dialect::Exact(values(&[("id", "7")])));
        let no = || filter(Dialect::Exact(values(&[("id", "8")])));
        assert!(passes(Dialect::All(list(vec![yes(), yes()]))));
        assert!(!passes(Dialect::All(list(vec![yes(), no()]))));
        assert!(passes(Dialect::Any(list(vec![no(), yes()]))));
        assert!(!passes(Dialect::Any(list(vec![no(), no()]))));
        assert!(passes(Dialect::Not(Box::new(no()))));
        assert!(passes(Dialect::Sql(
            "type LIKE 'com.shop.%' AND EXISTS subject".into()
        )));
        assert!(passes(Dialect::Sql("'TRUE'".into())));
        assert!(!passes(Dialect::Sql("id".into())), "7 is no truth");
    }

    #[test]
    fn data_are_tested_within_other_filters_too_and_none_pass_that_are_not_there() {
        let qty = |test| {
            Dialect::Data(mesh::EventData {
                path: "$.qty".into(),
                test: Some(test),
            })
        };
        let few = || qty(event_data::Test::LessThan("10".into()));
        let many = || qty(event_data::Test::GreaterThan("10".into()));
        assert!(passes(few()));
        assert!(!passes(many()));
        assert!(passes(Dialect::Not(Box::new(filter(many())))));
        assert!(passes(Dialect::Any(list(vec![
            filter(many()),
            filter(few())
        ]))));
        let without = Event(&[("id", "7")]);
        for test in [few(), qty(event_data::Test::Exists(false))] {
            assert!(!Filter::build(&filter(test)).unwrap().passes(&without));
        }
    }

    #[test]
    fn what_can_not_be_read_is_told_with_its_place() {
        let told = |dialect| Filter::build(&filter(dialect)).unwrap_err().to_string();
        let broken = filter(Dialect::Sql("id = ".into()));
        let nested = Dialect::Not(Box::new(filter(Dialect::Any(list(vec![
            filter(Dialect::Exact(values(&[("id", "7")]))),
            broken,
        ])))));
        assert!(told(nested).starts_with("not.any[1].sql: at character "));
        let nowhere = filter(Dialect::Data(mesh::EventData {
            path: "$..qty".into(),
            test: Some(event_data::Test::Exists(true)),
        }));
        assert!(
            told(Dialect::Not(Box::new(nowhere))).starts_with("not.data.path: at character 3: ")
        );
        assert_eq!(
            told(Dialect::Exact(values(&[("Id", "7")]))),
            "exact: \"Id\" is no name of an attribute: these are of a-z and 0-9, 64 at most"
        );
        let long = "a".repeat(100_000);
        assert!(told(Dialect::Exact(values(&[(&long, "7")]))).len() < 200);
        assert_eq!(told(Dialect::All(list(Vec::new()))), "all: it is empty");
        let mut deep = filter(Dialect::Exact(values(&[("id", "7")])));
        for _ in 0..MAX_DEPTH {
            deep = filter(Dialect::Not(Box::new(deep)));
        }
        assert!(
            Filter::build(&deep)
                .unwrap_err()
                .to_string()
                .contains("8 deep at most")
        );
        let one = || filter(Dialect::Exact(values(&[("id", "7")])));
        let many = list((0..MAX_FILTERS).map(|_| one()).collect());
        assert!(told(Dialect::All(many)).ends_with("64 filters are the most within one"));
    }
}

//! Values, their types, and what becomes of one where another type is needed.

use std::borrow::Cow;

use super::{Failed, Fault};

/// A value of an expression. Addresses and times are strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'e> {
    /// Characters of Unicode.
    String(Cow<'e, str>),
    /// A whole number of 32 bits.
    Integer(i32),
    /// True or false.
    Boolean(bool),
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Integer,
    Boolean,
}

// === impl Value ===

impl Value<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::String(_) => Kind::String,
            Self::Integer(_) => Kind::Integer,
            Self::Boolean(_) => Kind::Boolean,
        }
    }

    /// The same without a copy of its characters.
    pub(super) fn borrowed(&self) -> Value<'_> {
        match self {
            Self::String(text) => Value::String(Cow::Borrowed(text)),
            Self::Integer(value) => Value::Integer(*value),
            Self::Boolean(value) => Value::Boolean(*value),
        }
    }
}

// === impl Kind ===

impl Kind {
    /// The value of what has none: the zero of the type.
    pub(super) fn failed<'e>(self, fault: Fault) -> Failed<'e> {
        let value = match self {
            Self::String => Value::String(Cow::Borrowed("")),
            Self::Integer => Value::Integer(0),
            Self::Boolean => Value::Boolean(false),
        };
        Failed { fault, value }
    }
}

/// A value as another type, by the table of section 3.7.
pub(super) fn cast(value: Value<'_>, to: Kind) -> Result<Value<'_>, Fault> {
    Ok(match (to, value) {
        (Kind::String, Value::Integer(value)) => Value::String(Cow::Owned(value.to_string())),
        (Kind::String, Value::Boolean(value)) => {
            Value::String(Cow::Borrowed(if value { "true" } else { "false" }))
        }
        (Kind::Integer, Value::Boolean(value)) => Value::Integer(value.into()),
        (Kind::Integer, Value::String(text)) => {
            Value::Integer(text.parse().map_err(|_| Fault::Cast)?)
        }
        (Kind::Boolean, Value::Integer(value)) => Value::Boolean(value != 0),
        (Kind::Boolean, Value::String(text)) => {
            let is = |word: &str| text.eq_ignore_ascii_case(word);
            match (is("true"), is("false")) {
                (true, _) => Value::Boolean(true),
                (_, true) => Value::Boolean(false),
                _ => return Err(Fault::Cast),
            }
        }
        (_, value) => value,
    })
}

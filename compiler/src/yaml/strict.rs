//! Values as Kubernetes' types, read as strictly as `kubectl apply` has them read: a field that a
//! type doesn't have is refused, with the nearest one that it has, at any depth.
//!
//! The types tell which fields they have when they ask for a struct; a value that is read otherwise
//! (a map of labels, a free-form value) may have any.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, map};

use super::{Fault, child};
use crate::host::nearest;

/// How many fields are listed where none is like the one written.
const MAX_LISTED: usize = 16;

/// What a document says of itself.
const ENVELOPE: &[&str] = &["apiVersion", "kind"];

/// The value as an object of its type; `path` is where in its document it stands.
pub(super) fn read<T: DeserializeOwned>(value: &Value, path: &str) -> Result<T, Vec<Fault>> {
    let unknown = RefCell::default();
    let read = T::deserialize(Node {
        value,
        path: path.to_owned(),
        unknown: &unknown,
    });
    let mut faults = unknown.into_inner();
    match read {
        Ok(object) if faults.is_empty() => return Ok(object),
        Ok(_) => {}
        Err(fault) => faults.push(fault),
    }
    Err(faults)
}

/// What is wrong with a field that isn't among those `known`.
pub(super) fn unknown<'a>(
    path: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Fault {
    let remedy = match nearest(name, known.clone()) {
        Some(name) => format!("did you mean {name}?"),
        None if known.clone().count() > MAX_LISTED => "no field here has a similar name".to_owned(),
        None => format!("the fields here are {}", Vec::from_iter(known).join(", ")),
    };
    Fault::new(&child(path, name), format!("unknown field; {remedy}"))
}

/// A value, and where it stands.
struct Node<'de, 'f> {
    value: &'de Value,
    path: String,
    unknown: &'f RefCell<Vec<Fault>>,
}

/// The items of a list that are still to be read.
struct Items<'de, 'f> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    path: String,
    unknown: &'f RefCell<Vec<Fault>>,
}

/// The fields of a map that are still to be read.
struct Fields<'de, 'f> {
    fields: map::Iter<'de>,
    /// The one whose name was read last.
    field: Option<(&'de str, &'de Value)>,
    path: String,
    unknown: &'f RefCell<Vec<Fault>>,
}

// === impl Node ===

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Node {
            value,
            path,
            unknown,
        } = self;
        let read = match value {
            Value::Array(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
                path: path.clone(),
                unknown,
            }),
            Value::Object(fields) => visitor.visit_map(Fields {
                fields: fields.iter(),
                field: None,
                path: path.clone(),
                unknown,
            }),
            scalar => scalar.deserialize_any(visitor).map_err(Fault::custom),
        };
        read.map_err(|fault| fault.at(path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        // What says which type a document has is no field of some types.
        let envelope = if self.path.is_empty() { ENVELOPE } else { &[] };
        let has = |name: &str| known.contains(&name) || envelope.contains(&name);
        let written = self.value.as_object().into_iter().flat_map(Map::keys);
        let others = written.filter(|name| !has(name));
        let faults = others.map(|name| unknown(&self.path, name, known.iter().copied()));
        self.unknown.borrow_mut().extend(faults);
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let read = self.value.deserialize_enum(name, variants, visitor);
        read.map_err(|error| Fault::custom(error).at(self.path))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

// === impl Items ===

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, value)) = self.items.next() else {
            return Ok(None);
        };
        let item = Node {
            value,
            path: format!("{}[{index}]", self.path),
            unknown: self.unknown,
        };
        seed.deserialize(item).map(Some)
    }
}

// === impl Fields ===

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.field = self.fields.next().map(|(name, value)| (&**name, value));
        let Some((name, _)) = self.field else {
            return Ok(None);
        };
        seed.deserialize(BorrowedStrDeserializer::new(name))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, value) = self
            .field
            .take()
            .ok_or_else(|| Fault::custom("a value was read before its name"))?;
        seed.deserialize(Node {
            value,
            path: child(&self.path, name),
            unknown: self.unknown,
        })
    }
}

// === impl Fault ===

impl Fault {
    /// The fault with its place, unless it has a more precise one.
    fn at(mut self, path: String) -> Self {
        if self.field.is_empty() {
            self.field = path;
        }
        self
    }
}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::new("", message.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

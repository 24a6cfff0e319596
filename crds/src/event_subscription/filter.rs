//! Which events are delivered: the filter dialects of CloudEvents Subscriptions
//! (<https://github.com/cloudevents/spec/blob/main/subscriptions/spec.md>), and one of our own for data.
//!
//! A schema of Kubernetes can't refer to itself: filters stand within one another three deep.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A filter: exactly one of its fields.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "[has(self.exact), has(self.prefix), has(self.suffix), has(self.sql), has(self.data), \
     has(self.all), has(self.any), has(self.not)].filter(one, one).size() == 1"
).message("a filter has one of exact, prefix, suffix, sql, data, all, any and not"))]
pub struct EventFilter {
    /// Attributes, and the values that they have; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub exact: Option<BTreeMap<String, String>>,

    /// Attributes, and what their values begin with; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub prefix: Option<BTreeMap<String, String>>,

    /// Attributes, and what their values end with; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub suffix: Option<BTreeMap<String, String>>,

    /// An expression of CloudEvents SQL, such as `type LIKE 'com.shop.%' AND region = 'eu'`. An event
    /// for which it fails does not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub sql: Option<String>,

    /// A test of what stands at a path in the event's data. Data that are no JSON, or are longer than 1 MiB, do not
    /// pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataFilter>,

    /// Filters that an event passes all of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub all: Option<Vec<InnerFilter>>,

    /// Filters that an event passes one of, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub any: Option<Vec<InnerFilter>>,

    /// A filter that an event does not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<InnerFilter>,
}

/// A filter within another: exactly one of its fields.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "[has(self.exact), has(self.prefix), has(self.suffix), has(self.sql), has(self.data), \
     has(self.all), has(self.any), has(self.not)].filter(one, one).size() == 1"
).message("a filter has one of exact, prefix, suffix, sql, data, all, any and not"))]
pub struct InnerFilter {
    /// Attributes, and the values that they have; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub exact: Option<BTreeMap<String, String>>,

    /// Attributes, and what their values begin with; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub prefix: Option<BTreeMap<String, String>>,

    /// Attributes, and what their values end with; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub suffix: Option<BTreeMap<String, String>>,

    /// An expression of CloudEvents SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub sql: Option<String>,

    /// A test of what stands at a path in the event's data. Data that are no JSON, or are longer than 1 MiB, do not
    /// pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataFilter>,

    /// Filters that an event passes all of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub all: Option<Vec<InnermostFilter>>,

    /// Filters that an event passes one of, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub any: Option<Vec<InnermostFilter>>,

    /// A filter that an event does not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<InnermostFilter>,
}

/// A filter with none in it: exactly one of its fields. What is deeper is said in SQL.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "[has(self.exact), has(self.prefix), has(self.suffix), has(self.sql), has(self.data)]\
     .filter(one, one).size() == 1"
).message("a filter this deep has one of exact, prefix, suffix, sql and data"))]
pub struct InnermostFilter {
    /// Attributes, and the values that they have; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub exact: Option<BTreeMap<String, String>>,

    /// Attributes, and what their values begin with; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub prefix: Option<BTreeMap<String, String>>,

    /// Attributes, and what their values end with; all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub suffix: Option<BTreeMap<String, String>>,

    /// An expression of CloudEvents SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub sql: Option<String>,

    /// A test of what stands at a path in the event's data. Data that are no JSON, or are longer than 1 MiB, do not
    /// pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataFilter>,
}

/// A test of what stands at a path in data that are JSON; of several things, one must pass.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "[has(self.equals), has(self.lessThan), has(self.lessThanOrEqual), has(self.greaterThan), \
     has(self.greaterThanOrEqual), has(self.exists)].filter(one, one).size() == 1"
).message("data has one of equals, lessThan, lessThanOrEqual, greaterThan, greaterThanOrEqual and exists"))]
pub struct DataFilter {
    /// The path (RFC 9535), of names, places and `*`: `$.items[0].sku`, `$['item name']`, `$.items[*].qty`,
    /// `$.items[-1]`.
    #[schemars(length(min = 1, max = 512), pattern(r"^[$]"))]
    pub path: String,

    /// A string that is this text, a number that is this one, or `true`, `false` or `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub equals: Option<String>,

    /// A number that is less than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number")]
    pub less_than: Option<String>,

    /// A number that is this one, or less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number")]
    pub less_than_or_equal: Option<String>,

    /// A number that is greater than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number")]
    pub greater_than: Option<String>,

    /// A number that is this one, or greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number")]
    pub greater_than_or_equal: Option<String>,

    /// Whether anything is there, be it null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

/// A number as JSON writes it, as a text: a schema's own numbers are not exact.
fn number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": 64,
        "pattern": "^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]{1,9})?$",
    })
}

/// Names of attributes, and texts.
fn values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 8,
        "additionalProperties": { "type": "string", "minLength": 1, "maxLength": 1024 },
    })
}

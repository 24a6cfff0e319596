//! What a request must be like for a rule to apply to it.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry of `matches`: everything it names must hold.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// The path that the request must have; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,

    /// The method that the request must have; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,

    /// Headers that the request must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Cel::new(
        "self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))"
    ).message("a header is named twice; one match can hold one value of a header"))]
    pub headers: Vec<HeaderMatch>,

    /// Parameters that the request's query must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Cel::new("self.all(q, self.exists_one(o, o.name == q.name))")
        .message("a parameter is named twice; one match can hold one value of a parameter"))]
    pub query: Vec<QueryMatch>,

    /// The name that a TLS client asks for (SNI), such as `db.example.com`, or `*.example.com` for
    /// any one label before it. An exact name comes before one with `*`, and of those a longer one
    /// first. A client that asks for no name is governed by a rule without matches, if there is one;
    /// a connection that no rule matches is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub sni: Option<String>,
}

/// How a request's path is compared.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("self.type == 'Regex' || !self.value.contains('//')").message(
    "a path can't contain //: a request's path has single slashes when it is compared, so write /"
))]
#[x_kube(validation = Cel::new(
    "self.type == 'Regex' || !self.value.matches('/([.]|%2[eE]){1,2}(/|$)')"
).message(
    "a path can't have a segment that is . or ..: a request's path has none when it is compared, \
     so write the path that they lead to"
))]
#[x_kube(validation = Cel::new(
    "self.type == 'Regex' || self.value.matches('^/([A-Za-z0-9/._~!$&()*+,;=:@{}\\'-]|%[0-9A-Fa-f]{2})*$')"
).message(
    "a path begins with / and has only the characters of a URL's path: percent-encode others"
))]
#[x_kube(validation = Cel::new(
    "self.type == 'Regex' || self.type == 'Pattern' || !self.value.matches('[{}]')"
).message("{ and } are percent-encoded in a path; {name} stands for a segment in a Pattern only"))]
pub struct PathMatch {
    /// `Exact` compares the whole path. `Prefix` compares whole segments: `/a` matches `/a` and
    /// `/a/b`, not `/ab`, and `/a/` is the same as `/a`. `Pattern` compares whole paths segment by
    /// segment: `{name}` is one segment of any text but none, and `{name...}` at the end is whatever
    /// follows, nothing included. `Regex` compares the whole path with a regular expression.
    #[serde(rename = "type")]
    pub type_: PathType,

    /// The path, without query. Both it and a request's path are compared in one normal form, which
    /// is also what is forwarded: percent-encodings of letters, digits, `-`, `.`, `_` and `~` are
    /// decoded, others are in upper case, segments `.` and `..` are resolved, `//` is `/`. So `/a`,
    /// `/%61`, `//a` and `/b/../a` are the same, and `%2F` stays what it is: no separator. A request
    /// with a path that two servers could read differently (a backslash, a control character, bytes
    /// above 127, an invalid percent-encoding, more `..` than segments) is answered 400. A pattern
    /// is a path with names in it: `/customers/{id}/orders`, `/files/{path...}`; a name is 1 to 64
    /// letters, digits and `_`, and no two of one pattern are the same. A regular expression has at
    /// most 512 characters, in the syntax of RE2 without Unicode classes, so without backreferences
    /// and look-around; it fits a whole path in the normal form, of at most 4096 bytes, never a part
    /// of one. One ApiRoute has at most 64, those of headers and parameters included.
    #[schemars(length(min = 1, max = 1024), pattern(r"^[!-~]+$"))]
    pub value: String,
}

/// How `value` is compared with a request's path.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathType {
    /// The whole path.
    Exact,
    /// Whole segments from the start.
    Prefix,
    /// The whole path, segment by segment, some of which have names instead of a text.
    Pattern,
    /// The whole path, with a regular expression.
    Regex,
}

/// A request's method. No `CONNECT`: it names no path, and sidecars refuse it.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
}

/// A header that a request must have.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.value) == (self.type != 'Present')")
    .message("Exact and Regex compare with a value, and Present has none"))]
pub struct HeaderMatch {
    /// The header's name; upper and lower case are the same.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    #[x_kube(validation = Cel::new("self.lowerAscii() != 'host'")
        .message("the host is matched by spec.hosts, not by a header"))]
    pub name: String,

    /// `Exact` compares the whole value, `Regex` the whole value with a regular expression, and
    /// `Present` asks for the header alone.
    #[serde(default, rename = "type")]
    pub type_: ValueType,

    /// What the header's value is compared with; several lines of one header are joined with a
    /// comma. A regular expression is like those of paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^[!-~]([ -~]*[!-~])?$"))]
    pub value: Option<String>,
}

/// A parameter that a request's query must have.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.value) == (self.type != 'Present')")
    .message("Exact and Regex compare with a value, and Present has none"))]
pub struct QueryMatch {
    /// The parameter's name, not encoded; upper and lower case differ.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,

    /// `Exact` compares the whole value, `Regex` the whole value with a regular expression, and
    /// `Present` asks for the parameter alone, with or without a value.
    #[serde(default, rename = "type")]
    pub type_: ValueType,

    /// What the parameter's value is compared with, not encoded: of the request's, percent-encodings
    /// are decoded and `+` is a space. Of a parameter that is there several times the first counts.
    /// A regular expression is like those of paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub value: Option<String>,
}

/// How `value` is compared with that of a header or parameter.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueType {
    /// The whole value.
    #[default]
    Exact,
    /// The whole value, with a regular expression.
    Regex,
    /// Any value.
    Present,
}

// === impl Method ===

impl Method {
    /// As in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
        }
    }
}

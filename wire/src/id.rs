//! What a resource is called: `<kind>/<namespace>/<name>`.

use std::{fmt, str::FromStr, sync::Arc};

use crate::generation::Input;

/// The certificate extension in which the operator writes the pod that a leaf was issued to: OID
/// 2.25.7310868735422118765 (arcs under 2.25 are derived from UUIDs and need no registration).
///
/// Its content is a DER `UTF8String`: `<namespace>/<pod>/<uid>`.
pub const POD_EXTENSION: &[u64] = &[2, 25, 7310868735422118765];

/// The longest name or namespace, in bytes: a DNS subdomain, which is what Kubernetes allows.
pub const MAX_PART_BYTES: usize = 253;

/// The longest id in its text form, in bytes: the longest kind, two parts, two slashes.
pub const MAX_ID_BYTES: usize = 12 + 2 + 2 * MAX_PART_BYTES;

/// The kinds of resource: which message of `mesh.proto` a resource's body is.
///
/// The order is the order in which resources are sent: what others lean on comes first, so that a
/// sidecar that has received half knows roots before peers and endpoints before routes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `mesh.Identity`: the trust bundle.
    Identity,
    /// `mesh.Networks`: where the addresses lie that are worth asking about.
    Networks,
    /// `mesh.Workload`: what one workload is.
    Workload,
    /// `mesh.Keys`: what credentials are compared with.
    Keys,
    /// `mesh.Access`: what an ApiRoute says of who may enter.
    Access,
    /// `mesh.Cache`: which answers are kept.
    Cache,
    /// `mesh.Idempotency`: which calls are carried out once.
    Idempotency,
    /// `mesh.Publish`: which requests become events.
    Publish,
    /// `mesh.Guard`: who may enter.
    Guard,
    /// `mesh.Endpoints`: who answers behind a Service.
    Endpoints,
    /// `mesh.Route`: an ApiRoute, for its callers.
    Route,
    /// `mesh.RetryPolicy`: a RetryPolicy, for callers.
    RetryPolicy,
    /// `mesh.RateLimit`: a RateLimit, for the pods that it is about.
    RateLimit,
    /// `mesh.Subscription`: an EventSubscription, for the pods that carry it out. After all that its
    /// deliveries meet.
    Subscription,
    /// `mesh.Lookup`: what a sidecar asked for. The last: what the answer leads to is there with it.
    Lookup,
}

/// The name of a resource. Cheap to clone: many streams keep the same ids.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    /// Which message the body is.
    pub kind: Kind,
    /// The namespace of the object it was compiled from; for [`Kind::Identity`] the trust domain.
    pub namespace: Arc<str>,
    /// Unique among its kind in its namespace.
    pub name: Arc<str>,
}

/// Why a text is not a resource's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not three parts.
    #[error("not of the form <kind>/<namespace>/<name>")]
    Form,
    /// A kind that this build does not know: the other end is newer.
    #[error("unknown kind of resource")]
    Kind,
    /// A part that is empty, too long, or has other characters than `a-z`, `0-9`, `-`, `.`, `_`.
    #[error("namespace and name are 1 to {MAX_PART_BYTES} characters of a-z, 0-9, '-', '.', '_'")]
    Part,
}

// === impl Kind ===

impl Kind {
    /// Every kind, in the order in which they are sent.
    pub const ALL: [Kind; 15] = [
        Kind::Identity,
        Kind::Networks,
        Kind::Workload,
        Kind::Keys,
        Kind::Access,
        Kind::Cache,
        Kind::Idempotency,
        Kind::Publish,
        Kind::Guard,
        Kind::Endpoints,
        Kind::Route,
        Kind::RetryPolicy,
        Kind::RateLimit,
        Kind::Subscription,
        Kind::Lookup,
    ];

    /// The first part of an id's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Identity => "identity",
            Kind::Workload => "workload",
            Kind::Keys => "keys",
            Kind::Access => "access",
            Kind::Cache => "cache",
            Kind::Idempotency => "idempotency",
            Kind::Guard => "guard",
            Kind::Endpoints => "endpoints",
            Kind::Route => "route",
            Kind::RetryPolicy => "retry-policy",
            Kind::RateLimit => "rate-limit",
            Kind::Publish => "publish",
            Kind::Subscription => "subscription",
            Kind::Networks => "networks",
            Kind::Lookup => "lookup",
        }
    }

    /// Those of [`Kind::inputs`] that operators of the two minor versions before this one do not count among
    /// them, and say nothing of. An operator that does has always seen something of them.
    pub fn inputs_since(self) -> &'static [Input] {
        match self {
            // Since 0.2.
            Kind::Route => &[Input::EndpointSlice, Input::Pod],
            Kind::RetryPolicy => &[Input::EndpointSlice, Input::Pod, Input::Settings],
            _ => &[],
        }
    }

    /// The inputs that resources of this kind, **and who receives them**, are compiled from. A
    /// resource's generation says nothing of the others: two replicas that differ in one that is
    /// missing here would each take its own version for the present one.
    pub fn inputs(self) -> &'static [Input] {
        match self {
            Kind::Identity => &[Input::Settings],
            // Identities have the trust domain in them, names of Services the cluster's domain.
            Kind::Workload => &[
                Input::Service,
                Input::Pod,
                Input::Namespace,
                Input::Settings,
            ],
            // For the pods of the Services that the ApiRoute is for.
            Kind::Idempotency => &[
                Input::ApiRoute,
                Input::Service,
                Input::Pod,
                Input::Settings,
                Input::Credential,
            ],
            Kind::Publish => &[
                Input::ApiRoute,
                Input::Service,
                Input::Pod,
                Input::Settings,
                Input::Broker,
            ],
            // For the pods of a Service, or those that have labels.
            Kind::Subscription => &[
                Input::EventSubscription,
                Input::Service,
                Input::Pod,
                Input::Settings,
                Input::Broker,
                Input::Credential,
            ],
            Kind::Keys => &[
                Input::ApiRoute,
                Input::Service,
                Input::Pod,
                Input::Settings,
                Input::Consumer,
                Input::Credential,
            ],
            Kind::Access | Kind::Cache => {
                &[Input::ApiRoute, Input::Service, Input::Pod, Input::Settings]
            }
            // The names in ApiRoutes end in the cluster's domain.
            Kind::Guard => &[Input::ApiRoute, Input::Service, Input::Pod, Input::Settings],
            // An ApiRoute can declare what a Service's ports carry.
            // What was looked up leads to a Service by its addresses, and those to its Endpoints.
            Kind::Endpoints | Kind::Lookup | Kind::Networks => &[
                Input::ApiRoute,
                Input::Service,
                Input::EndpointSlice,
                Input::Pod,
                Input::Settings,
            ],
            // Whoever has looked up an address that leads to the Service receives it: addresses are
            // those of slices and pods.
            Kind::Route => &[
                Input::ApiRoute,
                Input::Service,
                Input::EndpointSlice,
                Input::Pod,
                Input::Settings,
            ],
            // One that names an ApiRoute, or a rule of it, that is not there is not in force. Which Service
            // that is for depends on the cluster's domain.
            Kind::RetryPolicy => &[
                Input::ApiRoute,
                Input::RetryPolicy,
                Input::Service,
                Input::EndpointSlice,
                Input::Pod,
                Input::Settings,
            ],
            // For the pods of the Services that it names, or that an ApiRoute does that it names.
            Kind::RateLimit => &[
                Input::RateLimit,
                Input::ApiRoute,
                Input::Service,
                Input::Pod,
                Input::Settings,
                Input::Credential,
            ],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Kind, InvalidId> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(InvalidId::Kind)
    }
}

// === impl ResourceId ===

impl ResourceId {
    /// Names a resource. The parts are those of a Kubernetes object and are not checked here; the
    /// receiving end parses, and rejects what is no valid name.
    pub fn new(
        kind: Kind,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> ResourceId {
        ResourceId {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// How long its text form is, in bytes.
    pub(crate) fn text_len(&self) -> usize {
        self.kind.as_str().len() + self.namespace.len() + self.name.len() + 2
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ResourceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<ResourceId, InvalidId> {
        let mut parts = text.splitn(3, '/');
        let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidId::Form);
        };
        let kind = kind.parse()?;
        check_part(namespace)?;
        check_part(name)?;
        Ok(ResourceId::new(kind, namespace, name))
    }
}

/// Ids end up in logs, in status messages and perhaps in file names: no control characters, no
/// path traversal.
fn check_part(part: &str) -> Result<(), InvalidId> {
    let characters = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    let valid = (1..=MAX_PART_BYTES).contains(&part.len())
        && part.bytes().all(characters)
        && !part.starts_with('.');
    valid.then_some(()).ok_or(InvalidId::Part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_it_was_written() {
        for kind in Kind::ALL {
            let id = ResourceId::new(kind, "shop", "orders.v2");
            assert_eq!(id.to_string().len(), id.text_len());
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let long = format!("route/shop/{}", "a".repeat(MAX_PART_BYTES + 1));
        for (text, why) in [
            ("", InvalidId::Form),
            ("route/shop", InvalidId::Form),
            ("teapot/shop/orders", InvalidId::Kind),
            ("route//orders", InvalidId::Part),
            ("route/shop/", InvalidId::Part),
            ("route/shop/a/b", InvalidId::Part),
            ("route/shop/..", InvalidId::Part),
            ("route/shop/Orders", InvalidId::Part),
            ("route/shop/or\nders", InvalidId::Part),
            (&long, InvalidId::Part),
        ] {
            assert_eq!(text.parse::<ResourceId>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn the_longest_id_is_as_long_as_promised() {
        let part = "a".repeat(MAX_PART_BYTES);
        let longest = Kind::ALL
            .into_iter()
            .map(|kind| {
                ResourceId::new(kind, part.as_str(), part.as_str())
                    .to_string()
                    .len()
            })
            .max();
        assert_eq!(longest, Some(MAX_ID_BYTES));
    }
}

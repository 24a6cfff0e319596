//! What compiling yields.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wire::{Kind, Resource, ResourceId};

use crate::index::Memo;
use crate::inputs::{ObjectKey, ObjectRef};
use crate::verdict::Verdict;

/// The resources and verdicts of one [`crate::Inputs`], and how they differ from those before.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Everything that is sent. What did not change keeps its `Arc`.
    pub resources: BTreeMap<ResourceId, Arc<Compiled>>,
    /// One verdict for each object that a person wrote.
    pub verdicts: BTreeMap<ObjectRef, Verdict>,
    /// Resources that were added, changed or removed since before, or whose audience was.
    pub changed: BTreeSet<ResourceId>,
    /// Objects whose verdict was added, changed or removed since before.
    pub changed_verdicts: BTreeSet<ObjectRef>,
    /// How many of each kind were compiled, whether or not that changed anything: what is not
    /// counted here was remembered.
    pub compiled: BTreeMap<Kind, usize>,
    pub(crate) memo: Memo,
}

/// A resource and who receives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// What is sent.
    pub resource: Resource,
    /// Who receives it.
    pub audience: Audience,
    /// The object that a person wrote and that this resource carries out; none for what follows
    /// from Services and Pods alone.
    pub object: Option<ObjectRef>,
    /// What else concerns whoever receives it.
    pub around: Around,
}

/// What a resource has to do with beside what it says: who receives what is told by it, not who enforces
/// what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// The Services that whoever receives the resource calls on its account: those behind its rules,
    /// and those that it is about.
    pub services: BTreeSet<ObjectKey>,
    /// The addresses by which the Service is called that these are the endpoints of: virtual ones, and
    /// pods' own.
    pub addresses: BTreeSet<IpAddr>,
}

/// Who receives a resource: everyone whom one of the keys means.
pub type Audience = BTreeSet<AudienceKey>;

/// A set of workloads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AudienceKey {
    /// Every workload of the mesh.
    Everyone,
    /// Every workload of a namespace.
    Namespace(String),
    /// Every workload that calls the Service of this namespace and name, wherever it is: those of the
    /// Service's own namespace are taken to.
    Service(String, String),
    /// Every workload whose sidecar cannot ask which Services it calls, as those before 0.2 can't: it is
    /// taken to call any.
    AnyService,
    /// One pod: namespace and name.
    Pod(String, String),
}

// === impl Compiled ===

impl Compiled {
    /// Whether they are the same but for their generations.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.resource.hash == other.resource.hash
            && self.audience == other.audience
            && self.object == other.object
            && self.around == other.around
    }
}

// === impl Output ===

impl Output {
    /// What was compiled, when what was remembered with it is lost. The next compilation looks at
    /// everything again, and still says what changed since.
    pub fn without_memory(
        resources: BTreeMap<ResourceId, Arc<Compiled>>,
        verdicts: BTreeMap<ObjectRef, Verdict>,
    ) -> Self {
        Output {
            resources,
            verdicts,
            ..Output::default()
        }
    }
}

// === impl AudienceKey ===

impl AudienceKey {
    /// Those who call a Service.
    pub fn of_service(service: &ObjectKey) -> AudienceKey {
        AudienceKey::Service(service.namespace.clone(), service.name.clone())
    }

    /// The keys that mean the pod: whoever serves it looks for these in a resource's audience, and for
    /// the Services that it calls.
    pub fn of_pod(namespace: &str, name: &str) -> [AudienceKey; 3] {
        [
            AudienceKey::Everyone,
            AudienceKey::Namespace(namespace.to_owned()),
            AudienceKey::Pod(namespace.to_owned(), name.to_owned()),
        ]
    }
}

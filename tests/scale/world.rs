//! The world that an operator reads: namespaces of twenty Services and a hundred pods, and the edits
//! that are made in it.

use std::fmt::Write as _;

use anyhow::Result;
use tests::mesh::Mesh;
use wire::lookup::Question;
use wire::{Kind, Resource, mesh};

/// Services in each namespace.
pub(crate) const SERVICES: usize = 20;

/// Pods in each namespace but the last: as many as an edit of one of its ApiRoutes concerns.
pub(crate) const PODS: usize = 100;

/// Endpoints of the Service that many call.
const ENDPOINTS: usize = 20;

/// The Service that many call, in the first namespace.
const FRONT: &str = "front";

/// A world of so many pods, each of which has a sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) pods: usize,
}

// === impl World ===

impl World {
    /// How many namespaces it has.
    pub(crate) fn namespaces(self) -> usize {
        self.pods.div_ceil(PODS)
    }

    /// How many Services it has.
    pub(crate) fn services(self) -> usize {
        self.namespaces() * SERVICES
    }

    /// How many pods an edit of the first namespace's ApiRoute concerns.
    pub(crate) fn affected(self) -> usize {
        self.pods.min(PODS)
    }

    /// The name of a namespace.
    pub(crate) fn namespace(place: usize) -> String {
        format!("team-{place}")
    }

    /// Namespace and name of every pod, those of the first namespace first.
    pub(crate) fn all_pods(self) -> impl Iterator<Item = (String, String)> {
        (0..self.pods).map(|pod| (Self::namespace(pod / PODS), format!("web-{pod}")))
    }

    /// Writes all of it into the folder of an operator.
    pub(crate) fn write(self, mesh: &Mesh) -> Result<()> {
        for place in 0..self.namespaces() {
            let name = Self::namespace(place);
            mesh.write(&format!("{name}-services.yaml"), &services(place))?;
            mesh.write(&format!("{name}-pods.yaml"), &self.pods_of(place))?;
            mesh.write(&format!("{name}-route.yaml"), &route(place, 0))?;
        }
        mesh.write("front.yaml", &service(0, FRONT, "10.97.0.1"))?;
        self.roll(mesh, 0)?;
        self.widen(mesh, 0)
    }

    /// Their addresses are of this machine, where nobody has them: whoever calls one is refused at once.
    fn pods_of(self, place: usize) -> String {
        let mut yaml = String::new();
        for pod in place * PODS..self.pods.min((place + 1) * PODS) {
            let _ = write!(
                yaml,
                "---\napiVersion: v1\nkind: Pod\n\
                 metadata: {{ name: web-{pod}, namespace: {}, uid: uid-web-{pod}, labels: {{ app: s{} }} }}\n\
                 spec: {{ containers: [{{ name: web }}], initContainers: [{{ name: meshwright-sidecar }}] }}\n\
                 status: {{ podIP: 127.127.{}.{}, conditions: [{{ type: Ready, status: 'True' }}] }}\n",
                Self::namespace(place),
                pod % SERVICES,
                pod / 250,
                pod % 250 + 1,
            );
        }
        yaml
    }

    /// Edits the ApiRoute of the first namespace.
    pub(crate) fn edit(self, mesh: &Mesh, edit: usize) -> Result<()> {
        mesh.write(
            &format!("{}-route.yaml", Self::namespace(0)),
            &route(0, edit),
        )
    }

    /// Whether a resource is that ApiRoute after that edit.
    pub(crate) fn is_edited(resource: &Resource, edit: usize) -> bool {
        if resource.id.kind != Kind::Route {
            return false;
        }
        let said = path(edit);
        let route = resource.decode::<mesh::Route>().unwrap_or_default();
        let mut matches = route.rules.iter().flat_map(|rule| &rule.matches);
        matches.any(|one| one.path == Some(mesh::r#match::Path::Prefix(said.clone())))
    }

    /// Moves a Service into another network, which every sidecar is told.
    pub(crate) fn widen(self, mesh: &Mesh, edit: usize) -> Result<()> {
        let address = format!("10.{}.0.1", 100 + edit);
        mesh.write("wide.yaml", &service(0, "wide", &address))
    }

    /// Whether a resource tells of that network.
    pub(crate) fn is_widened(resource: &Resource, edit: usize) -> bool {
        if resource.id.kind != Kind::Networks {
            return false;
        }
        let networks = resource.decode::<mesh::Networks>().unwrap_or_default();
        networks
            .networks
            .contains(&format!("10.{}.0.0/16", 100 + edit))
    }

    /// Replaces one endpoint of the Service that many call.
    pub(crate) fn roll(self, mesh: &Mesh, step: usize) -> Result<()> {
        let addresses = (step..step + ENDPOINTS).map(endpoint);
        let endpoints = addresses.map(|address| {
            format!("  - {{ addresses: [{address}], conditions: {{ ready: true }} }}\n")
        });
        let yaml = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{ name: {FRONT}-1, namespace: {}, labels: {{ kubernetes.io/service-name: {FRONT} }} }}\n\
             addressType: IPv4\nports: [{{ name: http, port: 8080 }}]\nendpoints:\n{}",
            Self::namespace(0),
            endpoints.collect::<String>(),
        );
        mesh.write("front-slice.yaml", &yaml)
    }

    /// Whether a resource has the endpoints of that step.
    pub(crate) fn is_rolled(resource: &Resource, step: usize) -> bool {
        if resource.id.kind != Kind::Endpoints || &*resource.id.name != FRONT {
            return false;
        }
        let newest = endpoint(step + ENDPOINTS - 1);
        let endpoints = resource.decode::<mesh::Endpoints>().unwrap_or_default();
        let mut all = endpoints.ports.iter().flat_map(|port| &port.endpoints);
        all.any(|endpoint| endpoint.address == newest)
    }

    /// What a caller of that Service asks.
    pub(crate) fn front() -> Question {
        Question::Service {
            namespace: Self::namespace(0),
            name: FRONT.to_owned(),
        }
    }
}

fn endpoint(number: usize) -> String {
    format!("10.201.{}.{}", number / 250, number % 250 + 1)
}

/// As long for every edit.
fn path(edit: usize) -> String {
    format!("/v{edit:05}")
}

fn service(place: usize, name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {} }}\n\
         spec: {{ selector: {{ app: {name} }}, clusterIP: {address}, \
         ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n",
        World::namespace(place)
    )
}

fn services(place: usize) -> String {
    let all = (0..SERVICES).map(|one| {
        let number = place * SERVICES + one;
        let address = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        service(place, &format!("s{one}"), &address)
    });
    Vec::from_iter(all).join("---\n")
}

fn route(place: usize, edit: usize) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: {0}, namespace: {0} }}\n\
         spec: {{ hosts: [s0], rules: [{{ matches: [{{ path: {{ type: Prefix, value: {1} }} }}] }}] }}\n",
        World::namespace(place),
        path(edit)
    )
}

//! What `meshwright up` adds to the user's folder for the operator to read: the Pods that run, the
//! Services' addresses, and whose token is whose.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rand::Rng as _;
use serde_json::{Value, json};

use super::plan::{Port, Template};
use super::state::replace;

/// How long a token is good for. A sidecar uses it once, at its start; certificates renew
/// themselves from then on.
const TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// One replica of a workload in one of its lives, as the mesh knows it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) namespace: String,
    pub(super) pod: String,
    /// A new one in each life.
    pub(super) uid: String,
    pub(super) service_account: String,
}

/// One line of the token table.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    sha256: String,
    identity: Identity,
    expires: u64,
}

// === impl Identity ===

impl Identity {
    pub(super) fn new(namespace: &str, pod: &str, service_account: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid: uuid(),
            service_account: service_account.to_owned(),
        }
    }

    pub(super) fn spiffe(&self, trust_domain: &str) -> String {
        format!(
            "spiffe://{trust_domain}/ns/{}/sa/{}",
            self.namespace, self.service_account
        )
    }

    /// Issues a token for it: the secret, and what the operator is told of it.
    pub(super) fn token(&self) -> (String, Issued) {
        let secret: [u8; 32] = rand::rng().random();
        let token = hex(&secret);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let issued = Issued {
            sha256: hex(digest(&SHA256, token.as_bytes()).as_ref()),
            identity: self.clone(),
            expires: (now + TOKEN_LIFETIME).as_secs(),
        };
        (token, issued)
    }
}

/// Writes the table that the operator looks tokens up in.
pub(super) fn write_tokens<'a>(
    path: &Path,
    tokens: impl Iterator<Item = &'a Issued>,
) -> io::Result<()> {
    let tokens: Vec<_> = tokens
        .map(|issued| {
            json!({
                "sha256": issued.sha256,
                "namespace": issued.identity.namespace,
                "serviceAccount": issued.identity.service_account,
                "pod": issued.identity.pod,
                "uid": issued.identity.uid,
                "expires": issued.expires,
            })
        })
        .collect();
    replace(
        path,
        &serde_json::to_vec_pretty(&json!({ "tokens": tokens }))?,
    )
}

/// Writes documents to a file that the operator reads; JSON is YAML.
pub(super) fn write_documents(path: &Path, documents: &[Value]) -> io::Result<()> {
    let mut text = String::new();
    for document in documents {
        text.push_str("---\n");
        text.push_str(&serde_json::to_string_pretty(document)?);
        text.push('\n');
    }
    // The operator compiles the world again for each change: only write what is one.
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    replace(path, text.as_bytes())
}

/// The document of a Pod, as a cluster would show it.
pub(super) fn pod(
    identity: &Identity,
    template: Option<&Template>,
    address: Ipv4Addr,
    ready: bool,
) -> Value {
    let status = if ready { "True" } else { "False" };
    let ports: Vec<_> = template
        .map_or(&[][..], |template| &template.ports)
        .iter()
        .map(port)
        .collect();
    let container = template.map_or("ingress", |template| template.container.as_str());
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": identity.pod,
            "namespace": identity.namespace,
            "uid": identity.uid,
            "labels": template.map(|template| &template.labels),
            "annotations": template.map(|template| &template.annotations),
        },
        "spec": {
            "serviceAccountName": identity.service_account,
            "nodeName": "this-machine",
            "initContainers": [{ "name": "meshwright-sidecar", "restartPolicy": "Always" }],
            "containers": [{ "name": container, "ports": ports }],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": status }],
        },
    })
}

/// The document of a Service's address.
pub(super) fn service(written: &Value, address: Ipv4Addr) -> Value {
    let mut document = written.clone();
    document["spec"]["clusterIP"] = json!(address);
    document["spec"]["clusterIPs"] = json!([address]);
    document
}

fn port(port: &Port) -> Value {
    let mut document = json!({ "containerPort": port.number, "protocol": "TCP" });
    if let Some(name) = &port.name {
        document["name"] = json!(name);
    }
    document
}

/// A random UUID (version 4).
fn uuid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_a_tokens_digest_and_not_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, issued) = Identity::new("shop", "orders-0", "orders").token();
        write_tokens(&path, [issued].iter()).unwrap();

        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token));
        let table: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            table["tokens"][0]["sha256"],
            hex(digest(&SHA256, token.as_bytes()).as_ref())
        );
        assert_eq!(table["tokens"][0]["pod"], "orders-0");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_uuid_is_of_the_random_sort() {
        let uuid = uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    }
}

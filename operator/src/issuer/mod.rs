//! Who presents this token: asked of the API server in a cluster ([`review`]), of a table without
//! one ([`table`]).

mod refused;
pub mod review;
pub mod table;

use std::net::IpAddr;

use futures::future::BoxFuture;

/// The longest name that Kubernetes gives to anything, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// A pod, and the service account that it runs as. Its names are valid: none holds a `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Of the pod and its service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod's name.
    pub pod: String,
    /// Tells the pod from its predecessors of the same name.
    pub uid: String,
}

/// Decides who is asking. Nothing else does.
pub trait Issuer: Send + Sync + 'static {
    /// Whose token this is.
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Workload, Refusal>>;

    /// Whether the pod is there and it is the pod that asks, from an address of its own: a token or
    /// a leaf that was stolen is of no use elsewhere, and of none once its pod has ended.
    fn still_runs<'a>(
        &'a self,
        workload: &'a Workload,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
}

/// Why nobody is identified. The messages are for the person on call and hold no part of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is nobody's.
    #[error("{0}")]
    Unknown(String),
    /// It is somebody's, to whom no identity is given.
    #[error("{0}")]
    Denied(String),
    /// It can't be said now; asking again later may help.
    #[error("{0}")]
    Unavailable(String),
}

/// Not a name that Kubernetes gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} isn't 1 to {MAX_NAME_BYTES} characters of a-z, 0-9, '-', '.'")]
pub struct InvalidName {
    what: &'static str,
}

// === impl Workload ===

impl Workload {
    /// A workload of these names.
    ///
    /// # Errors
    /// When one of them is no name.
    pub fn new(
        namespace: &str,
        service_account: &str,
        pod: &str,
        uid: &str,
    ) -> Result<Workload, InvalidName> {
        for (what, name) in [
            ("the namespace", namespace),
            ("the service account", service_account),
            ("the pod's name", pod),
            ("the pod's UID", uid),
        ] {
            let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
            let bounded = (1..=MAX_NAME_BYTES).contains(&name.len());
            if !bounded || name.starts_with('.') || !name.bytes().all(valid) {
                return Err(InvalidName { what });
            }
        }
        Ok(Workload {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: pod.to_owned(),
            uid: uid.to_owned(),
        })
    }

    /// Its identity: the service account's, in this trust domain.
    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        crate::ca::spiffe_id(trust_domain, &self.namespace, &self.service_account)
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_names_as_kubernetes_gives_them() {
        let uid = "0d8f7ae6-4b7c-4b58-9c7f-7d5d9f3b2a11";
        let workload = Workload::new("shop", "orders", "orders-7d9f.a", uid).unwrap();
        assert_eq!(
            workload.spiffe_id("mesh.example"),
            "spiffe://mesh.example/ns/shop/sa/orders"
        );
        for name in ["", "a/b", "..", "A", "a\n", &"a".repeat(254)] {
            assert!(
                Workload::new("shop", name, "orders", uid).is_err(),
                "{name:?}"
            );
            assert!(
                Workload::new("shop", "orders", name, uid).is_err(),
                "{name:?}"
            );
        }
    }
}

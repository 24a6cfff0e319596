//! SPIFFE ids (the SPIFFE-ID standard, section 2) in the form the mesh gives them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The standard's bound on a SPIFFE id, bytes.
const MAX_LENGTH: usize = 2048;

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`: a parsed and bounded id.
/// Cheap to clone and to compare.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    // Where the parts begin and end in `text`.
    trust_domain: (u16, u16),
    namespace: (u16, u16),
    service_account: (u16, u16),
}

/// Why a text is no identity of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no workload identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
)]
pub struct NotAnIdentity(String);

// === impl SpiffeId ===

impl SpiffeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain that vouches for it.
    pub fn trust_domain(&self) -> &str {
        self.part(self.trust_domain)
    }

    /// The namespace of the workload.
    pub fn namespace(&self) -> &str {
        self.part(self.namespace)
    }

    /// The service account of the workload.
    pub fn service_account(&self) -> &str {
        self.part(self.service_account)
    }

    fn part(&self, (from, to): (u16, u16)) -> &str {
        &self.text[usize::from(from)..usize::from(to)]
    }
}

impl FromStr for SpiffeId {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| NotAnIdentity(text.chars().take(100).collect()))
    }
}

fn parse(text: &str) -> Option<SpiffeId> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let mut parts = text.strip_prefix("spiffe://")?.split('/');
    let trust_domain = parts.next()?;
    if parts.next()? != "ns" {
        return None;
    }
    let namespace = parts.next()?;
    if parts.next()? != "sa" {
        return None;
    }
    let service_account = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    if ![trust_domain, namespace, service_account]
        .iter()
        .all(|part| is_name(part))
    {
        return None;
    }
    // The parts are slices of `text`, in order; the bound above keeps every offset within u16.
    let at = |from: usize, part: &str| {
        Some((
            u16::try_from(from).ok()?,
            u16::try_from(from + part.len()).ok()?,
        ))
    };
    let domain_from = "spiffe://".len();
    let namespace_from = domain_from + trust_domain.len() + "/ns/".len();
    let account_from = namespace_from + namespace.len() + "/sa/".len();
    Some(SpiffeId {
        text: text.into(),
        trust_domain: at(domain_from, trust_domain)?,
        namespace: at(namespace_from, namespace)?,
        service_account: at(account_from, service_account)?,
    })
}

/// The characters that trust domains, namespaces and service accounts have in common.
fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_into_its_parts() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "orders");
    }

    #[test]
    fn what_is_not_exactly_an_identity_is_refused() {
        for text in [
            "",
            "spiffe://",
            "http://cluster.local/ns/shop/sa/orders",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns/shop/sa/orders/",
            "spiffe://cluster.local/ns/shop/sa/orders/more",
            "spiffe://cluster.local/ns/../sa/orders%2f",
            "spiffe://cluster.local/sa/orders/ns/shop",
            "spiffe://Cluster.local/ns/shop/sa/orders",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        assert!(
            format!("spiffe://a/ns/{}/sa/b", "x".repeat(3000))
                .parse::<SpiffeId>()
                .is_err()
        );
    }
}

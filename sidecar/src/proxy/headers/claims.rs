//! Headers with which somebody in front says where a request comes from and who sent it.
//!
//! | | names | from outside the mesh | from a peer |
//! |---|---|---|---|
//! | identity | `client-cert*` (RFC 9440), `x-client-cert*`, `x-forwarded-client-cert` (Envoy), `x-forwarded-tls-client-cert*` (Traefik), `ssl-client-*`, `x-ssl-*` (nginx, HAProxy), `x-arr-clientcert` (Azure), `x-amzn-mtls-*` (AWS), `l5d-client-id` (Linkerd) | removed | removed |
//! | origin | `forwarded` (RFC 7239), `x-forwarded*`, `x-real-ip`, `x-client-ip`, `x-cluster-client-ip`, `x-original-forwarded-for`, `true-client-ip`, `cf-connecting-ip`, `x-envoy-*`, `l5d-*`, `remote-user`, `x-remote-*`, `x-auth-request-*` | removed | passed |
//!
//! Who a peer is says its certificate, and nothing that a peer writes can: an identity header that
//! arrives is somebody's word, which the application would take for the mesh's. So none does.
//!
//! Origin headers between peers are data of the application that wrote them, such as an ingress in
//! the mesh: they are worth what that application is. Outside it nobody is known who wrote them.

use http::header::{HeaderMap, HeaderName};
use wire::claims::says_who_calls;

use crate::identity::SpiffeId;

/// Where a request has come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A peer, known by its certificate.
    Peer,
    /// Plaintext, or anybody else outside the mesh.
    Outside,
}

impl Origin {
    /// A peer when an identity was proved.
    pub fn of(identity: Option<&SpiffeId>) -> Self {
        match identity {
            Some(_) => Self::Peer,
            None => Self::Outside,
        }
    }
}

/// Where the caller is, and on whose behalf it calls.
const ORIGIN: &[&str] = &[
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "cf-connecting-ip",
    "remote-user",
];
const ORIGIN_FAMILIES: &[&str] = &[
    "x-forwarded",
    "x-envoy-",
    "l5d-",
    "x-remote-",
    "x-auth-request-",
];

/// Whose request it is, by name or by what only that person has: what is answered to one may be for
/// nobody else, whoever wrote it.
const PERSONS: &[&str] = &[
    "remote-user",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-forwarded-access-token",
    "x-user",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
    "proxy-authorization",
];
const PERSON_FAMILIES: &[&str] = &[
    "x-remote-",
    "x-auth-request-",
    "x-user-",
    "x-amzn-oidc-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "cf-access-",
];

/// What was asked of whoever is in front: applications write it into links and redirects.
const ASKED_IN_FRONT: &[&str] = &[
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
];

/// What makes another request of one, for applications that know it: another method, another path.
const OTHER_METHODS: &[&str] = &[
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
const OTHER_PATHS: &[&str] = &["x-original-url", "x-rewrite-url"];

/// Removes what must not be believed.
pub fn remove_claims(headers: &mut HeaderMap, from: Origin) {
    super::remove(headers, |name| match from {
        Origin::Peer => is_identity(name),
        Origin::Outside => is_claim(name),
    });
}

/// Of either kind.
pub(super) fn is_claim(name: &HeaderName) -> bool {
    is_identity(name) || is_of(name.as_str(), ORIGIN, ORIGIN_FAMILIES)
}

/// Whether a header says whose request it is.
pub fn names_a_person(name: &HeaderName) -> bool {
    // It names a program.
    name != "x-user-agent" && is_of(name.as_str(), PERSONS, PERSON_FAMILIES)
}

/// Whether a header says what was asked of whoever is in front.
pub fn says_what_was_asked(name: &HeaderName) -> bool {
    is_of(name.as_str(), ASKED_IN_FRONT, &[])
}

/// Whether there are applications for which a header names another method.
pub fn names_a_method(name: &HeaderName) -> bool {
    is_of(name.as_str(), OTHER_METHODS, &[])
}

/// Whether there are applications for which a header names another path.
pub fn names_a_path(name: &HeaderName) -> bool {
    is_of(name.as_str(), OTHER_PATHS, &[])
}

pub(super) fn is_identity(name: &HeaderName) -> bool {
    says_who_calls(name.as_str())
}

fn is_of(name: &str, names: &[&str], families: &[&str]) -> bool {
    if name.contains('_') {
        return is_of(&name.replace('_', "-"), names, families);
    }
    names.contains(&name) || families.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: &[&str] = &[
        "client-cert",
        "client-cert-chain",
        "x-client-cert",
        "x-client-cert-verified",
        "x-forwarded-client-cert",
        "x-forwarded-tls-client-cert-info",
        "ssl-client-verify",
        "ssl-client-subject-dn",
        "x-ssl-client-cert",
        "x-arr-clientcert",
        "x-amzn-mtls-clientcert",
        "l5d-client-id",
        "x_forwarded-client_cert",
    ];
    const PLACES: &[&str] = &[
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-user",
        "x-real-ip",
        "true-client-ip",
        "x-envoy-internal",
        "l5d-dst-override",
        "x-remote-user",
        "x-auth-request-email",
        "x_forwarded_for",
    ];
    const OTHERS: &[&str] = &[
        "accept",
        "client",
        "x-request-id",
        "traceparent",
        "x-forward",
    ];

    #[test]
    fn headers_that_name_a_person_are_known_by_name_and_family_and_no_others_are() {
        for name in [
            "remote-user",
            "x-remote-user",
            "x_remote_groups",
            "x-auth-request-email",
            "x-forwarded-user",
            "x_forwarded_email",
            "x-forwarded-access-token",
            "x-user",
            "x-user-id",
            "x-api-key",
            "proxy-authorization",
        ] {
            assert!(names_a_person(&HeaderName::from_static(name)), "{name}");
        }
        let origin = ["x-forwarded-for", "x-forwarded-proto", "x-user-agent"];
        for name in origin.iter().chain(OTHERS) {
            assert!(!names_a_person(&HeaderName::from_static(name)), "{name}");
        }
    }

    fn left(from: Origin) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for name in [CLAIMS, PLACES, OTHERS].concat() {
            // More than one line each.
            headers.append(HeaderName::from_static(name), "1".parse().unwrap());
            headers.append(HeaderName::from_static(name), "2".parse().unwrap());
        }
        remove_claims(&mut headers, from);
        let mut left: Vec<_> = headers
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn nobody_vouches_for_an_identity_and_only_peers_for_an_origin() {
        let mut of_a_peer = [PLACES, OTHERS].concat();
        of_a_peer.sort_unstable();
        assert_eq!(left(Origin::Peer), of_a_peer);
        let mut of_a_stranger = OTHERS.to_vec();
        of_a_stranger.sort_unstable();
        assert_eq!(left(Origin::Outside), of_a_stranger);
    }
}

//! Headers that say who calls: a route edits none of them, and nobody who sends one is believed.

/// Names.
const NAMES: &[&str] = &["x-arr-clientcert", "l5d-client-id"];

/// Beginnings of names: of RFC 9440, Envoy, Traefik, nginx, HAProxy and AWS.
const FAMILIES: &[&str] = &[
    "client-cert",
    "x-client-cert",
    "x-forwarded-client-cert",
    "x-forwarded-tls-client-cert",
    "ssl-client-",
    "x-ssl-",
    "x-amzn-mtls-",
];

/// Whether a header of this name, in lower case, says who calls; also with `_` for `-`, which is the same
/// to applications that get headers as variables (RFC 3875 section 4.1.18).
pub fn says_who_calls(name: &str) -> bool {
    if name.contains('_') {
        return says_who_calls(&name.replace('_', "-"));
    }
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

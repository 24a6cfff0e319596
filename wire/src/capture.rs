//! What injection tells the CNI plugin about a pod: both read the name here. And what the compiler
//! reads of what was injected.

/// The annotation of a pod that the CNI plugin captures: the arguments that the init container's
/// `meshwright-sidecar redirect` would have, as a JSON list of strings. Injection writes it over
/// whatever the pod says.
pub const REDIRECT: &str = "meshwright.dev/redirect";

/// The variable of a sidecar whose pod the CNI plugin captures: the ports that are reached without it,
/// with commas between them. The annotation can be edited while the pod runs, and this can't.
pub const EXCLUDED_INBOUND: &str = "MESHWRIGHT_EXCLUDED_INBOUND_PORTS";

/// The page that says whether a sidecar is ready of a pod that somebody else must have captured: a sidecar that
/// does not look whether anybody did has no such page.
pub const READY: &str = "/ready/captured";

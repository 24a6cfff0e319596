//! What injection tells the CNI plugin about a pod: both read the name here.

/// The annotation of a pod that the CNI plugin captures: the arguments that the init container's
/// `meshwright-sidecar redirect` would have, as a JSON list of strings. Injection writes it over
/// whatever the pod says.
pub const REDIRECT: &str = "meshwright.dev/redirect";

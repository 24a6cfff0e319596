//! Captures the pods in which no container may do it.
//!
//! The redirect takes NET_ADMIN, which a namespace at the Pod Security level `baseline` or
//! `restricted` lets no container have. There the container runtime does it, which makes every pod's
//! network by calling plugins of the node (CNI): this is one more at the end of the chain, and it
//! installs the very rules that the init container would ([`sidecar::capture`]).
//!
//! ```text
//! kubelet ─▶ container runtime ─▶ bridge, Calico, … ─▶ meshwright-cni ─▶ the pod's containers
//!                 │                                        ▲
//!                 └── the pod's annotations ───────────────┘
//! ```
//!
//! [`plugin`] is one call of the runtime; [`network`] edits the list of plugins; [`install`] keeps
//! this one on a node, as a DaemonSet; [`daemon_set`] is how that knows an upgrade from its end.
//!
//! What to do with a pod stands in its annotation [`wire::capture::REDIRECT`], which injection
//! writes. The runtime itself tells the plugin of annotations (containerd since 1.5, every CRI-O for
//! a Kubernetes of today), as the kubelet told them to it. So the plugin asks nobody: no API server that may be away
//! while every pod of the node waits for it, no token on the node's disk, no process that must be
//! up. Where a runtime tells no annotations no pod is captured, and then the sidecar of one that
//! should have been ends with the reason ([`sidecar::capture::in_force`]): this fails closed,
//! and fails nobody who is not of the mesh.
//!
//! A crate of its own, because a sidecar knows no Kubernetes, and a node's plugin needs no proxy.

pub mod daemon_set;
pub mod enter;
pub mod install;
pub mod network;
pub mod plugin;

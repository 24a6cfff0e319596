//! A real Kubernetes: what only the API server, the kubelet and real pods can show.

mod access;
mod addresses;
mod cache;
mod certificates;
mod chart;
mod cni;
mod commands;
mod configuration;
mod idempotency;
mod images;
mod injection;
mod installation;
mod installing;
mod life;
mod load;
mod permissive;
mod probes;
mod quickstart;
mod rate_limit;
mod retry_policy;
mod rights;
mod rotation;
mod shop;
mod spine;
mod traffic;
mod workloads;

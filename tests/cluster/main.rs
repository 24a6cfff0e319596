//! A real Kubernetes: what only the API server, the kubelet and real pods can show.

mod access;
mod addresses;
mod cache;
mod certificates;
mod commands;
mod configuration;
mod idempotency;
mod injection;
mod installation;
mod life;
mod load;
mod permissive;
mod probes;
mod quickstart;
mod rate_limit;
mod replicas;
mod retry_policy;
mod rights;
mod rotation;
mod shop;
mod spine;
mod traffic;
mod workloads;

//! A real Kubernetes: what only the API server, the kubelet and real pods can show.

mod access;
mod addresses;
mod bad_input;
mod cache;
mod certificates;
mod commands;
mod configuration;
mod idempotency;
mod injection;
mod installation;
mod least_privilege;
mod life;
mod load;
mod permissive;
mod quickstart;
mod rate_limit;
mod retry_policy;
mod rights;
mod shop;
mod spine;
mod traffic;
mod validation;

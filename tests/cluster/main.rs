//! A real Kubernetes: what only the API server, the kubelet and real pods can show.

mod certificates;
mod commands;
mod configuration;
mod injection;
mod installation;
mod life;
mod load;
mod quickstart;
mod retry_policy;
mod shop;
mod spine;
mod traffic;

//! What the operator is told on its command line; static for the life of the process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::ca::{LEAF_LIFE, MIN_LEAF_LIFE, MIN_ROOT_LIFE};
use crate::inject::SidecarArgs;

/// Where sidecars expect discovery and certificates: the Service's port.
pub const GRPC_PORT: u16 = 15012;

/// The operator's settings: flags, or the environment variables named beside them.
#[derive(Clone, Debug, Parser)]
#[command(name = "meshwright-operator", version, about)]
pub struct Config {
    /// Read objects from the YAML files below this folder instead of a cluster. Repeatable: the
    /// first folder that names an object wins, a later one completes its Services' cluster
    /// addresses. An object without a namespace is in `default`.
    #[arg(long = "files", value_name = "DIR")]
    pub files: Vec<PathBuf>,

    /// Where the certificate authority keeps its keys (folder mode), mode 0600.
    #[arg(long, value_name = "DIR", env = "MESHWRIGHT_STATE")]
    pub state: Option<PathBuf>,

    /// The local issuer's table of tokens (folder mode).
    #[arg(long, value_name = "FILE", env = "MESHWRIGHT_TOKENS")]
    pub tokens: Option<PathBuf>,

    /// Discovery and certificates, for sidecars.
    #[arg(long, value_name = "ADDR", default_value_t = any(GRPC_PORT), env = "MESHWRIGHT_LISTEN_GRPC")]
    pub listen_grpc: SocketAddr,

    /// Verdicts, readiness and metrics, for people and probes.
    #[arg(long, value_name = "ADDR", default_value_t = any(15014), env = "MESHWRIGHT_LISTEN_HTTP")]
    pub listen_http: SocketAddr,

    /// The injection webhook, for the API server (only in a cluster).
    #[arg(long, value_name = "ADDR", default_value_t = any(15017), env = "MESHWRIGHT_LISTEN_WEBHOOK")]
    pub listen_webhook: SocketAddr,

    /// The trust domain of every identity.
    #[arg(long, default_value = "cluster.local", env = "MESHWRIGHT_TRUST_DOMAIN")]
    pub trust_domain: String,

    /// The life of a workload's certificate, such as 12h: at least a minute, at most 24h. It is
    /// renewed at half of it, so that a shorter one makes more work, and leaves less time for an
    /// operator that is away to come back.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = leaf_life, env = "MESHWRIGHT_LEAF_LIFE")]
    pub leaf_life: Duration,

    /// The life of a root of the mesh's own certificate authority, such as 87600h (ten years): at
    /// least 720h (30 days). When a fifth of it is left the next root takes its place, which takes two
    /// lives of a workload's certificate. Holds for roots that are made from now on.
    #[arg(long, value_name = "DURATION", default_value = "87600h", value_parser = root_life, env = "MESHWRIGHT_ROOT_LIFE")]
    pub root_life: Duration,

    /// A Secret in the operator's namespace with the certificate authority, as cert-manager writes
    /// it: tls.crt (which may sign others), tls.key and ca.crt (only in a cluster). Without it the
    /// operator makes its own.
    #[arg(long, value_name = "NAME", env = "MESHWRIGHT_CA_SECRET")]
    pub ca_secret: Option<String>,

    /// The DNS domain of the cluster's Services.
    #[arg(
        long,
        default_value = "cluster.local",
        env = "MESHWRIGHT_CLUSTER_DOMAIN"
    )]
    pub cluster_domain: String,

    /// The namespace that the operator runs in.
    #[arg(
        long,
        default_value = "meshwright-system",
        env = "MESHWRIGHT_NAMESPACE"
    )]
    pub namespace: String,

    /// The Service, in that namespace, by which sidecars and the API server reach the operator.
    #[arg(
        long,
        default_value = "meshwright-operator",
        env = "MESHWRIGHT_SERVICE"
    )]
    pub service: String,

    /// This replica's name, unlike any other's: the pod's, in a cluster. Without it one is drawn.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// The address by which other replicas reach this one: the pod's, in a cluster. Without it they
    /// can't tell this one what their sidecars hold.
    #[arg(long, value_name = "ADDR", env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,

    /// What the injected sidecars are like (only in a cluster).
    #[command(flatten)]
    pub sidecar: SidecarArgs,
}

// === impl Config ===

impl Config {
    /// Whether objects come from folders and not from a cluster.
    pub fn is_local(&self) -> bool {
        !self.files.is_empty()
    }

    /// The gRPC address as a pod reaches it, host:port.
    pub fn advertised(&self) -> String {
        let Config {
            service,
            namespace,
            cluster_domain,
            ..
        } = self;
        format!("{service}.{namespace}.svc.{cluster_domain}:{GRPC_PORT}")
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

fn span(text: &str) -> Result<Duration, String> {
    let written: crds::Duration = text
        .parse()
        .map_err(|error: crds::ParseDurationError| error.to_string())?;
    Ok(Duration::from_millis(written.millis()))
}

fn root_life(text: &str) -> Result<Duration, String> {
    let life = span(text)?;
    match life >= MIN_ROOT_LIFE {
        true => Ok(life),
        false => Err("a root lives for at least 720h (30 days)".to_owned()),
    }
}

fn leaf_life(text: &str) -> Result<Duration, String> {
    let life = span(text)?;
    if (MIN_LEAF_LIFE..=LEAF_LIFE).contains(&life) {
        Ok(life)
    } else {
        Err("a certificate lives for at least 1m and at most 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_folders_the_objects_come_from_a_cluster() {
        let config = Config::parse_from(["meshwright-operator"]);
        assert!(!config.is_local());
        assert_eq!(config.listen_grpc.port(), 15012);
    }

    #[test]
    fn folders_keep_the_order_in_which_they_were_given() {
        let config = Config::parse_from(["meshwright-operator", "--files", "b", "--files", "a"]);
        assert_eq!(config.files, [PathBuf::from("b"), PathBuf::from("a")]);
    }

    #[test]
    fn a_root_lives_for_ten_years_or_as_long_as_is_said_but_not_for_less_than_a_month() {
        let parse =
            |life: &str| Config::try_parse_from(["meshwright-operator", "--root-life", life]);
        let default = Config::parse_from(["meshwright-operator"]);
        assert_eq!(default.root_life, crate::ca::ROOT_LIFE);
        assert_eq!(parse("720h").unwrap().root_life, MIN_ROOT_LIFE);
        let refused = parse("719h").unwrap_err().to_string();
        assert!(refused.contains("at least 720h"), "{refused}");
    }

    #[test]
    fn a_certificate_lives_for_a_day_or_as_long_as_is_said_within_bounds() {
        let parse =
            |life: &str| Config::try_parse_from(["meshwright-operator", "--leaf-life", life]);
        let default = Config::parse_from(["meshwright-operator"]);
        assert_eq!(default.leaf_life, LEAF_LIFE);
        for (life, seconds) in [("1m", 60), ("90s", 90), ("1h30m", 5400), ("24h", 86_400)] {
            let config = parse(life).unwrap();
            assert_eq!(config.leaf_life, Duration::from_secs(seconds), "{life}");
        }
        for life in ["59s", "0s", "86401s", "25h", "60", "", "a day"] {
            let refused = parse(life).unwrap_err().to_string();
            let says = refused.contains("at least 1m and at most 24h")
                || refused.contains("is not a duration");
            assert!(says, "{life}: {refused}");
        }
    }
}

//! What a pod's annotations say of its sidecar alone: which connections go around it, what it may use,
//! what it logs.
//!
//! Injection reads them in a cluster; the compiler itself only which ports callers reach without the
//! sidecar.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use wire::capture::EXCLUDED_INBOUND;
use wire::probe::SIDECAR_PORTS;

use crate::permissive::{Unreadable, ports, shown, text};
use crate::workload::SIDECAR_CONTAINER;

/// The init container that installs the redirect where the CNI plugin doesn't.
pub const REDIRECT_CONTAINER: &str = "meshwright-redirect";
/// How it is told of a port that callers reach without the sidecar.
pub const EXCLUDE_INBOUND_FLAG: &str = "--exclude-inbound-port";

/// Ports of the pod that are reached without the sidecar: `9090,9100`. The mesh protects none of them.
pub const EXCLUDE_INBOUND_PORTS: &str = "meshwright.dev/exclude-inbound-ports";
/// Ports that the pod calls without the sidecar, wherever they are: `3306`.
pub const EXCLUDE_OUTBOUND_PORTS: &str = "meshwright.dev/exclude-outbound-ports";
/// Networks that the pod calls without the sidecar: `10.1.0.0/16,fd00:1::/64`.
pub const EXCLUDE_OUTBOUND_CIDRS: &str = "meshwright.dev/exclude-outbound-cidrs";
/// What the sidecar is given of the processor at least, as Kubernetes writes it: `100m`.
pub const CPU_REQUEST: &str = "meshwright.dev/sidecar-cpu-request";
/// What it may use of the processor at most.
pub const CPU_LIMIT: &str = "meshwright.dev/sidecar-cpu-limit";
/// What it is given of memory at least: `64Mi`.
pub const MEMORY_REQUEST: &str = "meshwright.dev/sidecar-memory-request";
/// What it may use of memory at most.
pub const MEMORY_LIMIT: &str = "meshwright.dev/sidecar-memory-limit";
/// What it logs: a level such as `debug`, or `info,sidecar=debug`.
pub const LOG: &str = "meshwright.dev/sidecar-log";
/// Threads that carry requests.
pub const WORKERS: &str = "meshwright.dev/sidecar-workers";

/// Every annotation that is read here.
pub const ALL: [&str; 9] = [
    EXCLUDE_INBOUND_PORTS,
    EXCLUDE_OUTBOUND_PORTS,
    EXCLUDE_OUTBOUND_CIDRS,
    CPU_REQUEST,
    CPU_LIMIT,
    MEMORY_REQUEST,
    MEMORY_LIMIT,
    LOG,
    WORKERS,
];

/// The most networks that a pod can name: each is a rule in its kernel.
const MAX_CIDRS: usize = 32;
/// The most threads that a sidecar can be told to have.
const MAX_WORKERS: u8 = 64;
/// Bytes of what a sidecar is told to log.
const MAX_LOG: usize = 256;

/// What the annotations of a pod say; what they don't is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSettings {
    /// [`EXCLUDE_INBOUND_PORTS`], in order.
    pub exclude_inbound_ports: Vec<u16>,
    /// [`EXCLUDE_OUTBOUND_PORTS`], in order.
    pub exclude_outbound_ports: Vec<u16>,
    /// [`EXCLUDE_OUTBOUND_CIDRS`], in order.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// [`CPU_REQUEST`].
    pub cpu_request: Option<Quantity>,
    /// [`CPU_LIMIT`].
    pub cpu_limit: Option<Quantity>,
    /// [`MEMORY_REQUEST`].
    pub memory_request: Option<Quantity>,
    /// [`MEMORY_LIMIT`].
    pub memory_limit: Option<Quantity>,
    /// [`LOG`].
    pub log: Option<String>,
    /// [`WORKERS`].
    pub workers: Option<u8>,
}

/// An amount as Kubernetes writes it, with what it is in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// As written.
    pub text: String,
    /// In thousandths of a core, or of a byte.
    pub milli: u128,
}

/// The ports at which callers reach the application itself: those that were excluded when the pod was
/// injected. The annotation may say something else by now, and changes no rule of the pod's kernel.
pub(crate) fn excluded_inbound(pod: &Pod) -> Vec<u16> {
    let spec = pod.spec.as_ref();
    let named = |name: &str| {
        let init = spec.and_then(|spec| spec.init_containers.as_ref());
        init.into_iter().flatten().find(|one| one.name == name)
    };
    if let Some(redirect) = named(REDIRECT_CONTAINER) {
        return told(redirect.args.iter().flatten());
    }
    let Some(sidecar) = named(SIDECAR_CONTAINER) else {
        return Vec::new();
    };
    match variable(sidecar, EXCLUDED_INBOUND) {
        Some(ports) => ports
            .split(',')
            .filter_map(|port| port.parse().ok())
            .collect(),
        // Injected by an operator that did not write it: the next best is what the plugin was told.
        None => {
            let annotation = text(pod.metadata.annotations.as_ref(), wire::capture::REDIRECT);
            let arguments: Option<Vec<String>> =
                annotation.and_then(|text| serde_json::from_str(text).ok());
            told(arguments.iter().flatten())
        }
    }
}

/// Of a container's arguments and variables what the compiler reads: the rest of a pod is not worth its memory.
pub fn only_exclusions(container: &mut Container) {
    let arguments = container.args.take().unwrap_or_default();
    if container.name == REDIRECT_CONTAINER {
        let values = arguments.iter().skip(1);
        let pairs = arguments.iter().zip(values);
        let excluded = pairs.filter(|(flag, _)| **flag == EXCLUDE_INBOUND_FLAG);
        let excluded = excluded.flat_map(|(flag, port)| [flag.clone(), port.clone()]);
        container.args = Some(excluded.collect());
    }
    let is_sidecar = container.name == SIDECAR_CONTAINER;
    if let Some(variables) = &mut container.env {
        variables.retain(|one| is_sidecar && one.name == EXCLUDED_INBOUND);
    }
    if !is_sidecar {
        container.env = None;
    }
}

/// What arguments of a redirect exclude.
fn told<'a>(arguments: impl Iterator<Item = &'a String> + Clone) -> Vec<u16> {
    let values = arguments.clone().skip(1);
    let pairs = arguments.zip(values);
    let excluded = pairs.filter(|(flag, _)| *flag == EXCLUDE_INBOUND_FLAG);
    excluded.filter_map(|(_, port)| port.parse().ok()).collect()
}

/// What a container's variable holds: of several of one name the last.
fn variable<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let mut all = container.env.iter().flatten().rev();
    all.find(|one| one.name == name)?.value.as_deref()
}

fn inbound(metadata: &ObjectMeta) -> Result<Vec<u16>, Unreadable> {
    let ports = ports(metadata, EXCLUDE_INBOUND_PORTS, "none is excluded")?;
    match ports.iter().find(|port| SIDECAR_PORTS.contains(port)) {
        None => Ok(ports),
        Some(port) => Err(unreadable(
            EXCLUDE_INBOUND_PORTS,
            format!(
                "has {port}, which is the sidecar's own: whoever reached it as it is would call others through this \
                 sidecar, with its identity; write ports of the application. Until then none is excluded"
            ),
        )),
    }
}

// === impl PodSettings ===

impl PodSettings {
    /// Reads a pod's annotations.
    ///
    /// # Errors
    /// The first that can't be read.
    pub fn read(metadata: &ObjectMeta) -> Result<Self, Unreadable> {
        Ok(Self {
            exclude_inbound_ports: inbound(metadata)?,
            exclude_outbound_ports: ports(metadata, EXCLUDE_OUTBOUND_PORTS, "none is excluded")?,
            exclude_outbound_cidrs: cidrs(metadata)?,
            cpu_request: quantity(metadata, CPU_REQUEST, "100m")?,
            cpu_limit: quantity(metadata, CPU_LIMIT, "100m")?,
            memory_request: quantity(metadata, MEMORY_REQUEST, "64Mi")?,
            memory_limit: quantity(metadata, MEMORY_LIMIT, "64Mi")?,
            log: log(metadata)?,
            workers: workers(metadata)?,
        })
    }
}

fn cidrs(metadata: &ObjectMeta) -> Result<Vec<IpNet>, Unreadable> {
    let Some(written) = text(metadata.annotations.as_ref(), EXCLUDE_OUTBOUND_CIDRS) else {
        return Ok(Vec::new());
    };
    let wrong = |what: String| {
        unreadable(
            EXCLUDE_OUTBOUND_CIDRS,
            format!(
                "{what}: write up to {MAX_CIDRS} networks with commas between them, such as \
                 \"10.1.0.0/16,fd00:1::/64\"; until then none is excluded"
            ),
        )
    };
    let mut networks = Vec::new();
    for part in written.split(',').map(str::trim) {
        let network: Result<IpNet, _> = part.parse();
        match network {
            Ok(_) if networks.len() == MAX_CIDRS => {
                return Err(wrong("names too many networks".to_owned()));
            }
            Ok(network) if network.trunc() == network => networks.push(network),
            Ok(network) => {
                let meant = network.trunc();
                return Err(wrong(format!("has {}, which is {meant}", shown(part))));
            }
            Err(_) => return Err(wrong(format!("has {}, which is no network", shown(part)))),
        }
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

fn quantity(
    metadata: &ObjectMeta,
    annotation: &str,
    example: &str,
) -> Result<Option<Quantity>, Unreadable> {
    let Some(written) = text(metadata.annotations.as_ref(), annotation) else {
        return Ok(None);
    };
    let read = Quantity::read(written);
    read.map(Some).ok_or_else(|| {
        let why = format!(
            "is {}: write an amount as in a container's resources, such as {example}",
            shown(written)
        );
        unreadable(annotation, why)
    })
}

/// Levels, and levels of parts of the sidecar: what it can't read it would take for nothing at all.
fn log(metadata: &ObjectMeta) -> Result<Option<String>, Unreadable> {
    let Some(written) = text(metadata.annotations.as_ref(), LOG) else {
        return Ok(None);
    };
    let is_level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    let is_part = |word: &str| {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
        !word.is_empty() && word.bytes().all(named)
    };
    let readable = written.split(',').all(|one| match one.split_once('=') {
        Some((part, level)) => is_part(part) && is_level(level),
        None => is_level(one),
    });
    if readable && written.len() <= MAX_LOG {
        return Ok(Some(written.to_owned()));
    }
    let why = format!(
        "is {}: write error, warn, info, debug, or such as info,sidecar=debug",
        shown(written)
    );
    Err(unreadable(LOG, why))
}

fn workers(metadata: &ObjectMeta) -> Result<Option<u8>, Unreadable> {
    let Some(written) = text(metadata.annotations.as_ref(), WORKERS) else {
        return Ok(None);
    };
    let number = written.parse().ok();
    let number = number.filter(|number| (1..=MAX_WORKERS).contains(number));
    number.map(Some).ok_or_else(|| {
        let why = format!(
            "is {}: write a number from 1 to {MAX_WORKERS}",
            shown(written)
        );
        unreadable(WORKERS, why)
    })
}

fn unreadable(annotation: &str, message: String) -> Unreadable {
    Unreadable {
        field: format!("metadata.annotations.{annotation}"),
        message,
    }
}

// === impl Quantity ===

impl Quantity {
    /// Reads an amount above zero: digits, perhaps a fraction, perhaps a unit.
    pub fn read(text: &str) -> Option<Self> {
        /// Digits before and after the point, at most: what a node has is far below.
        const MOST_DIGITS: usize = 15;
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.len() <= MOST_DIGITS;
        if !digits(whole) || !digits(fraction) {
            return None;
        }
        let unit: u128 = match unit {
            "m" => 1,
            "" => 1000,
            "k" => 1000 * 1000,
            "M" => 1000 * 1000_u128.pow(2),
            "G" => 1000 * 1000_u128.pow(3),
            "T" => 1000 * 1000_u128.pow(4),
            "Ki" => 1000 * 1024,
            "Mi" => 1000 * 1024_u128.pow(2),
            "Gi" => 1000 * 1024_u128.pow(3),
            "Ti" => 1000 * 1024_u128.pow(4),
            _ => return None,
        };
        let whole: u128 = whole.parse().ok()?;
        let parts: u128 = fraction.parse().ok()?;
        let of = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let milli = whole.checked_mul(unit)? + parts.checked_mul(unit)? / of;
        (milli > 0).then(|| Self {
            text: text.to_owned(),
            milli,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(annotation: &str, value: &str) -> Result<PodSettings, Unreadable> {
        let metadata = json!({ "annotations": { annotation: value } });
        PodSettings::read(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn what_a_pod_says_of_its_sidecar_is_read() {
        let said = read(EXCLUDE_INBOUND_PORTS, "9100, 9090").unwrap();
        assert_eq!(said.exclude_inbound_ports, [9090, 9100]);
        let said = read(EXCLUDE_OUTBOUND_PORTS, "3306").unwrap();
        assert_eq!(said.exclude_outbound_ports, [3306]);
        let said = read(
            EXCLUDE_OUTBOUND_CIDRS,
            "fd00:1::/64, 10.1.0.0/16, 10.1.0.0/16",
        )
        .unwrap();
        let networks: Vec<_> = said
            .exclude_outbound_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks, ["10.1.0.0/16", "fd00:1::/64"]);
        assert_eq!(
            read(LOG, "info,sidecar::net=debug").unwrap().log.unwrap(),
            "info,sidecar::net=debug"
        );
        assert_eq!(read(WORKERS, "2").unwrap().workers, Some(2));
        let memory = read(MEMORY_LIMIT, "1.5Gi").unwrap().memory_limit.unwrap();
        assert_eq!(memory.milli, 1536 * 1024 * 1024 * 1000);
        assert_eq!(
            read(CPU_REQUEST, "250m")
                .unwrap()
                .cpu_request
                .unwrap()
                .milli,
            250
        );
        assert_eq!(
            read(CPU_LIMIT, "0.25").unwrap().cpu_limit.unwrap().milli,
            250
        );
        assert_eq!(
            PodSettings::read(&ObjectMeta::default()).unwrap(),
            PodSettings::default()
        );
    }

    #[test]
    fn no_port_of_the_sidecars_is_excluded_for_who_calls_the_pod() {
        for port in SIDECAR_PORTS {
            let why = read(EXCLUDE_INBOUND_PORTS, &format!("9090,{port}")).unwrap_err();
            let says = format!("has {port}, which is the sidecar's own");
            assert!(why.message.starts_with(&says), "{why}");
        }
        // Those of others: a scraper may call sidecars' metrics as they are.
        let said = read(EXCLUDE_OUTBOUND_PORTS, "15020").unwrap();
        assert_eq!(said.exclude_outbound_ports, [15020]);
    }

    #[test]
    fn what_is_excluded_is_what_was_injected_whatever_the_annotation_says_later() {
        let pod = |init: serde_json::Value, redirect: &str| -> Pod {
            let later = json!({ EXCLUDE_INBOUND_PORTS: "7777", wire::capture::REDIRECT: redirect });
            let spec = json!({ "containers": [{ "name": "app" }], "initContainers": init });
            serde_json::from_value(json!({ "metadata": { "annotations": later }, "spec": spec }))
                .unwrap()
        };
        let sidecar = |env: serde_json::Value| json!({ "name": SIDECAR_CONTAINER, "env": env });
        let args = ["redirect", "--uid", "1337", EXCLUDE_INBOUND_FLAG, "9090"];
        let by_init = json!([{ "name": REDIRECT_CONTAINER, "args": args }, sidecar(json!([]))]);
        assert_eq!(excluded_inbound(&pod(by_init, "[]")), [9090]);
        let without =
            json!([{ "name": REDIRECT_CONTAINER, "args": args[..3] }, sidecar(json!([]))]);
        assert!(excluded_inbound(&pod(without, "[]")).is_empty());

        let edited = r#"["--exclude-inbound-port","6666"]"#;
        for (written, excluded) in [("9090,9100", &[9090, 9100][..]), ("", &[])] {
            let env = json!([{ "name": EXCLUDED_INBOUND, "value": written }]);
            assert_eq!(
                excluded_inbound(&pod(json!([sidecar(env)]), edited)),
                excluded
            );
        }
        // As operators injected that wrote no variable.
        assert_eq!(
            excluded_inbound(&pod(json!([sidecar(json!([]))]), edited)),
            [6666]
        );
        assert!(excluded_inbound(&pod(json!([]), edited)).is_empty());
    }

    #[test]
    fn what_cannot_be_read_names_the_annotation_and_says_what_to_write() {
        let many = vec!["10.0.0.0/8"; MAX_CIDRS + 1].join(",");
        let long = vec!["info"; MAX_LOG].join(",");
        for (annotation, values) in [
            (EXCLUDE_INBOUND_PORTS, ["http", "", "0"]),
            (EXCLUDE_OUTBOUND_PORTS, ["1-2", "65536", "80,"]),
            (EXCLUDE_OUTBOUND_CIDRS, ["10.1.2.3/16", "10.0.0.0", &many]),
            (CPU_REQUEST, ["a lot", "-1", "1e3"]),
            (CPU_LIMIT, ["", "0", "1.m"]),
            (MEMORY_REQUEST, ["64MiB", "64 Mi", "9999999999999999"]),
            (MEMORY_LIMIT, [".5Gi", "1.2.3", "64mi"]),
            (LOG, ["loud", "info,", &long]),
            (WORKERS, ["0", "65", "two"]),
        ] {
            for value in values {
                let why = read(annotation, value).unwrap_err();
                assert_eq!(why.field, format!("metadata.annotations.{annotation}"));
                assert!(why.message.contains("write "), "{value}: {why}");
            }
        }
        let host_bits = read(EXCLUDE_OUTBOUND_CIDRS, "10.1.2.3/16").unwrap_err();
        assert!(
            host_bits.message.contains("which is 10.1.0.0/16"),
            "{host_bits}"
        );
    }
}

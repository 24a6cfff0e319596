//! The hosts file of a namespace's workloads: what a cluster's DNS would answer them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use compiler::ObjectKey;

use super::addresses::{HOST, HOST_NAME};

/// The file for workloads of `namespace`; only they know their Services by the short name.
pub(super) fn render(
    namespace: &str,
    services: &BTreeMap<ObjectKey, Vec<Ipv4Addr>>,
    cluster_domain: &str,
) -> String {
    let mut text = format!("127.0.0.1 localhost\n::1 localhost\n{HOST} {HOST_NAME}\n");
    for (key, addresses) in services {
        let ObjectKey {
            namespace: of,
            name,
        } = key;
        for address in addresses {
            let short = if of == namespace {
                format!(" {name}")
            } else {
                String::new()
            };
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "{address}{short} {name}.{of} {name}.{of}.svc {name}.{of}.svc.{cluster_domain}"
            );
        }
    }
    text
}

/// Writes the file in place: running workloads have it bound over their /etc/hosts, and a renamed
/// file would be another file.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let unchanged = std::fs::read_to_string(path).is_ok_and(|now| now == text);
    if unchanged {
        return Ok(());
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_services_own_namespace_knows_it_by_the_short_name() {
        let services = BTreeMap::from([(
            ObjectKey::new("shop", "orders"),
            vec![Ipv4Addr::new(10, 96, 0, 10)],
        )]);
        let own = render("shop", &services, "cluster.local");
        assert!(own.contains(
            "10.96.0.10 orders orders.shop orders.shop.svc orders.shop.svc.cluster.local\n"
        ));
        let other = render("billing", &services, "cluster.local");
        assert!(
            other
                .contains("10.96.0.10 orders.shop orders.shop.svc orders.shop.svc.cluster.local\n")
        );
    }
}

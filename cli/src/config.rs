//! `meshwright config` and `meshwright routes`: what a sidecar has in force.

use serde_json::Value;

use crate::sidecar::{Beside, get};
use crate::up::table::{say, table};

/// Shows all that the sidecar beside a workload holds and has in force, as JSON.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub beside: Beside,
}

/// Shows where the calls of a workload lead: Services, ports, protocols, ApiRoutes, endpoints.
#[derive(Clone, Debug, clap::Args)]
pub struct RoutesArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub beside: Beside,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Shows the configuration; returns the exit code.
///
/// # Errors
/// When the sidecar can't be asked.
pub fn config(args: &ConfigArgs) -> anyhow::Result<i32> {
    say(serde_json::to_string_pretty(&get(
        &args.beside,
        "/config",
    )?)?);
    Ok(0)
}

/// Shows the routes; returns the exit code.
///
/// # Errors
/// As [`config`].
pub fn routes(args: &RoutesArgs) -> anyhow::Result<i32> {
    let config = get(&args.beside, "/config")?;
    let services = &config["inForce"]["services"];
    if args.json {
        say(serde_json::to_string_pretty(services)?);
        return Ok(0);
    }
    say(table(
        &["SERVICE", "PORT", "PROTOCOL", "APIROUTE", "ENDPOINTS"],
        &rows(services),
    ));
    Ok(0)
}

fn rows(services: &Value) -> Vec<Vec<String>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut rows = Vec::new();
    for service in list(services) {
        for port in list(&service["ports"]) {
            let endpoints = list(&port["endpoints"]);
            let outside = endpoints
                .iter()
                .filter(|one| one["identity"].is_null())
                .count();
            let endpoints = match (endpoints.len(), outside) {
                (0, _) => "none".to_owned(),
                (all, 0) => all.to_string(),
                (all, outside) => format!("{all}, {outside} of them outside the mesh"),
            };
            // An older sidecar tells only what is declared, and one ApiRoute for all ports.
            let reads = port.get("reads").unwrap_or(&port["protocol"]);
            let route = port.get("route").unwrap_or(&service["route"]);
            rows.push(vec![
                text(&service["service"]),
                port["port"].to_string(),
                text(reads).to_lowercase(),
                text(route),
                endpoints,
            ]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_port_of_each_service_is_a_row_with_what_governs_it() {
        let services = json!([{
            "service": "shop/orders", "route": "shop/orders", "connectionRoute": "shop/ledger",
            "ports": [
                { "port": 80, "protocol": "Http", "reads": "Http", "route": "shop/orders",
                  "endpoints": [
                    { "identity": "spiffe://x/ns/shop/sa/orders" }, { "identity": null }] },
                { "port": 5432, "protocol": "Tcp", "reads": "Tcp", "route": "shop/ledger",
                  "endpoints": [] },
                { "port": 7000, "protocol": "Detect", "reads": "Tcp", "route": "shop/ledger",
                  "endpoints": [] },
            ],
        }, { "service": "shop/web", "route": "shop/web", "ports": [
            { "port": 80, "protocol": "Tcp", "reads": "Tcp", "route": null,
              "endpoints": [{ "identity": "spiffe://x" }] }] },
        // As an older sidecar tells it.
        { "service": "shop/old", "route": "shop/old", "ports": [
            { "port": 80, "protocol": "Detect", "endpoints": [] }] }]);
        assert_eq!(
            rows(&services),
            [
                [
                    "shop/orders",
                    "80",
                    "http",
                    "shop/orders",
                    "2, 1 of them outside the mesh"
                ],
                ["shop/orders", "5432", "tcp", "shop/ledger", "none"],
                ["shop/orders", "7000", "tcp", "shop/ledger", "none"],
                ["shop/web", "80", "tcp", "-", "1"],
                ["shop/old", "80", "detect", "shop/old", "none"],
            ]
        );
    }
}

//! `meshwright explain`: which rule would govern a request, why the others don't, and what will
//! become of it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::sidecar::{Beside, Place, get};
use crate::up::table::say;

/// Says which rule would govern a request of a workload, why the others don't, and what will become
/// of it. Asks the workload's own sidecar; sends nothing to anybody else.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The request's method.
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// The request's URL, with the Service's name: `http://orders/1`.
    #[arg(value_name = "URL")]
    pub url: String,
    /// Who would send it: a Deployment or a pod, as `meshwright config` takes it.
    #[arg(long, value_name = "WORKLOAD")]
    pub from: String,
    /// A header of the request, `name: value`; may be given several times.
    #[arg(short = 'H', long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Explains; returns the exit code: 1 when the request would be refused.
///
/// # Errors
/// When the sidecar can't be asked, or what is asked makes no sense.
pub fn run(args: &ExplainArgs) -> anyhow::Result<i32> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("method", &args.method)
        .append_pair("url", &args.url);
    for header in &args.header {
        query.append_pair("header", header);
    }
    let beside = Beside {
        workload: args.from.clone(),
        place: args.place.clone(),
    };
    let told = get(&beside, &format!("/explain?{}", query.finish()))?;
    if args.json {
        say(serde_json::to_string_pretty(&told)?);
    } else {
        say(in_words(&told));
    }
    Ok(i32::from(told["refused"].is_object()))
}

fn in_words(told: &Value) -> String {
    let mut words = String::new();
    let mut line = |indent: usize, text: String| {
        let _ = writeln!(words, "{:indent$}{text}", "");
    };
    if told["service"].is_string() {
        let governed = match told["route"].as_str() {
            Some(route) => format!("governed by ApiRoute {route}"),
            None => "no ApiRoute governs it".to_owned(),
        };
        let protocol = text(&told["protocol"]).to_lowercase();
        let (service, port) = (text(&told["service"]), &told["port"]);
        line(
            0,
            format!("Service {service}, port {port} ({protocol}): {governed}"),
        );
        line(0, format!("path {}", text(&told["path"])));
    }
    governed(&mut words, told, 0);
    words.trim_end().to_owned()
}

/// What an ApiRoute makes of the request, and those that it leads on to.
fn governed(words: &mut String, told: &Value, indent: usize) {
    let line = |words: &mut String, more: usize, text: String| {
        let _ = writeln!(words, "{:1$}{text}", "", indent + more);
    };
    for rule in list(&told["rules"]) {
        let matches = list(&rule["matches"]);
        let fits = matches.is_empty() || matches.iter().any(|one| one["fits"] == true);
        let verdict = match (rule["governs"] == true, fits) {
            (true, _) => "governs it",
            (false, true) => "fits, but a more specific match governs it",
            (false, false) => "does not fit",
        };
        line(words, 0, format!("rule {}: {verdict}", text(&rule["rule"])));
        for one in matches {
            let asks = list(&one["asks"]).into_iter().map(|asked| {
                let holds = if asked["holds"] == true { "" } else { "not " };
                format!("{holds}{}", text(&asked["what"]))
            });
            line(words, 2, Vec::from_iter(asks).join(", "));
        }
    }
    for done in list(&told["does"]) {
        line(words, 0, text(&done));
    }
    for to in list(&told["goes"]) {
        let there = match (
            to["missing"] == true,
            to["endpoints"].as_u64().unwrap_or_default(),
        ) {
            (true, _) => "which does not exist: 503".to_owned(),
            (false, 0) => "which has no ready endpoint: 503".to_owned(),
            (false, 1) => "1 endpoint".to_owned(),
            (false, several) => format!("{several} endpoints"),
        };
        let (service, port, weight) = (text(&to["service"]), &to["port"], &to["weight"]);
        line(
            words,
            0,
            format!("goes to {service}:{port}, weight {weight}, {there}"),
        );
        if let Some(route) = to["then"]["route"].as_str() {
            line(
                words,
                2,
                format!("from there on governed by ApiRoute {route}"),
            );
            governed(words, &to["then"], indent + 2);
        }
    }
    if let Some(timeout) = told["timeoutMs"].as_u64() {
        line(words, 0, format!("for {timeout} ms at most, then 504"));
    }
    if let Some(idle) = told["idleTimeoutMs"].as_u64() {
        line(words, 0, format!("ended when nothing moves for {idle} ms"));
    }
    if told["refused"].is_object() {
        let (status, reason) = (&told["refused"]["status"], text(&told["refused"]["reason"]));
        line(
            words,
            0,
            format!(
                "answered {status}, {reason}: {}",
                text(&told["refused"]["why"])
            ),
        );
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_explanation_reads_from_the_service_to_the_endpoints() {
        let told = json!({
            "service": "shop/orders", "port": 80, "protocol": "Http", "path": "/1",
            "route": "shop/orders", "timeoutMs": 300, "idleTimeoutMs": 30_000,
            "rules": [
                { "rule": "testers", "governs": false, "matches": [{ "fits": false, "asks": [
                    { "what": "method GET", "holds": true },
                    { "what": "header x-canary = always", "holds": false }] }] },
                { "rule": "all", "governs": true, "matches": [] },
            ],
            "does": ["refuses bodies of more than 1000 bytes: 413"],
            "goes": [
                { "service": "shop/orders-v1", "port": 80, "weight": 90, "endpoints": 2 },
                { "service": "shop/orders-v2", "port": 80, "weight": 10, "missing": true },
            ],
        });
        assert_eq!(
            in_words(&told),
            "Service shop/orders, port 80 (http): governed by ApiRoute shop/orders\n\
             path /1\n\
             rule testers: does not fit\n  method GET, not header x-canary = always\n\
             rule all: governs it\n\
             refuses bodies of more than 1000 bytes: 413\n\
             goes to shop/orders-v1:80, weight 90, 2 endpoints\n\
             goes to shop/orders-v2:80, weight 10, which does not exist: 503\n\
             for 300 ms at most, then 504\n\
             ended when nothing moves for 30000 ms"
        );
        let refused =
            json!({ "refused": { "status": 404, "reason": "unknown_host", "why": "No." } });
        assert_eq!(in_words(&refused), "answered 404, unknown_host: No.");
    }

    #[test]
    fn what_is_led_on_reads_from_the_outside_in() {
        let told = json!({
            "service": "shop/app", "port": 80, "protocol": "Http", "path": "/api/orders",
            "route": "shop/app", "rules": [], "goes": [{
                "service": "shop/orders", "port": 80, "weight": 1, "endpoints": 2,
                "then": {
                    "route": "shop/orders",
                    "rules": [{ "rule": "all", "governs": true, "matches": [] }],
                    "goes": [{ "service": "shop/orders", "port": 80, "weight": 1, "endpoints": 2 }],
                },
            }],
        });
        assert_eq!(
            in_words(&told),
            "Service shop/app, port 80 (http): governed by ApiRoute shop/app\n\
             path /api/orders\n\
             goes to shop/orders:80, weight 1, 2 endpoints\n  \
             from there on governed by ApiRoute shop/orders\n  \
             rule all: governs it\n  \
             goes to shop/orders:80, weight 1, 2 endpoints"
        );
    }
}

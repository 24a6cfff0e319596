//! `meshwright explain`: which rule would govern a request or a connection, why the others don't, and
//! what will become of it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::sidecar::{Asking, Beside, Place, get};
use crate::up::table::say;

#[cfg(test)]
mod tests;

/// Says which rule would govern a call of a workload, why the others don't, and what will become of
/// it. Asks the workload's own sidecar; sends nothing to anybody else.
#[derive(Clone, Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub struct ExplainArgs {
    /// The request's method.
    #[arg(value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// What would be called, by a Service's name or an address: `http://orders/1` with a request,
    /// `tls://ledger:5432` and `https://ledger` with TLS of the application's own, `tcp://ledger:7000`
    /// with other bytes.
    #[arg(value_name = "URL")]
    pub url: String,
    /// Who would call: a Deployment or a pod, as `meshwright config` takes it.
    #[arg(long, value_name = "WORKLOAD")]
    pub from: String,
    /// A header of the request, `name: value`; may be given several times.
    #[arg(short = 'H', long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// The name that a TLS client asks for (SNI), if it is not the URL's host.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Asks this workload too whether it would let the request in: a Deployment or a pod that
    /// answers.
    #[arg(long, value_name = "WORKLOAD")]
    pub to: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Explains; returns the exit code: 1 when the call would be refused.
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
    if let Some(name) = &args.server_name {
        query.append_pair("server-name", name);
    }
    let beside = Beside {
        workload: args.from.clone(),
        place: args.place.clone(),
    };
    let told = match &args.to {
        None => get(&beside, &format!("/explain?{}", query.finish()))?,
        Some(to) => {
            let mut asking = Asking::begin(&args.place)?;
            let from = asking.of(&args.from)?;
            let mut told = from.get(&format!("/explain?{}", query.finish()))?;
            let identity = from.get("/config")?["certificate"]["identity"].clone();
            let entering = entering(args, &told, identity.as_str());
            told["enters"] = asking.of(to)?.get(&format!("/enter?{entering}"))?;
            told
        }
    };
    if args.json {
        say(serde_json::to_string_pretty(&told)?);
    } else {
        say(in_words(&told));
    }
    Ok(i32::from(is_refused(&told)))
}

/// What is asked of the workload that would answer: the path in the form that it gets.
fn entering(args: &ExplainArgs, told: &Value, identity: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("method", &args.method);
    query.append_pair("path", told["path"].as_str().unwrap_or("/"));
    if let Some(identity) = identity {
        query.append_pair("source", identity);
    }
    for header in &args.header {
        query.append_pair("header", header);
    }
    query.finish()
}

/// Whether it is refused wherever it might go.
fn is_refused(told: &Value) -> bool {
    let refused = |to: &Value| to["missing"] == true || is_refused(&to["then"]);
    let goes = list(&told["goes"]);
    let mut drawn = goes.iter().filter(|to| to["weight"] != 0).peekable();
    let mut said = list(&told["enters"]).into_iter().flat_map(|port| {
        let mut all = list(&port["says"]);
        all.extend(list(&port["limits"]));
        all.push(port);
        all
    });
    let not_let_in = said.any(|one| one["refused"].is_object() && one["toldOnly"] != true);
    not_let_in || told["refused"].is_object() || drawn.peek().is_some() && drawn.all(refused)
}

fn in_words(told: &Value) -> String {
    let mut words = String::new();
    let mut line = |text: String| {
        let _ = writeln!(words, "{text}");
    };
    if told["service"].is_string() {
        line(called(told));
        if let Some(path) = told["path"].as_str() {
            line(format!("path {path}"));
        }
        if told["carried"] == "connection" {
            line(match told["serverName"].as_str() {
                Some(name) => format!("a connection that asks for server name {name}"),
                None => "a connection that asks for no server name".to_owned(),
            });
        }
    }
    for aside in list(&told["asides"]) {
        line(text(&aside));
    }
    if told["passes"].is_object() {
        let (to, why) = (text(&told["passes"]["to"]), text(&told["passes"]["why"]));
        line(format!("passes through as it is, to {to}: {why}"));
    }
    governed(&mut words, told, 0);
    for port in list(&told["enters"]) {
        enters(&mut words, &port);
    }
    if told["asProxy"].is_object() {
        let (status, reason) = (&told["asProxy"]["status"], text(&told["asProxy"]["reason"]));
        let _ = writeln!(
            words,
            "asked as an HTTP proxy, the sidecar answers {status}, {reason}"
        );
    }
    words.trim_end().to_owned()
}

/// Whether the workload that answers would let it in.
fn enters(words: &mut String, port: &Value) {
    let mut line = |text: String| {
        let _ = writeln!(words, "{text}");
    };
    let service = text(&port["service"]);
    line(format!("at port {} of Service {service}:", port["port"]));
    let said = list(&port["says"]);
    if said.is_empty() && !port["refused"].is_object() {
        line("  no ApiRoute says who may enter: every workload of the mesh may".to_owned());
    }
    for one in said.iter().chain([port]) {
        let Some(route) = one["route"].as_str() else {
            if one["refused"].is_object() {
                line(format!("  {}", refusal(&one["refused"])));
            }
            continue;
        };
        let rule = match one["rule"].as_str() {
            Some(rule) => format!(", rule {rule}"),
            None => String::new(),
        };
        let consumer = match one["consumer"].as_str() {
            Some(consumer) => format!(" consumer {consumer}"),
            None => String::new(),
        };
        let what = match (&one["refused"], one["unknown"].as_str()) {
            (refused, _) if refused.is_object() && one["toldOnly"] == true => {
                format!(
                    "lets{consumer} in, and tells that it would not: {}",
                    refusal(refused)
                )
            }
            (refused, _) if refused.is_object() => refusal(refused),
            (_, Some(unknown)) => unknown.to_owned(),
            _ => format!("lets{consumer} in"),
        };
        line(format!("  ApiRoute {route}{rule}: {what}"));
    }
    for limit in list(&port["limits"]) {
        line(format!("  {}", limited(&limit)));
    }
}

/// What a limit would do with it.
fn limited(limit: &Value) -> String {
    let (object, name) = (text(&limit["rateLimit"]), text(&limit["limit"]));
    let (bucket, left) = (text(&limit["bucket"]), &limit["left"]);
    let wait = match limit["waitMs"].as_u64() {
        Some(millis) => format!(" for {millis} ms"),
        None => String::new(),
    };
    let refused = &limit["refused"];
    let what = match (limit["unknown"].as_str(), limit["tooMuch"] == true) {
        (Some(unknown), _) => unknown.to_owned(),
        (None, false) => format!("passes, {left} left"),
        (None, true) if refused.is_object() => {
            format!("too much{wait}, {left} left: {}", refusal(refused))
        }
        (None, true) if limit["action"] == "Shadow" => {
            format!("passes, and tells that it is too much{wait}")
        }
        (None, true) => format!("waits{wait} at least"),
    };
    format!("RateLimit {object}, limit {name} ({bucket}): {what}")
}

fn refusal(refused: &Value) -> String {
    let (reason, why) = (text(&refused["reason"]), text(&refused["why"]));
    let why = if why.is_empty() {
        why
    } else {
        format!(": {why}")
    };
    format!("answered {}, {reason}{why}", refused["status"])
}

/// What was called, and what governs it.
fn called(told: &Value) -> String {
    let governed = match told["route"].as_str() {
        Some(route) => format!("governed by ApiRoute {route}"),
        None => "no ApiRoute governs it".to_owned(),
    };
    // An older sidecar tells only what is declared.
    let reads = told["reads"].as_str().or(told["protocol"].as_str());
    let reads = reads.unwrap_or_default().to_lowercase();
    let (service, port) = (text(&told["service"]), &told["port"]);
    let pod = &told["pod"];
    let of = match (pod["name"].as_str(), pod["address"].as_str()) {
        (Some("") | None, Some(address)) => format!("{address}, of "),
        (Some(name), Some(address)) => format!("Pod {name} at {address}, of "),
        (_, None) => String::new(),
    };
    format!("{of}Service {service}, port {port} ({reads}): {governed}")
}

/// What an ApiRoute makes of the call, and those that it leads on to.
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
    let is_connection = told["carried"] == "connection";
    for to in list(&told["goes"]) {
        line(words, 0, goes(&to, is_connection));
        if to["balanced"].is_object() {
            let (by, policy) = (&to["balanced"]["by"], &to["balanced"]["retryPolicy"]);
            let (by, policy) = (text(by), text(policy));
            line(words, 2, format!("balanced by {by} (RetryPolicy {policy})"));
        }
        for told in list(&to["attempts"]) {
            let (says, policy) = (text(&told["says"]), text(&told["retryPolicy"]));
            line(words, 2, format!("{says} (RetryPolicy {policy})"));
        }
        if let Some(route) = to["untold"].as_str() {
            line(
                words,
                2,
                format!("on to ApiRoute {route}; there are more than are told"),
            );
        }
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
    let refused = &told["refused"];
    if refused.is_object() {
        let mut said = match refused["closed"] == true {
            true => "closed".to_owned(),
            false => format!("answered {}", refused["status"]),
        };
        if let Some(reason) = refused["reason"].as_str() {
            said += &format!(", {reason}");
        }
        line(words, 0, format!("{said}: {}", text(&refused["why"])));
    }
}

/// One place that it may go to.
fn goes(to: &Value, is_connection: bool) -> String {
    if let Some(address) = to["itself"].as_str() {
        return format!("goes to {address} itself");
    }
    let fails = if is_connection { "closed" } else { "503" };
    let endpoints = to["endpoints"].as_u64().unwrap_or_default();
    let there = match (to["missing"] == true, endpoints) {
        (true, _) => format!("which does not exist: {fails}"),
        (false, 0) => format!("which has no ready endpoint: {fails}"),
        (false, 1) => "1 endpoint".to_owned(),
        (false, several) => format!("{several} endpoints"),
    };
    let there = match to["notCalled"].as_u64() {
        None => there,
        Some(open) => format!("{there}, {open} of which not called: it has failed too often"),
    };
    let (service, port, weight) = (text(&to["service"]), &to["port"], &to["weight"]);
    format!("goes to {service}:{port}, weight {weight}, {there}")
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

//! `meshwright events`: how it goes with EventSubscriptions, and what is done with their dead letters.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::certificates::SYSTEM;
use crate::sidecar::{Place, Reached, reach_all};
use crate::up::table::{say, table};
use order::order;
use progress::Progress;

mod order;
mod progress;

/// Whose sidecars carry out what no pod does for itself, in the operator's namespace.
const CARRIES: &str = "deployment/meshwright-events";

/// Shows how it goes with EventSubscriptions, and has dead letters shown, delivered once more, or dropped.
#[derive(Clone, Debug, clap::Args)]
pub struct EventsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Show the subscriptions that sidecars carry out, how many events wait, and what failed last.
    List(ListArgs),
    /// Show dead letters: their attributes, and why they are there.
    Peek(PeekArgs),
    /// Deliver once more: dead letters, or what the topic still has of some time.
    Replay(ReplayArgs),
    /// Drop dead letters, for good.
    Purge(PurgeArgs),
}

/// Beside which workloads.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Deployments (all replicas) or pods, as `meshwright config` takes them; without any, all of the
    /// mesh on this machine, or of the namespace of a cluster.
    #[arg(value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Of which subscription.
#[derive(Clone, Debug, clap::Args)]
pub struct Of {
    /// The EventSubscription: namespace/name.
    #[arg(value_name = "NAMESPACE/NAME")]
    pub subscription: String,
    /// The workload beside which it is carried out, as `meshwright config` takes it; without, all of the mesh
    /// on this machine, or of the subscription's namespace of a cluster, are asked whether they do.
    #[arg(long, value_name = "WORKLOAD")]
    pub beside: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Which dead letters are shown.
#[derive(Clone, Debug, clap::Args)]
pub struct PeekArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub of: Of,
    /// How many at most, from the oldest on.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=63))]
    pub limit: u32,
    /// With what stands in them.
    #[arg(long)]
    pub data: bool,
    /// As JSON, one event a line, for programs.
    #[arg(long)]
    pub json: bool,
}

/// What is delivered once more.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub of: Of,
    /// Dead letters, or what the topic still has from a moment on, such as 2026-11-20T08:00:00Z.
    #[arg(long, value_name = "MOMENT", default_value = "dead-letters")]
    pub from: String,
    /// Up to this moment; now, without.
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<String>,
    /// How many are begun in a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_per_second: u32,
    /// What this run is called. One that was broken off goes on under its name.
    #[arg(long, value_name = "NAME")]
    pub request: Option<String>,
    /// Only say how many there are.
    #[arg(long)]
    pub dry_run: bool,
}

/// What is dropped.
#[derive(Clone, Debug, clap::Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub of: Of,
    /// Only what became a dead letter up to this moment; now, without.
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<String>,
    /// How many are dropped in a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_per_second: u32,
    /// Only say how many there are.
    #[arg(long)]
    pub dry_run: bool,
}

/// Does it; returns the exit code. Must be called while the process has one thread.
///
/// # Errors
/// When no sidecar carries it out, or one can't do it: the rest is as it was.
pub fn run(args: &EventsArgs) -> anyhow::Result<i32> {
    match &args.action {
        Action::List(args) => list(args),
        Action::Peek(args) => peek(args),
        Action::Replay(args) => replay(args),
        Action::Purge(args) => purge(args),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn list(args: &ListArgs) -> anyhow::Result<i32> {
    let reached = reach_all(&args.workloads, &args.place)?;
    let runtime = runtime()?;
    let mut rows = Vec::new();
    for one in &reached {
        let told = runtime.block_on(one.get("/events"));
        rows.extend(rows_of(&one.pod, &told.with_context(|| one.pod.clone())?));
    }
    rows.sort();
    let header = [
        "SUBSCRIPTION",
        "BESIDE",
        "DELIVERS",
        "LAG",
        "UNACKED",
        "IN FLIGHT",
        "DEAD",
        "LAST ERROR",
    ];
    say(table(&header, &rows));
    Ok(0)
}

/// One for each subscription that is carried out beside a pod.
fn rows_of(pod: &str, told: &Value) -> Vec<Vec<String>> {
    let all = told["subscriptions"].as_array().into_iter().flatten();
    let row = |one: &Value| {
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let is = |field: &str| one[field].as_bool().unwrap_or_default();
        let number = |field: &str| match one[field].as_u64() {
            Some(number) => number.to_string(),
            None => "?".to_owned(),
        };
        let delivers = match text("why") {
            _ if is("suspended") => "suspended".to_owned(),
            _ if is("targetGone") => "no: the target is gone (410)".to_owned(),
            why if !why.is_empty() => format!("no: {why}"),
            _ if is("nobodyThere") => "no: there is no pod".to_owned(),
            _ if is("subscribed") => "yes".to_owned(),
            _ => "not yet".to_owned(),
        };
        vec![
            text("subscription"),
            pod.to_owned(),
            delivers,
            number("lag"),
            number("unacknowledged"),
            number("inFlight"),
            number("deadLettered"),
            last_error(&one["lastError"]),
        ]
    };
    all.map(row).collect()
}

fn last_error(error: &Value) -> String {
    let Some(reason) = error["reason"].as_str() else {
        return "-".to_owned();
    };
    let at = error["atMs"].as_i64().unwrap_or_default();
    let at = Timestamp::from_second(at / 1000).unwrap_or_default();
    match error["code"].as_u64() {
        Some(code) => format!("{code} {reason} {at}"),
        None => format!("{reason} {at}"),
    }
}

// === impl Of ===

impl Of {
    /// A sidecar that carries it out.
    fn reach(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Reached> {
        let Some((namespace, _)) = self.subscription.split_once('/') else {
            bail!(
                "{:?}: an EventSubscription is named by namespace/name",
                self.subscription
            );
        };
        let mut places = vec![(self.place.clone(), self.beside.clone())];
        if !self.place.is_here()? && self.place.cluster.namespace.is_none() {
            places[0].0.cluster.namespace = Some(namespace.to_owned());
            // Where no pod does it for itself.
            if self.beside.is_none() {
                let mut place = self.place.clone();
                place.cluster.namespace = Some(SYSTEM.to_owned());
                places.push((place, Some(CARRIES.to_owned())));
            }
        }
        let mut asked = 0;
        let mut unreached = None;
        for (place, beside) in places {
            let reached = match reach_all(&Vec::from_iter(beside), &place) {
                Ok(reached) => reached,
                Err(why) => {
                    unreached.get_or_insert(why);
                    continue;
                }
            };
            asked += reached.len();
            for one in reached {
                // Whoever can't be asked may be another's.
                let Ok(told) = runtime.block_on(one.get("/events")) else {
                    continue;
                };
                let mut all = told["subscriptions"].as_array().into_iter().flatten();
                if all.any(|it| it["subscription"] == self.subscription.as_str()) {
                    return Ok(one);
                }
            }
        }
        if let (0, Some(why)) = (asked, unreached) {
            return Err(why);
        }
        bail!(
            "none of the {asked} sidecars that were asked carries out EventSubscription {}: is it accepted, \
             and does a pod run that it is for?",
            self.subscription
        )
    }
}

fn peek(args: &PeekArgs) -> anyhow::Result<i32> {
    let runtime = runtime()?;
    let sidecar = args.of.reach(&runtime)?;
    let words = format!(
        "show={} limit={} data={}",
        args.of.subscription, args.limit, args.data
    );
    let mut rows = Vec::new();
    let last = runtime.block_on(order(&sidecar, &words, |line| {
        let event = &line["event"];
        match (event.is_object(), args.json) {
            (true, true) => say(event),
            (true, false) => rows.push(letter(line, args.data)),
            _ => {}
        }
    }))?;
    ended(&last)?;
    match (args.json, rows.is_empty()) {
        (true, _) => {}
        (false, true) => say("there are no dead letters"),
        (false, false) => {
            let mut header = vec!["SINCE", "WHY", "CODE", "ATTEMPTS", "ID", "SOURCE", "TYPE"];
            if args.data {
                header.extend(["DATA", "ANSWER"]);
            }
            say(table(&header, &rows));
        }
    }
    Ok(0)
}

/// The row of a dead letter.
fn letter(line: &Value, data: bool) -> Vec<String> {
    let event = &line["event"];
    let text = |name: &str| match &event[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut row = Vec::from(
        [
            "dlqtime",
            "dlqreason",
            "dlqcode",
            "dlqattempts",
            "id",
            "source",
            "type",
        ]
        .map(text),
    );
    if data {
        row.push(match (&line["omitted"], &event["data"]) {
            (Value::Null, Value::Null) => text("data_base64"),
            (Value::Null, _) => text("data"),
            (length, _) => format!("({length} bytes, too long to be shown)"),
        });
        row.push(text("dlqbody"));
    }
    row
}

fn replay(args: &ReplayArgs) -> anyhow::Result<i32> {
    let runtime = runtime()?;
    let sidecar = args.of.reach(&runtime)?;
    let until = match &args.until {
        Some(until) => until.clone(),
        None => Timestamp::now().to_string(),
    };
    let which = format!("from={} until={until}", args.from);
    let found = count(&runtime, &sidecar, &args.of.subscription, &which)?;
    if args.dry_run {
        say(format_args!("{found} would be delivered once more"));
        return Ok(0);
    }
    let request = match &args.request {
        Some(request) => request.clone(),
        None => format!("cli-{}", Timestamp::now().as_millisecond()),
    };
    let words = format!(
        "replay={} {which} rate={} request={request}",
        args.of.subscription, args.max_per_second
    );
    let all = (!found.more).then_some(found.count);
    let mut progress = Progress::new(all, std::io::stderr().is_terminal());
    let going = order(&sidecar, &words, |line| progress.show(line));
    let resume = || format!("it goes on with --request {request} --until {until}");
    let last = runtime.block_on(going).with_context(resume)?;
    progress.end();
    ended(&last).with_context(resume)?;
    say(format_args!(
        "{} delivered once more, {} exhausted anew",
        last["done"], last["failed"]
    ));
    Ok(0)
}

fn purge(args: &PurgeArgs) -> anyhow::Result<i32> {
    let runtime = runtime()?;
    let sidecar = args.of.reach(&runtime)?;
    let which = match &args.until {
        Some(until) => format!("until={until}"),
        None => format!("until={}", Timestamp::now()),
    };
    let found = count(&runtime, &sidecar, &args.of.subscription, &which)?;
    if args.dry_run {
        say(format_args!("{found} would be dropped"));
        return Ok(0);
    }
    let words = format!(
        "purge={} {which} rate={}",
        args.of.subscription, args.max_per_second
    );
    let all = (!found.more).then_some(found.count);
    let mut progress = Progress::new(all, std::io::stderr().is_terminal());
    let last = runtime.block_on(order(&sidecar, &words, |line| progress.show(line)))?;
    progress.end();
    ended(&last)?;
    say(format_args!("{} dropped", last["done"]));
    Ok(0)
}

/// How many there are.
fn count(
    runtime: &tokio::runtime::Runtime,
    sidecar: &Reached,
    subscription: &str,
    which: &str,
) -> anyhow::Result<Found> {
    let words = format!("count={subscription} {which}");
    let last = runtime.block_on(order(sidecar, &words, |_| {}))?;
    ended(&last)?;
    Ok(Found {
        count: last["done"].as_u64().unwrap_or_default(),
        more: last["more"] == true,
    })
}

/// How many there are, or are at least.
#[derive(Clone, Copy, Debug)]
struct Found {
    count: u64,
    more: bool,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = if self.more { " or more" } else { "" };
        write!(f, "{}{more}", self.count)
    }
}

/// Whether it has come to its end.
fn ended(last: &Value) -> anyhow::Result<()> {
    match last["why"].as_str() {
        Some(why) => bail!("{why}"),
        None if last["finished"] == true => Ok(()),
        None => bail!("the sidecar has ended"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_subscription_of_each_replica_is_a_row() {
        let told = json!({ "subscriptions": [
            { "subscription": "shop/billing", "subscribed": true, "why": "", "lag": 3, "unacknowledged": 1,
              "inFlight": 1, "deadLettered": 2,
              "lastError": { "code": 503, "reason": "Exhausted", "atMs": 1_500 } },
            { "subscription": "shop/audit", "suspended": true, "why": "", "lag": null, "unacknowledged": null,
              "inFlight": 0, "deadLettered": 0, "lastError": null },
            { "subscription": "shop/search", "subscribed": false, "why": "the broker is away", "lag": null,
              "unacknowledged": null, "inFlight": 0, "deadLettered": 0, "lastError": null },
            { "subscription": "shop/labels", "subscribed": false, "nobodyThere": true, "why": "", "lag": 2,
              "unacknowledged": 0, "inFlight": 0, "deadLettered": 0, "lastError": null },
        ]});
        let rows = rows_of("shop/billing-1", &told);
        let of = |row: usize, column: usize| rows[row][column].as_str();
        assert_eq!((of(0, 2), of(0, 3), of(0, 6)), ("yes", "3", "2"));
        assert_eq!(of(0, 7), "503 Exhausted 1970-01-01T00:00:01Z");
        assert_eq!((of(1, 2), of(1, 3), of(1, 7)), ("suspended", "?", "-"));
        assert_eq!(of(2, 2), "no: the broker is away");
        assert_eq!((of(3, 2), of(3, 3)), ("no: there is no pod", "2"));
    }

    #[test]
    fn a_dead_letter_is_a_row_with_its_story_and_its_data_only_where_that_is_wanted() {
        let event = json!({ "event": { "id": "1", "source": "/stock", "type": "t", "dlqreason": "Refused", "dlqcode": "400",
                            "dlqattempts": "1", "dlqtime": "2026-11-20T08:00:00Z", "dlqbody": "no sku a", "data": { "sku": "a" } } });
        let row = letter(&event, false);
        assert_eq!(row[1..5], ["Refused", "400", "1", "1"]);
        assert_eq!(row.len(), 7);
        assert_eq!(letter(&event, true)[7..], ["{\"sku\":\"a\"}", "no sku a"]);
        let long = json!({ "event": {}, "omitted": 200_000 });
        assert!(letter(&long, true)[7].starts_with("(200000 bytes"));
        let found = |more| Found { count: 7, more }.to_string();
        assert_eq!(
            (found(false), found(true)),
            ("7".to_owned(), "7 or more".to_owned())
        );
    }

    #[test]
    fn what_has_not_come_to_its_end_is_told() {
        assert!(ended(&json!({ "finished": true, "why": null })).is_ok());
        let why = |last: Value| ended(&last).unwrap_err().to_string();
        assert_eq!(
            why(json!({ "finished": false, "why": "the broker is away" })),
            "the broker is away"
        );
        assert_eq!(
            why(json!({ "finished": false, "why": null })),
            "the sidecar has ended"
        );
    }
}

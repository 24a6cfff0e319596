//! `meshwright cache`: what the sidecars beside a workload keep of its answers, and of those that it gets.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::sidecar::{Place, reach_all};
use crate::up::table::{say, table};

/// Shows what the sidecars beside workloads keep of their answers, and of those that they get, or drops
/// it.
#[derive(Clone, Debug, clap::Args)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do about what is kept.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Show how much is kept, and how often it was given.
    Show(Beside),
    /// Drop what is kept, in every replica.
    Purge(PurgeArgs),
}

/// Beside which workloads.
#[derive(Clone, Debug, clap::Args)]
pub struct Beside {
    /// Deployments (all replicas) or pods, as `meshwright config` takes them.
    #[arg(value_name = "WORKLOAD", required = true)]
    pub workloads: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// What is dropped.
#[derive(Clone, Debug, clap::Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub beside: Beside,
    /// Only answers of this path and of those below it.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,
}

/// Does it; returns the exit code. Must be called while the process has one thread.
///
/// # Errors
/// When a sidecar can't be asked, once all others have been.
pub fn run(args: &CacheArgs) -> anyhow::Result<i32> {
    let (beside, purge) = match &args.action {
        Action::Show(beside) => (beside, None),
        Action::Purge(args) => (&args.beside, Some(format!("purge={}", args.path))),
    };
    let reached = reach_all(&beside.workloads, &beside.place)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (told, failed) = ask_each(&reached, |one| {
        let asked = match &purge {
            None => runtime.block_on(one.get("/cache")),
            Some(purge) => runtime.block_on(one.put("/cache", purge)),
        };
        asked.with_context(|| one.pod.clone())
    });
    let told = Vec::from_iter(
        told.into_iter()
            .map(|(one, answer)| (one.pod.clone(), answer)),
    );
    match purge {
        None => say(table(
            &[
                "WORKLOAD", "APIROUTE", "AT", "ANSWERS", "BYTES", "GIVEN", "ASKED",
            ],
            &rows(&told),
        )),
        Some(_) => {
            for (pod, answer) in told {
                say(format!("{pod}: {} purged", answer["purged"]));
            }
        }
    }
    match failed.is_empty() {
        true => Ok(0),
        false => bail!("{}", why(&failed, reached.len())),
    }
}

/// What each answers, and why those did not that could not be asked: none keeps the next from being asked.
fn ask_each<One>(
    all: &[One],
    ask: impl Fn(&One) -> anyhow::Result<Value>,
) -> (Vec<(&One, Value)>, Vec<anyhow::Error>) {
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    for one in all {
        match ask(one) {
            Ok(answer) => told.push((one, answer)),
            Err(error) => failed.push(error),
        }
    }
    (told, failed)
}

/// Which of so many could not be asked, and why.
fn why(failed: &[anyhow::Error], of: usize) -> String {
    let lines = failed.iter().map(|error| format!("\n  {error:#}"));
    let lines = lines.collect::<String>();
    format!(
        "{} of {of} sidecars could not be asked; ask them again:{lines}",
        failed.len()
    )
}

/// One for each cache.
fn rows(told: &[(String, Value)]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (pod, answer) in told {
        for cache in answer["caches"].as_array().into_iter().flatten() {
            let count = |names: &[&str]| {
                let counts = names
                    .iter()
                    .filter_map(|name| cache["requests"][name].as_u64());
                counts.sum::<u64>().to_string()
            };
            rows.push(vec![
                pod.clone(),
                cache["route"].as_str().unwrap_or("-").to_owned(),
                // Older sidecars keep only what they are called for.
                cache["at"].as_str().unwrap_or("destination").to_owned(),
                cache["entries"].to_string(),
                cache["bytes"].to_string(),
                count(&["hit", "stale", "collapsed"]),
                count(&["miss", "revalidated", "bypass"]),
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
    fn one_that_can_not_be_asked_keeps_no_other_from_being_asked_and_is_told() {
        let all = ["shop/orders-1", "shop/orders-2", "shop/orders-3"];
        let (told, failed) = ask_each(&all, |pod| match *pod {
            "shop/orders-1" => Err(anyhow::anyhow!("it has gone").context(*pod)),
            _ => Ok(json!({"purged": 2})),
        });
        assert_eq!(Vec::from_iter(told.iter().map(|(pod, _)| **pod)), all[1..]);
        assert_eq!(
            why(&failed, all.len()),
            "1 of 3 sidecars could not be asked; ask them again:\n  shop/orders-1: it has gone"
        );
    }

    #[test]
    fn each_cache_of_each_replica_is_a_row() {
        let cache = json!({"route": "shop/orders", "entries": 2, "bytes": 900, "requests": {
            "hit": 5, "stale": 1, "revalidated": 1, "collapsed": 1, "miss": 3, "bypass": 0,
        }});
        let here = json!({"route": "shop/stock", "at": "caller", "entries": 1, "bytes": 600});
        let told = [
            ("shop/orders-1".to_owned(), json!({"caches": [cache, here]})),
            ("shop/orders-2".to_owned(), json!({"caches": []})),
        ];
        assert_eq!(
            rows(&told),
            [
                [
                    "shop/orders-1",
                    "shop/orders",
                    "destination",
                    "2",
                    "900",
                    "7",
                    "4"
                ],
                [
                    "shop/orders-1",
                    "shop/stock",
                    "caller",
                    "1",
                    "600",
                    "0",
                    "0"
                ],
            ]
        );
    }
}

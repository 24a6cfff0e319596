//! What sidecars of a cluster say themselves: whether they hear of an operator, what they have refused, who
//! calls in plaintext, and where callers wait.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::declare;
use super::told::{Page, Told, remedy};
use super::written::Written;
use crate::install::cluster::some;
use crate::kubectl::Pod;
use crate::sidecar::{Cluster, Reached, through};
use crate::up::callers::Caller;
use crate::up::stalls::{self, Stall};

/// Sidecars that are asked: each costs a connection through the API server, some at a time.
const MOST_ASKED: usize = 64;
const AT_A_TIME: usize = 8;

/// How long a sidecar may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long one may be between two streams, as when its operator has just been replaced. The first that is
/// found so is waited for, and the others have had the time.
const RECONNECTS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What became of asking.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// How many answered.
    pub(super) answered: usize,
    /// Of how many.
    pub(super) all: usize,
    /// The versions that they say they are of, by namespace and name.
    pub(super) versions: BTreeMap<(String, String), String>,
}

#[derive(Deserialize)]
struct Callers {
    callers: Vec<Caller>,
}

/// As much of `/config` as is looked at. An older sidecar may say less.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    version: Option<String>,
    not_ready_because: Option<String>,
    operator: Option<Stream>,
}

/// How it stands with the operator.
#[derive(Clone, Debug, Deserialize)]
struct Stream {
    connected: bool,
    #[serde(default)]
    error: Option<String>,
}

/// What a sidecar answers.
struct Answer {
    config: Config,
    /// Resources that it has rejected since it started.
    rejected: u64,
    callers: Vec<Caller>,
    stalls: Vec<Stall>,
}

/// How sidecars are, those that are alike together: pods by what is wrong with them.
#[derive(Debug, Default)]
struct States {
    cut_off: BTreeMap<String, Vec<String>>,
    not_ready: BTreeMap<String, Vec<String>>,
    rejected: Vec<String>,
}

/// Asks the sidecars of pods. That somebody may not ask them is no fault of the cluster's.
pub(super) fn ask(cluster: &Cluster, pods: &[Pod], written: &Written, told: &mut Told) -> Asked {
    let mut asked = Asked {
        all: pods.len(),
        ..Asked::default()
    };
    let (mut states, mut waited) = (States::default(), Vec::new());
    let mut until = None;
    for some in pods.get(..MOST_ASKED).unwrap_or(pods).chunks(AT_A_TIME) {
        let begun: Vec<_> = some
            .iter()
            .map(|pod| through(cluster, pod.namespace.as_deref(), &pod.name))
            .collect();
        for (pod, begun) in some.iter().zip(begun) {
            match begun.and_then(|begun| one(&begun.reached()?, &mut until)) {
                Ok(answer) => {
                    asked.answered += 1;
                    let name = pod.to_string();
                    states.add(&name, &answer);
                    for caller in &answer.callers {
                        let remedy =
                            remedy!("give the caller a sidecar before plaintext is refused there");
                        told.note(Page::PLAINTEXT, caller.line(&name), remedy);
                    }
                    waited.push((name, answer.stalls));
                    let namespace = pod.namespace.clone().unwrap_or_default();
                    let version = answer.config.version.into_iter();
                    let of = (namespace, pod.name.clone());
                    asked
                        .versions
                        .extend(version.map(|version| (of.clone(), version)));
                }
                Err(error) => {
                    let what = format_args!("the sidecar of {pod} can't be asked: {error:#}");
                    let remedy = remedy!(
                        "it takes the rights to get pods and create pods/portforward there, and a pod that runs"
                    );
                    told.note(Page::RIGHTS, what, remedy);
                }
            }
        }
    }
    told.add(states.findings());
    let place = |service: &str, port: u16| written.port(service, port);
    for what in stalls::lines(&waited, place) {
        told.note(Page::STALLS, what, declare());
    }
    asked
}

fn one(reached: &Reached, until: &mut Option<Instant>) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let all = async {
            let callers: Callers = serde_json::from_value(reached.get("/plaintext").await?)?;
            let stalls: stalls::Answer = serde_json::from_value(reached.get("/stalls").await?)?;
            let stats: Value = reached.get("/stats").await?;
            anyhow::Ok(Answer {
                config: settled(async || reached.get("/config").await, until).await?,
                rejected: stats["config"]["rejected"].as_u64().unwrap_or_default(),
                callers: callers.callers,
                stalls: stalls.stalls,
            })
        };
        timeout(ANSWER, all).await?
    })
}

/// How it is; of one that is cut off, after a moment in which it may find an operator.
async fn settled(
    ask: impl AsyncFn() -> anyhow::Result<Value>,
    until: &mut Option<Instant>,
) -> anyhow::Result<Config> {
    loop {
        let config: Config = serde_json::from_value(ask().await?)?;
        if !config.is_cut_off() {
            return Ok(config);
        }
        let until = *until.get_or_insert_with(|| Instant::now() + RECONNECTS);
        if Instant::now() >= until {
            return Ok(config);
        }
        sleep(LOOK_AGAIN).await;
    }
}

// === impl Config ===

impl Config {
    /// One that ends lets its stream go.
    fn is_ending(&self) -> bool {
        self.not_ready_because.as_deref() == Some("draining")
    }

    fn is_cut_off(&self) -> bool {
        let stream = self.operator.as_ref();
        stream.is_some_and(|stream| !stream.connected) && !self.is_ending()
    }
}

// === impl States ===

impl States {
    fn add(&mut self, pod: &str, answer: &Answer) {
        let config = &answer.config;
        if config.is_cut_off() {
            let stream = config.operator.as_ref();
            let why = stream.and_then(|stream| stream.error.clone());
            let pods = self.cut_off.entry(why.unwrap_or_default()).or_default();
            pods.push(pod.to_owned());
        } else if let Some(why) = config
            .not_ready_because
            .as_ref()
            .filter(|_| !config.is_ending())
        {
            let pods = self.not_ready.entry(why.clone()).or_default();
            pods.push(pod.to_owned());
        }
        if answer.rejected > 0 {
            self.rejected.push(format!("{pod}: {}", answer.rejected));
        }
    }

    fn findings(&self) -> Told {
        let mut told = Told::default();
        for (why, pods) in &self.cut_off {
            let why = match why.as_str() {
                "" => String::new(),
                why => format!(" ({why})"),
            };
            told.wrong(
                Page::SIDECAR,
                format_args!(
                    "the sidecars of {} are connected to no operator{why}: they go on with what they have, hear of no \
                     change, and their certificates end unrenewed",
                    some(pods.iter().cloned())
                ),
                remedy!(
                    "an operator must be ready, and no NetworkPolicy between them and its port 15012"
                ),
            );
        }
        for (why, pods) in &self.not_ready {
            told.note(
                Page::SIDECAR,
                format_args!(
                    "the sidecars of {} are not ready: {why}",
                    some(pods.iter().cloned())
                ),
                remedy!(
                    "if it does not pass, their logs say why: `kubectl logs POD -c meshwright-sidecar`"
                ),
            );
        }
        if !self.rejected.is_empty() {
            told.note(
                Page::PROGRAMMED,
                format_args!(
                    "sidecars have rejected resources since they started ({}), and kept what they had",
                    some(self.rejected.iter().cloned())
                ),
                remedy!("`kubectl logs POD -c meshwright-sidecar` says which and why"),
            );
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As a sidecar answers `/config`.
    fn answer(
        connected: bool,
        error: Option<&str>,
        because: Option<&str>,
        rejected: u64,
    ) -> Answer {
        let config = json!({
            "version": "0.1.0", "ready": because.is_none(), "notReadyBecause": because,
            "certificate": { "identity": "spiffe://cluster.local/ns/shop/sa/web",
                             "expires": "2026-11-27T07:09:24Z", "inForce": true },
            "operator": { "connected": connected, "complete": true, "error": error },
            "held": [], "inForce": { "workload": "shop/web-1" }, "avoidedEndpoints": 0,
        });
        Answer {
            config: serde_json::from_value(config).unwrap(),
            rejected,
            callers: Vec::new(),
            stalls: Vec::new(),
        }
    }

    fn said(answers: &[Answer]) -> Told {
        let mut states = States::default();
        for (number, answer) in answers.iter().enumerate() {
            states.add(&format!("shop/web-{number}"), answer);
        }
        states.findings()
    }

    #[test]
    fn sidecars_that_hear_of_no_operator_are_wrong_and_told_together_with_why() {
        let refused = Some("connecting: connection refused");
        let told = said(&[
            answer(true, None, None, 0),
            answer(false, refused, None, 0),
            answer(false, refused, Some("no certificate in force yet"), 0),
            answer(false, None, None, 0),
        ]);
        let (wrong, notes) = told.parts();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("the sidecars of shop/web-3 are connected to no operator: "));
        let expected = "the sidecars of shop/web-1, shop/web-2 are connected to no operator (connecting: connection \
                        refused): ";
        assert!(wrong[1].starts_with(expected), "{wrong:?}");
    }

    #[test]
    fn one_that_waits_for_its_configuration_is_told_and_one_that_ends_is_not() {
        let incomplete = "the configuration has not arrived completely";
        let told = said(&[
            answer(true, None, Some(incomplete), 0),
            answer(false, None, Some("draining"), 0),
        ]);
        let (wrong, notes) = told.parts();
        assert!(wrong.is_empty() && notes.len() == 1, "{told:?}");
        assert!(
            notes[0].starts_with(&format!(
                "the sidecars of shop/web-0 are not ready: {incomplete}: if it does not pass, "
            )),
            "{notes:?}"
        );
    }

    #[test]
    fn what_sidecars_have_rejected_is_counted_for_each() {
        let told = said(&[answer(true, None, None, 3), answer(true, None, None, 0)]);
        let (_, notes) = told.parts();
        assert!(
            notes[0]
                .starts_with("sidecars have rejected resources since they started (shop/web-0: 3)"),
            "{notes:?}"
        );
        assert_eq!(said(&[answer(true, None, None, 0)]), Told::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_between_two_streams_is_given_a_moment_and_only_the_first_is_waited_for() {
        let began = Instant::now();
        let connects = async || {
            let connected = began.elapsed() >= Duration::from_secs(2);
            Ok(json!({ "operator": { "connected": connected } }))
        };
        let mut until = None;
        assert!(!settled(connects, &mut until).await.unwrap().is_cut_off());
        assert!(began.elapsed() < RECONNECTS);

        let never = async || Ok(json!({ "operator": { "connected": false } }));
        for _ in 0..64 {
            assert!(settled(never, &mut until).await.unwrap().is_cut_off());
        }
        assert!(began.elapsed() <= RECONNECTS + LOOK_AGAIN);
    }

    #[test]
    fn an_older_sidecar_that_says_less_is_not_wrong() {
        let old: Config = serde_json::from_value(json!({ "inForce": {} })).unwrap();
        assert!(!old.is_cut_off() && old.version.is_none());
    }
}

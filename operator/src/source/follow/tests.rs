use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::*;
use crate::api_server::fake::{self, Body};

/// What a test watches for.
const HOUR: Duration = Duration::from_secs(3600);
/// More than a follower asks in any of these tests: whoever asks more gets no answer, so that a
/// test of one that never pauses ends.
const MANY: usize = 2000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    List,
    /// From this version.
    Watch(String),
}

/// What an API server answers.
enum Answer {
    /// An empty list as of a version.
    List(u32),
    /// A watch that tells nothing and ends after so long.
    Quiet(Duration),
    Refused(u16),
    Silence,
}

use Answer::{List, Quiet, Refused, Silence};

/// Follows for an hour, of which nobody waits a second. Returns what was asked, and when.
async fn followed(
    answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
) -> Vec<(Duration, Asked)> {
    let start = Instant::now();
    let asked: Arc<Mutex<Vec<(Duration, Asked)>>> = Arc::default();
    let (asks, answer) = (asked.clone(), Arc::new(answer));
    let client = fake::client(move |request| {
        let query = request.uri().query().unwrap_or_default();
        let version = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="));
        let what = match query.contains("watch=true") {
            true => Asked::Watch(version.unwrap_or_default().to_owned()),
            false => Asked::List,
        };
        let mut asks = asks.lock().unwrap();
        let given = match asks.len() < MANY {
            true => answer(asks.len(), &what),
            false => Silence,
        };
        asks.push((start.elapsed(), what));
        async move {
            match given {
                List(version) => fake::json(&json!({
                    "kind": "List", "apiVersion": "v1", "items": [],
                    "metadata": { "resourceVersion": version.to_string() },
                })),
                Quiet(life) => Response::new(quiet(life)),
                Refused(code) => fake::refusal(code),
                Silence => fake::silence().await,
            }
        }
    });
    let api: Api<Service> = Api::all(client);
    let _ = timeout(HOUR, follow(api, Only::default(), "Service", |_| ())).await;
    let asked = asked.lock().unwrap();
    asked.clone()
}

fn quiet(life: Duration) -> Body {
    let end = stream::once(sleep(life));
    let nothing = end.filter_map(|()| async { None::<Result<Frame<Bytes>, _>> });
    StreamBody::new(nothing).boxed_unsync()
}

fn gaps(asked: &[(Duration, Asked)]) -> Vec<Duration> {
    asked.windows(2).map(|two| two[1].0 - two[0].0).collect()
}

fn watch_from(version: u32) -> Asked {
    Asked::Watch(version.to_string())
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_begun_with_growing_pauses() {
    let asked = followed(|_, what| match what {
        Asked::List => List(7),
        Asked::Watch(_) => Quiet(Duration::ZERO),
    })
    .await;
    // A list and its watches, again and again: 30 s apart in the end.
    assert!(asked.len() > 100 && asked.len() < 500, "{}", asked.len());
    let gaps = gaps(&asked);
    assert_eq!(gaps[0], Duration::ZERO, "the first watch follows its list");
    assert!(gaps[1] >= PAUSES.0 / 2 && gaps[1] <= PAUSES.0, "{gaps:?}");
    let late = gaps.iter().skip(gaps.len() / 2);
    let pauses: Vec<_> = late.filter(|gap| !gap.is_zero()).collect();
    assert!(pauses.iter().all(|gap| **gap >= PAUSES.1 / 2), "{pauses:?}");
    assert!(pauses.iter().any(|gap| *gap != pauses[0]), "with jitter");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_after_every_list_is_no_reason_to_list_without_a_pause() {
    let asked = followed(|_, what| match what {
        Asked::List => List(7),
        Asked::Watch(_) => Refused(410),
    })
    .await;
    assert!(asked.len() > 100 && asked.len() < 500, "{}", asked.len());
    assert_eq!(asked[2].1, Asked::List, "at the first 410");
    assert!(gaps(&asked)[1] >= PAUSES.0 / 2);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_api_server_never_has_is_given_up_and_listed_again() {
    // As if etcd had been restored: what was listed before is from the future.
    let asked = followed(|n, what| match what {
        Asked::List if n == 0 => List(900),
        Asked::List => List(7),
        Asked::Watch(version) if version == "900" => Refused(504),
        Asked::Watch(_) => Quiet(HOUR),
    })
    .await;
    let what: Vec<_> = asked.iter().map(|(_, what)| what.clone()).collect();
    let future = vec![watch_from(900); GIVE_UP as usize];
    let begin = [vec![Asked::List], future, vec![Asked::List, watch_from(7)]].concat();
    assert_eq!(what[..begin.len()], begin);
    assert!(asked[begin.len() - 1].0 < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lived_is_followed_by_the_next_one_from_where_it_ended() {
    let life = Duration::from_secs(60);
    let asked = followed(move |_, what| match what {
        Asked::List => List(7),
        Asked::Watch(_) => Quiet(life),
    })
    .await;
    assert_eq!(asked[0].1, Asked::List);
    assert!(asked[1..].iter().all(|(_, what)| *what == watch_from(7)));
    let gaps = gaps(&asked[1..]);
    assert!(gaps.len() > 50, "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| *gap <= life + PAUSES.0),
        "each is the first again: {gaps:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_without_a_word_is_given_up() {
    let asked = followed(|n, what| match (n, what) {
        (0 | 2, _) => Silence,
        (_, Asked::List) => List(7),
        (_, Asked::Watch(_)) => Quiet(HOUR),
    })
    .await;
    let what: Vec<_> = asked.iter().take(4).map(|(_, what)| what.clone()).collect();
    assert_eq!(
        what,
        [Asked::List, Asked::List, watch_from(7), watch_from(7)]
    );
    let gaps = gaps(&asked);
    assert!(gaps[0] >= LIST && gaps[0] <= LIST + PAUSES.0, "{gaps:?}");
    assert!(
        gaps[2] >= OPEN && gaps[2] <= OPEN + PAUSES.0 * 2,
        "{gaps:?}"
    );
    // And one that has begun: the server had promised to end it.
    let dead = Duration::from_secs(WATCH.into()) + DEAD;
    assert!(gaps[3] >= dead && gaps[3] <= dead + PAUSES.0, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_asked_for_so_short_a_time_that_it_soon_says_how_far_a_quiet_kind_is() {
    let labelled = Only {
        labelled: Some("meshwright.dev/consumer"),
        ..Only::default()
    };
    // Those of Secrets are as many as namespaces.
    for (only, seconds) in [(Only::default(), WATCH), (labelled, WATCH_LABELLED)] {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let asks = asked.clone();
        let client = fake::client(move |request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let list = json!({
                "kind": "List", "apiVersion": "v1", "items": [], "metadata": { "resourceVersion": "7" },
            });
            let answer = match query.contains("watch=true") {
                true => Response::new(quiet(HOUR)),
                false => fake::json(&list),
            };
            asks.lock().unwrap().push(query);
            async move { answer }
        });
        let api: Api<Service> = Api::all(client);
        let _ = timeout(LIST, follow(api, only, "Service", |_| ())).await;
        let asked = asked.lock().unwrap();
        let watch = asked.iter().find(|query| query.contains("watch=true"));
        let watch = watch.unwrap();
        let bounded = format!("timeoutSeconds={seconds}");
        assert!(watch.split('&').any(|pair| pair == bounded), "{watch}");
        assert!(watch.contains("allowWatchBookmarks=true"), "{watch}");
    }
    assert!(
        Duration::from_secs(WATCH.into()) > LIVED,
        "else none ever holds"
    );
}

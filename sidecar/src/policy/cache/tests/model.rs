//! Whatever happens in whatever order: nothing is given that is stale without permission, that was
//! changed since, or that is another's alone. The model knows who was answered what, and when, and
//! reads what an answer says from a table instead of its headers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// What an answer says, and what that means: seconds for which it is fresh, may be given while
/// another is fetched, and where there is none; to whom it may be given, and whether stale.
#[derive(Clone, Copy, Debug)]
struct Says {
    line: &'static str,
    fresh: u64,
    while_revalidate: u64,
    kept: bool,
    for_all: bool,
    max_stale: bool,
}

const fn says(line: &'static str, fresh: u64) -> Says {
    Says {
        line,
        fresh,
        while_revalidate: 0,
        kept: true,
        for_all: false,
        max_stale: true,
    }
}

const ALL: [Says; 10] = [
    says("max-age=10", 10),
    Says {
        for_all: true,
        ..says("public, max-age=5", 5)
    },
    Says {
        for_all: true,
        max_stale: false,
        ..says("max-age=100, s-maxage=7", 7)
    },
    Says {
        for_all: true,
        max_stale: false,
        ..says("max-age=10, must-revalidate", 10)
    },
    Says {
        while_revalidate: 10,
        ..says("max-age=3, stale-while-revalidate=10", 3)
    },
    Says {
        max_stale: false,
        ..says("no-cache, max-age=50", 0)
    },
    Says {
        kept: false,
        ..says("private, max-age=50", 0)
    },
    Says {
        kept: false,
        ..says("max-age=50, no-store", 0)
    },
    Says {
        kept: false,
        ..says("s-maxage=9, PRIVATE=\"x\", public", 0)
    },
    // Nothing: the default holds.
    says("x", 4),
];

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// Path, whose credentials, what the request says, the answer.
    Get(usize, usize, &'static str, Says),
    Change(usize),
    Purge(usize),
}

const PATHS: [&str; 3] = ["/a", "/a/b", "/c"];
const CALLERS: [&[(&str, &str)]; 5] = [
    &[],
    &[("authorization", "Bearer a")],
    &[("authorization", "Bearer b")],
    &[("cookie", "session=c")],
    &[("x-forwarded-user", "d")],
];

/// An answer as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Made {
    says: Says,
    path: usize,
    caller: usize,
    at: Instant,
    gone: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let asks = select(vec![
        "",
        "",
        "",
        "no-cache",
        "max-age=2",
        "min-fresh=4",
        "max-stale=6",
    ]);
    prop_oneof![
        2 => (0..12_u64).prop_map(Step::Wait),
        8 => (0..PATHS.len(), 0..CALLERS.len(), asks, select(ALL.to_vec()))
            .prop_map(|(path, caller, asks, says)| Step::Get(path, caller, asks, says)),
        1 => (0..PATHS.len()).prop_map(Step::Change),
        1 => (0..PATHS.len()).prop_map(Step::Purge),
    ]
}

fn may_be_given(made: &Made, path: usize, caller: usize, asks: &str) -> Result<(), String> {
    let (age, says) = (made.at.elapsed().as_secs(), made.says);
    let shared = says.for_all || made.caller == 0 && caller == 0;
    let stale = age >= says.fresh;
    let over = age.saturating_sub(says.fresh);
    let permitted = says.while_revalidate > over && asks != "min-fresh=4"
        || asks == "max-stale=6" && over <= 6 && says.max_stale;
    for (wrong, what) in [
        (made.path != path, "another path's"),
        (made.gone, "changed or purged since"),
        (!says.kept, "not to be kept"),
        (!shared, "another's"),
        (stale && !permitted, "stale"),
        (asks == "no-cache", "not asked about"),
        (asks == "max-age=2" && age > 2, "too old"),
        (
            asks == "min-fresh=4" && age + 4 > says.fresh,
            "not fresh for long enough",
        ),
    ] {
        if wrong {
            return Err(format!(
                "{what}: {made:?}, {age} s old, for {caller} {asks:?}"
            ));
        }
    }
    Ok(())
}

async fn play(steps: Vec<Step>) -> Result<usize, String> {
    let cache = built(
        mesh::Cache {
            default_ttl_ms: 4_000,
            ..sent()
        },
        None,
    );
    let mut made: Vec<Made> = Vec::new();
    let mut hits = 0;
    for step in steps {
        match step {
            Step::Wait(seconds) => advance(secs(seconds)).await,
            Step::Change(path) => {
                cache.changed(80, &get(PATHS[path], &[]), &answered(200, &[]));
                let about = made.iter_mut().filter(|one| one.path == path);
                about.for_each(|one| one.gone = true);
            }
            Step::Purge(path) => {
                cache.store.purge(PATHS[path].as_bytes());
                let below = |one: &&mut Made| one.path == path || path == 0 && one.path == 1;
                made.iter_mut()
                    .filter(below)
                    .for_each(|one| one.gone = true);
            }
            Step::Get(path, caller, asks, says) => {
                let mut headers = CALLERS[caller].to_vec();
                if !asks.is_empty() {
                    headers.push(("cache-control", asks));
                }
                let head = get(PATHS[path], &headers);
                match consult(&cache, &head) {
                    Verdict::Give(entry, _) | Verdict::Refresh(entry, _) => {
                        let number = std::str::from_utf8(&entry.body().bytes).unwrap();
                        let given = &made[number.parse::<usize>().unwrap()];
                        may_be_given(given, path, caller, asks)?;
                        hits += 1;
                    }
                    Verdict::Fetch(..) => {
                        let lines = [("cache-control", says.line), ("etag", "\"1\"")];
                        let number = made.len().to_string();
                        let _ = put(&cache, &head, &answered(200, &lines), &number);
                        made.push(Made {
                            says,
                            path,
                            caller,
                            at: Instant::now(),
                            gone: false,
                        });
                    }
                    Verdict::Refuse => return Err("nobody asked for that".to_owned()),
                }
            }
        }
    }
    Ok(hits)
}

#[test]
fn nothing_stale_changed_or_anothers_is_ever_given() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let hits = std::cell::Cell::new(0);
    let config = ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in vec(step(), 1..60))| {
        let played = runtime.block_on(play(steps));
        hits.set(hits.get() + played.map_err(TestCaseError::fail)?);
    });
    // It would hold of a cache that keeps nothing, too.
    assert!(hits.get() > 5_000, "only {} were given", hits.get());
}

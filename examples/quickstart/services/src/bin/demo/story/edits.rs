//! What the mesh does when its documents are edited, well and badly.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use super::requests::{PAGES, all_answered, divided};
use crate::folder::{line_of, replaced};
use crate::shop::Shop;
use crate::{chapter, load, quote, say};

const ROUTE: &str = "route/shop/orders";
/// How long an edit may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(10);
/// How long an edit may take to be spoken of.
const SPOKEN_OF: Duration = Duration::from_secs(15);
/// Pages that are asked for to see that traffic goes on.
const SOME: u64 = 50;
/// What half of [`PAGES`] is, give or take five standard deviations (7.1 each).
const HALF: std::ops::RangeInclusive<u64> = 65..=135;
/// The lines that are edited.
const OLD: [&str; 2] = [
    "- {name: orders-v1, port: 80, weight: 90}",
    "- {name: orders-v2, port: 80, weight: 10}",
];
const NEW: [&str; 2] = [
    "- {name: orders-v1, port: 80, weight: 50}",
    "- {name: orders-v2, port: 80, weight: 50}",
];

/// The weights are edited.
pub(super) async fn weights(shop: &mut Shop, url: &str) -> anyhow::Result<()> {
    chapter("An edit: weights 90 and 10 become 50 and 50");
    let text = shop.folder.read_routes()?;
    let text = replaced(&replaced(&text, OLD[0], NEW[0])?, OLD[1], NEW[1])?;
    let (in_force, words) = edit(shop, &text).await?;
    say(&format!(
        "routes.yaml was saved. {:.2} s later web's sidecar had the new route in force. What was said:",
        in_force
    ));
    quote(&words);
    let (v1, v2) = divided(shop, url).await?;
    say(&format!(
        "Another {PAGES} pages: by the counters of web's sidecar {v1} to v1 and {v2} to v2."
    ));
    ensure!(
        HALF.contains(&v2),
        "v2 got {v2} of {PAGES} requests, where about a half was expected"
    );
    Ok(())
}

/// Writes a changed form of the routes. Returns how many seconds later it was in force, and what
/// `meshwright up` said of it.
async fn edit(shop: &mut Shop, text: &str) -> anyhow::Result<(f32, Vec<String>)> {
    let before = shop.config("web").await?.hash(ROUTE);
    ensure!(!before.is_empty(), "web's sidecar doesn't hold {ROUTE}");
    let from = shop.mesh.mark();
    let saved = Instant::now();
    shop.folder.write_routes(text)?;
    shop.config_when("web", "the new form of routes.yaml", IN_FORCE, |config| {
        config.hash(ROUTE) != before
    })
    .await?;
    let in_force = saved.elapsed().as_secs_f32();
    let enforced = |line: &str| line.contains("shop/orders") && line.contains("enforced by");
    shop.mesh
        .says(from, "that the new form is enforced", SPOKEN_OF, enforced)
        .await?;
    Ok((in_force, shop.mesh.said(from)))
}

/// The file is broken in two ways, and repaired.
pub(super) async fn broken(shop: &mut Shop, url: &str) -> anyhow::Result<()> {
    chapter("Mistakes: routes.yaml is saved half-written, then with a misspelled field");
    let good = shop.folder.read_routes()?;
    let hash = shop.config("web").await?.hash(ROUTE);

    let cut = good
        .find(NEW[1])
        .map_or(0, |start| start + "- {name: orders-v2, po".len());
    complains(shop, url, &good[..cut], "routes.yaml:", "").await?;
    say(&format!(
        "Cut off in the middle of a line. {SOME} more pages were all answered as before."
    ));

    let misspelled = replaced(&good, NEW[1], &NEW[1].replace("weight", "wieght"))?;
    let line = line_of(&misspelled, "wieght").unwrap_or_default();
    complains(
        shop,
        url,
        &misspelled,
        &format!("routes.yaml:{line}:"),
        "weight",
    )
    .await?;
    say(&format!(
        "`wieght` on line {line}: the file, the line and the nearest name were said. {SOME} more pages were all answered \
         as before."
    ));
    let now = shop.config("web").await?.hash(ROUTE);
    ensure!(
        now == hash,
        "a broken routes.yaml changed what web's sidecar enforces ({hash} became {now})"
    );

    let repaired = replaced(&replaced(&good, NEW[0], OLD[0])?, NEW[1], OLD[1])?;
    let (in_force, words) = edit(shop, &repaired).await?;
    say(&format!(
        "Repaired, with the weights of the beginning: in force {in_force:.2} s later."
    ));
    quote(&words);
    Ok(())
}

/// Writes a broken form of the routes: `meshwright up` must say `place` and `remedy` in one line, and
/// requests go on.
async fn complains(
    shop: &mut Shop,
    url: &str,
    text: &str,
    place: &str,
    remedy: &str,
) -> anyhow::Result<()> {
    let from = shop.mesh.mark();
    shop.folder.write_routes(text)?;
    let what = format!("`{place}` with a remedy");
    let said = |line: &str| line.contains(place) && line.contains(remedy);
    shop.mesh.says(from, &what, SPOKEN_OF, said).await?;
    let tally = load::send(&format!("{url}/"), SOME, &[]).await;
    quote(&shop.mesh.said(from));
    all_answered(&tally, SOME)
}

//! The story, chapter by chapter. Each chapter looks at what it tells, and fails when it isn't so.

mod edits;
mod requests;
mod troubles;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::mesh::{Mark, Mesh};
use crate::processes::{family, still_running};
use crate::shop::Shop;
use crate::{chapter, quote, say};

/// How long the mesh may take to start. Building is over by then; a busy machine may take its time.
const START: Duration = Duration::from_secs(60);
/// How long what was asked to end may take to vanish from /proc once its parent has ended.
const VANISH: Duration = Duration::from_secs(3);

/// Tells everything but the end. Returns where the shop is.
pub(crate) async fn tell(shop: &mut Shop) -> anyhow::Result<String> {
    let address = beginning(shop).await?;
    let url = address.as_str();
    requests::canary(shop, url).await?;
    requests::identities(shop).await?;
    requests::own_address(shop).await?;
    requests::header(shop, url).await?;
    requests::timeout(shop, url).await?;
    requests::methods(shop).await?;
    troubles::kill(shop, url).await?;
    edits::weights(shop, url).await?;
    edits::broken(shop, url).await?;
    Ok(address)
}

/// Waits until the shop is open. Returns where.
async fn beginning(shop: &mut Shop) -> anyhow::Result<String> {
    chapter("A shop opens");
    say(&format!("$ meshwright up {}", shop.folder.path.display()));
    let begun = Instant::now();
    let from = Mark::default();
    let url = match open(shop, from).await {
        Err(_)
            if shop
                .mesh
                .said(from)
                .iter()
                .any(|line| line.contains("is taken")) =>
        {
            quote(&shop.mesh.said(from));
            say("The port of web.yaml is taken on this machine; so the shop takes any other:");
            shop.mesh = Mesh::start(&shop.folder, &["--publish", "shop/web=0"])?;
            open(shop, Mark::default()).await?
        }
        opened => opened?,
    };
    let words = shop.mesh.said(from);
    quote(&words);
    if shop.mesh.is_without_namespaces() {
        say(
            "This machine doesn't let ordinary users have network namespaces, for the reason given above, and without \
             them nothing is captured. The shop's clients use $http_proxy, as most do, so the story can be told; but \
             whoever doesn't gets around the mesh. To see everything, run it as root or allow namespaces.",
        );
    }
    // All replicas: what is ready may still be on its way to the callers.
    shop.config_when(
        "web",
        "two replicas of orders-v1 and one of orders-v2",
        START,
        |config| {
            config.endpoints("shop/orders-v1").len() == 2
                && config.endpoints("shop/orders-v2").len() == 1
        },
    )
    .await?;
    let status = shop.enforced_everywhere("orders", START).await?;
    say(&format!(
        "Open after {:.1} s. Of the route to `orders` `meshwright status` says:",
        begun.elapsed().as_secs_f32()
    ));
    quote(&[status]);
    Ok(url)
}

/// Waits until `web` is published. Returns where.
async fn open(shop: &mut Shop, from: Mark) -> anyhow::Result<String> {
    let is_open = |line: &str| published(line).is_some();
    let line = shop
        .mesh
        .says(from, "where the shop is", START, is_open)
        .await?;
    published(&line).context("the shop is nowhere")
}

/// The URL in a line of `meshwright up` that says where `web` is published.
fn published(line: &str) -> Option<String> {
    if !line.contains("shop/web") {
        return None;
    }
    let (_, after) = line.split_once("http://127.0.0.1:")?;
    let port: String = after.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("http://127.0.0.1:{port}"))
}

/// What to try, for those who sit in front of it.
pub(crate) fn invite(shop: &Shop, url: &str) {
    let routes = shop.folder.routes();
    let mesh = shop.mesh.name();
    chapter("Your turn");
    say(&format!(
        "The shop stays open until you press Ctrl-C. In another terminal:\n\
         \n  edit {}\
         \n  curl {url}/\
         \n  curl -H 'x-canary: always' {url}/\
         \n  {}/meshwright status --up {mesh}\
         \n  {}/meshwright exec --up {mesh} web -- shop call GET http://orders/orders\n\
         \nWhat `meshwright up` says from now on:",
        routes.display(),
        shop.folder.programs.display(),
        shop.folder.programs.display(),
    ));
}

/// Ends the mesh, and looks for what it may have left behind.
pub(crate) async fn end(mut shop: Shop) -> anyhow::Result<()> {
    chapter("The shop closes");
    let id = shop.mesh.id().context("`meshwright up` ended by itself")?;
    let processes = family(id);
    let state = state_folder(shop.mesh.name());
    ensure!(
        state.is_dir(),
        "the running mesh keeps its state in {}, which isn't there",
        state.display()
    );
    let from: Mark = shop.mesh.mark();
    let begun = Instant::now();
    let status = shop.mesh.stop().await?;
    let took = begun.elapsed().as_secs_f32();
    quote(&shop.mesh.said(from));
    ensure!(
        status.success(),
        "`meshwright up` ended with {status} after SIGINT, where 0 was expected"
    );
    let until = Instant::now() + VANISH;
    let left = loop {
        let left = still_running(&processes);
        if left.is_empty() || Instant::now() > until {
            break left;
        }
        sleep(Duration::from_millis(10)).await;
    };
    ensure!(
        left.is_empty(),
        "{} processes still run after `meshwright up` has ended: {left:?}",
        left.len()
    );
    ensure!(
        !state.exists(),
        "`meshwright up` has left {} behind",
        state.display()
    );
    say(&format!(
        "After SIGINT `meshwright up` ended with exit code 0 in {took:.1} s. Of its {} processes none is left, nor is \
         its state ({}).",
        processes.len(),
        state.display()
    ));
    Ok(())
}

/// Where a running mesh keeps its state.
fn state_folder(mesh: &str) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    let parent = runtime.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    parent
        .join(format!(
            "meshwright-{}",
            rustix::process::geteuid().as_raw()
        ))
        .join(mesh)
}

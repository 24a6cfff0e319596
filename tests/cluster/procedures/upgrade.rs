//! `docs/upgrade.md`: from one version to the next by both ways, and back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tests::cluster::Cluster;

use super::Own;
use crate::installation::{SYSTEM, VERSION, chart_of};
use crate::life::back;
use crate::load::Load;
use crate::page::{Page, Shell};
use crate::shop::Shop;

/// Lines of the page that this test does not type.
const EXCEPT: &[(&str, &str)] = &[
    (
        "meshwright upgrade --ha",
        "`installing.rs` upgrades to three operators and back",
    ),
    (
        "kubectl apply --server-side -f crds/",
        "for definitions that Helm does not own: `procedures/installing.rs` types it",
    ),
];

/// How the definition of ApiRoutes begins in this version, and in the one before.
const DEFINED: &str = "An ApiRoute says where calls";
const DEFINED_BEFORE: &str = "An ApiRoute once said where calls";

/// The minor version before this one: the chart and its images are called so, and are the same else. What
/// versions say to one another is in `tests/skew`.
fn version_before() -> Result<String> {
    let mut numbers = VERSION.split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    let minor: u32 = minor.context("a minor version")?.parse()?;
    let minor = minor
        .checked_sub(1)
        .context("say here what the version before a major one is called")?;
    Ok(format!("{}.{minor}.0", major.context("a major version")?))
}

/// Writes this chart as the version before would have had it: of another name, and with a definition that says
/// something else.
async fn chart_before(folder: &Path, before: &str) -> Result<PathBuf> {
    let chart = chart_of(before, folder).await?;
    let apiroutes = chart.join("files/crds/apiroutes.yaml");
    let own = std::fs::read_to_string(&apiroutes)?;
    ensure!(own.matches(DEFINED).count() == 1, "{own}");
    std::fs::write(&apiroutes, own.replace(DEFINED, DEFINED_BEFORE))?;
    Ok(chart)
}

/// The operator, its definitions and its values are those of a version, and an edit is carried out by every
/// sidecar.
async fn is_of(cluster: &'static Cluster, version: &str) -> Result<()> {
    let deployment = ["get", "deployment", "meshwright-operator", "-n", SYSTEM];
    let operator = &cluster.json(&deployment).await?["spec"]["template"]["spec"]["containers"][0];
    let image = operator["image"].as_str().unwrap_or_default();
    ensure!(image.ends_with(&format!("/operator:{version}")), "{image}");
    let log = operator["env"].to_string();
    ensure!(log.contains("info,operator=debug"), "{log}");
    let crd = ["get", "crd", "apiroutes.meshwright.dev"];
    let schema = &cluster.json(&crd).await?["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let defined = schema["description"].as_str().unwrap_or_default();
    let expected = match version == VERSION {
        true => DEFINED,
        false => DEFINED_BEFORE,
    };
    ensure!(defined.starts_with(expected), "{defined}");

    let shop = Shop::apart(cluster, "shop");
    back(&shop).await?;
    let edited = object_generation(&shop).await?;
    let route = shop.route("orders");
    let route = route.replace("name: all", &format!("name: edit-{edited}"));
    cluster.apply(&route).await?;
    shop.programmed("orders").await.map(drop)
}

async fn object_generation(shop: &Shop) -> Result<u64> {
    let route = shop.object("orders").await?;
    let generation = route["metadata"]["generation"].as_u64();
    generation.context("an object without a generation")
}

/// How many sidecars of a namespace the page's own listing names with that version.
fn listed(list: &str, namespace: &str, version: &str) -> usize {
    let of = |line: &&str| {
        line.starts_with(&format!("{namespace}/")) && line.ends_with(&format!("/sidecar:{version}"))
    };
    list.lines().filter(of).count()
}

#[tokio::test]
async fn an_upgrade_and_the_way_back_are_as_their_page_says_and_no_call_fails() -> Result<()> {
    let own = Own::start().await?;
    let cluster = own.cluster;
    let before = version_before()?;
    own.imports().await?;
    for part in ["operator", "sidecar"] {
        let image = |version: &str| format!("ghcr.io/meshwright/{part}:{version}");
        cluster
            .also_name_image(&image(VERSION), &image(&before))
            .await?;
    }
    let shell = Shell::open(cluster)?;
    let chart = chart_before(shell.folder(), &before).await?;
    own.installs(&chart, &[r"logLevel=info\,operator=debug"])
        .await?;
    own.applications(&[
        ("shop", "orders", 2),
        ("shop", "web", 1),
        ("callers", "web", 1),
    ])
    .await?;
    let callers = Shop::apart(cluster, "callers");
    is_of(cluster, &before).await?;

    let load = Load::begin(&callers, "http://orders.shop/", "20ms").await?;
    let upgraded = upgraded(&shell, cluster, &before).await;
    let asked = load.end().await?;
    let failed: Vec<_> = asked.iter().filter(|one| one.outcome != "200").collect();
    eprintln!(
        "{} calls during two upgrades and two ways back",
        asked.len()
    );
    upgraded?;
    ensure!(
        failed.is_empty(),
        "{} of {} failed: {failed:?}",
        failed.len(),
        asked.len()
    );
    ensure!(asked.len() > 1_000, "only {}", asked.len());
    Ok(())
}

async fn upgraded(shell: &Shell, cluster: &'static Cluster, before: &str) -> Result<()> {
    let page = &mut Page::read("docs/upgrade.md")?;
    let (operator, sidecars) = ("1. Operator and definitions", "2. Sidecars");
    let said = page.types(shell, "Before", 0).await?;
    let [checked, objects, values] = &said[..] else {
        anyhow::bail!("not three looks before: {said:?}");
    };
    let other = format!("the operator is {before}");
    ensure!(checked.contains(before), "not {other}: {checked}");
    ensure!(objects.contains("orders.shop"), "{objects}");
    ensure!(values.contains("operator=debug"), "{values}");

    // By the command, and back.
    let said = page.types(shell, operator, 0).await?;
    let rendered = std::fs::read_to_string(shell.folder().join("new.yaml"))?;
    ensure!(
        rendered.contains(&format!("/operator:{VERSION}")),
        "{rendered}"
    );
    let keep = "4 pods keep the sidecars that they have";
    ensure!(said.concat().contains(keep), "{said:?}");
    is_of(cluster, VERSION).await?;
    let list = page.types(shell, sidecars, 0).await?.concat();
    ensure!(listed(&list, "shop", before) == 3, "{list}");
    let said = page.types(shell, "Back", 0).await?;
    let history = |revision: &str, version: &str| {
        let chart = format!("meshwright-{version}");
        let row = |line: &&str| line.starts_with(revision) && line.contains(&chart);
        said.concat().lines().any(|line| row(&line))
    };
    ensure!(history("1", before) && history("2", VERSION), "{said:?}");
    is_of(cluster, before).await?;

    // By Helm, with the sidecars.
    let said = page.types(shell, operator, 1).await?;
    ensure!(
        said.concat().contains("Phase:          Succeeded"),
        "{said:?}"
    );
    is_of(cluster, VERSION).await?;
    page.types(shell, sidecars, 1).await?;
    let list = page.types(shell, sidecars, 0).await?.concat();
    let found = ["shop", "callers"].map(|namespace| listed(&list, namespace, VERSION));
    ensure!(found == [3, 0], "{list}");
    let checked = page.types_line(shell, "meshwright check --cluster").await?;
    let told = format!("1 sidecar is of version {before}, and the operator of {VERSION}");
    let remedy = "`kubectl rollout restart deployment,statefulset,daemonset -n callers`";
    ensure!(
        checked.contains(&told) && checked.contains(remedy),
        "{checked}"
    );

    // Back, while sidecars are newer than the operator, and then with the sidecars.
    page.types(shell, "Back", 0).await?;
    is_of(cluster, before).await?;
    page.types(shell, sidecars, 1).await?;
    let list = page.types(shell, sidecars, 0).await?.concat();
    ensure!(listed(&list, "shop", before) == 3, "{list}");
    page.is_typed_whole(EXCEPT)
}

//! Every other page: each line for a shell is typed, or there is a reason why not.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::{Cluster, signal_process, wait_until};

use super::Own;
use crate::installation::{PODS, SYSTEM, import_built, root};
use crate::life::{back, operators};
use crate::page::{Line, Page, Shell};
use crate::shop::{Shop, application};

/// Pages that another test types whole.
const WHOLE: &[&str] = &[
    "docs/certificates.md",
    "docs/first-route.md",
    "docs/install.md",
    "docs/moving-in.md",
    "docs/pod-security.md",
    "docs/upgrade.md",
];

/// Of a mesh that `meshwright up` runs on one machine.
const HERE: &str = "of a mesh on one machine: `tests/examples/command.rs` types it";
const OF_A_FOLDER: &str =
    "of a folder that the page does not show: `cli/tests/up` asks it of one of its own";
const CACHING: &str = "examples/caching/README.md shows it, whose commands `tests/examples` types";
const EVENTS: &str = "examples/events/README.md shows it, whose commands `tests/examples` types";
const FRAGMENT: &str = "names an option, and is no whole line";
const REGISTRY: &str = "there is no registry here: `images.rs` looks at the archives";
const BUILT: &str = "builds or tests this checkout";

/// Lines that are not typed here, each with its page and the reason.
const EXCEPT: &[(&str, &str, &str)] = &[
    ("README.md", "meshwright up FOLDER", HERE),
    (
        "README.md",
        "make demo    # builds everything, starts a small shop with its mesh, and tells what happens",
        BUILT,
    ),
    (
        "README.md",
        "make test    # every test, the real Kubernetes included (that part needs root)",
        BUILT,
    ),
    (
        "README.md",
        "make images                    # static images, as OCI archives in target/images",
        BUILT,
    ),
    (
        "README.md",
        "for part in operator sidecar; do\n    skopeo copy --all \
         oci-archive:target/images/$part-0.2.0.tar docker://$REGISTRY/$part:0.2.0\n  done",
        REGISTRY,
    ),
    (
        "README.md",
        "target/debug/meshwright install \\\n    --set \
         operator.image.repository=$REGISTRY/operator,sidecar.image.repository=$REGISTRY/sidecar",
        REGISTRY,
    ),
    ("docs/cli.md", "meshwright up examples/quickstart", HERE),
    (
        "docs/cli.md",
        "meshwright exec web -- shop call GET http://orders/orders",
        HERE,
    ),
    ("docs/cli.md", "meshwright status", HERE),
    ("docs/cli.md", "meshwright check post", OF_A_FOLDER),
    (
        "docs/cli.md",
        "meshwright check shop -n shop",
        "`commands.rs` makes such an edit, and compares what is said of it",
    ),
    ("docs/cli.md", "meshwright config web", HERE),
    ("docs/cli.md", "meshwright routes web", HERE),
    (
        "docs/cli.md",
        "meshwright explain GET http://orders/orders --from web",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright explain tcp://ledger:7000 --from web",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright explain http://10.244.0.3:8080/ --from web",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright explain http://192.0.2.7/ --from web",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright explain tcp://ledger:81 --from web",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright explain GET http://orders/admin --from web --to orders",
        OF_A_FOLDER,
    ),
    (
        "docs/cli.md",
        "meshwright explain GET http://orders/ --from web --to orders",
        OF_A_FOLDER,
    ),
    ("docs/cli.md", "meshwright tap web --count 6", HERE),
    (
        "docs/cli.md",
        "meshwright tap web -o json --status 5xx --count 1",
        HERE,
    ),
    ("docs/cli.md", "meshwright cache show orders", CACHING),
    (
        "docs/cli.md",
        "meshwright cache purge orders --path /orders/slow",
        CACHING,
    ),
    (
        "docs/cli.md",
        "meshwright port-forward inventory 9091:8080",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright consumer create acme --plan gold --expires-in 90d --folder shop | wl-copy",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright consumer rotate acme --overlap 7d --expires-in 90d --folder shop | wl-copy",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright consumer list --folder shop",
        HERE,
    ),
    (
        "docs/cli.md",
        "meshwright consumer revoke acme --key yz0tpzo0 --folder shop",
        HERE,
    ),
    ("docs/cli.md", "kubectl apply --prune", FRAGMENT),
    (
        "docs/cli.md",
        "meshwright install --ha -f platform.yaml",
        "`procedures/installing.rs` types it",
    ),
    ("docs/rate-limit.md", "meshwright explain --to", FRAGMENT),
    (
        "docs/troubleshooting.md",
        "meshwright explain --to",
        FRAGMENT,
    ),
    (
        "docs/events.md",
        "meshwright events list [WORKLOAD…]",
        EVENTS,
    ),
    (
        "docs/events.md",
        "meshwright events peek shop/stock-to-billing",
        EVENTS,
    ),
    (
        "docs/events.md",
        "meshwright events replay shop/stock-to-billing",
        EVENTS,
    ),
    (
        "docs/events.md",
        "meshwright events purge shop/stock-to-billing",
        EVENTS,
    ),
];

/// What is written for the places that a line leaves open.
const PLACES: &[(&str, &str)] = &[
    ("NAMESPACE", "shop"),
    ("WORKLOAD", "deployment/web"),
    ("SERVICE:PORT", "mail:25"),
    ("SERVICE", "orders-v1"),
    ("URL", "http://orders/orders"),
    ("USER", "nobody"),
    ("DIR", "examples/quickstart"),
    ("COMMAND", "check"),
];

/// Lines that are typed in other words, since they would not end by themselves or need what only this test knows.
const INSTEAD: &[(&str, &str)] = &[
    (
        "meshwright tap WORKLOAD --reason REASON",
        "meshwright tap deployment/customers --reason no_route --count 1 & tap=$!; \
         while kill -0 $tap 2>&-; do kubectl exec deployment/customers -c customers -- \
         shop call DELETE http://inventory/items/teapot >/dev/null 2>&1; done; wait $tap",
    ),
    (
        "meshwright consumer revoke NAME --key ID",
        "key=$(meshwright consumer list | awk '/^shop.acme/ { print $3; exit }'); \
         meshwright consumer revoke acme --key $key",
    ),
];

/// Lines that change what others look at, and what is typed after each.
const THEN: &[(&str, &str)] = &[
    (
        "kubectl scale deployment/meshwright-operator --replicas=3 -n meshwright-system",
        "kubectl rollout status -n meshwright-system deployment/meshwright-operator",
    ),
    (
        "kubectl rollout restart -n NAMESPACE deployment",
        "kubectl rollout status -n NAMESPACE deployment",
    ),
    (
        "kubectl delete mutatingwebhookconfiguration meshwright-injector",
        "meshwright upgrade && meshwright check --cluster",
    ),
];

/// All pages that are left: of the root and of `docs/`, but for the list of promises, whose every line names tests.
fn pages() -> Result<Vec<String>> {
    let mut all = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name();
        let name = format!("docs/{}", name.to_str().context("a name in UTF-8")?);
        let other = name.ends_with(".md") && name != "docs/promises.md";
        all.extend((other && !WHOLE.contains(&name.as_str())).then_some(name));
    }
    all.sort();
    Ok(all)
}

/// The quickstart in its namespace, as the README says, to which bare commands belong from then on.
async fn quickstart(cluster: &'static Cluster) -> Result<Shop> {
    for image in ["shop", "inventory"] {
        import_built(cluster, image).await?;
    }
    let shell = Shell::open(cluster)?;
    let shop = Shop::apart(cluster, "shop");
    for line in [CREATE, LABEL] {
        shell.succeeds(line).await?;
    }
    shell
        .succeeds("kubectl apply -f examples/quickstart")
        .await?;
    shell
        .succeeds("kubectl rollout status -n shop deployment")
        .await?;
    for route in ["orders", "inventory"] {
        shop.programmed(route).await?;
    }
    cluster.apply(MAIL).await?;
    let here = ["config", "set-context", "--current", "--namespace=shop"];
    cluster.kubectl(&here).await?;
    Ok(shop)
}

/// Something to be called that speaks no HTTP.
const MAIL: &str = r"
apiVersion: v1
kind: Service
metadata: { name: mail, namespace: shop }
spec:
  selector: { app: customers }
  ports: [{ port: 25, appProtocol: tcp, targetPort: 8080 }]
";

/// What the README says to do with a namespace, which is done before all else.
const CREATE: &str = "kubectl create namespace shop";
const LABEL: &str = "kubectl label namespace shop meshwright.dev/inject=enabled";

#[tokio::test]
async fn every_line_of_every_other_page_is_typed_or_is_not_for_a_reason() -> Result<()> {
    let own = Own::start().await?;
    let cluster = own.cluster;
    own.imports().await?;
    Shell::open(cluster)?.succeeds("meshwright install").await?;
    let shop = quickstart(cluster).await?;

    let mut typed = BTreeSet::from([CREATE, LABEL].map(str::to_owned));
    for name in WHOLE {
        let lines = Page::read(name)?;
        let lines = lines.lines().iter().filter(|line| !line.only_names());
        typed.extend(lines.map(|line| written(&line.command)));
    }
    let mut wrong = Vec::new();
    let mut stale = EXCEPT.to_vec();
    for name in pages()? {
        let page = Page::read(&name)?;
        for line in page.lines().iter().filter(|line| !line.only_names()) {
            let is = |(other, command, _): &(&str, &str, &str)| {
                *other == name && *command == line.command
            };
            stale.retain(|one| !is(one));
            // What several pages say is typed once.
            if EXCEPT.iter().any(is) || !typed.insert(written(&line.command)) {
                continue;
            }
            if let Err(error) = types(&shop, line).await {
                wrong.push(format!("{name}, {}: {error:#}", line.heading));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(stale.is_empty(), "on no page: {stale:#?}");
    Ok(())
}

/// A line with what stands for its placeholders.
fn written(command: &str) -> String {
    let by = |line: String, (word, by): &(&str, &str)| line.replace(word, by);
    PLACES.iter().fold(command.to_owned(), by)
}

/// Types a line, and what belongs to it.
async fn types(shop: &Shop, line: &Line) -> Result<()> {
    let pod = shop.pod("web").await?;
    let shell = Shell::open(shop.cluster)?.writes(&[("POD", &pod)]);
    let command = line.command.as_str();
    let in_table = |table: &[(&str, &'static str)]| {
        let found = table.iter().find(|(other, _)| *other == command);
        found.map(|(_, by)| *by)
    };
    if command.contains("deployment.yaml") {
        let image = shop.cluster.web_image().await?;
        let all = application("orders", "shop", image, 1);
        let deployment = all
            .split("---\n")
            .find(|part| part.contains("kind: Deployment"));
        let file = shell.folder().join("deployment.yaml");
        std::fs::write(file, deployment.context("a Deployment")?)?;
    }
    if command.ends_with(" --previous") {
        crashed(shop).await?;
    }
    let instead = in_table(INSTEAD).unwrap_or(command);
    shell.succeeds(&written(instead)).await?;
    if let Some(then) = in_table(THEN) {
        shell.succeeds(&written(then)).await?;
    }
    Ok(())
}

/// Every operator ends once as it shouldn't, and runs again.
async fn crashed(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    let process = async |pod: &str| cluster.container_pid(SYSTEM, pod, "operator").await;
    let mut before = Vec::new();
    for pod in operators(cluster).await? {
        before.push((process(&pod).await?, pod));
    }
    for (process, _) in &before {
        signal_process(*process, Signal::SIGKILL)?;
    }
    for (was, pod) in before {
        wait_until("it runs again", PODS, async || {
            let now = process(&pod).await?;
            ensure!(now != was, "still {was}");
            Ok(())
        })
        .await?;
    }
    back(shop).await
}

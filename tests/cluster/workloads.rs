//! What runs in a mesh beside Deployments, and what people and scrapers do with pods, under strict mutual
//! TLS.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{run, wait_until};
use tests::mesh::binary;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::installation::{PODS, installed};
use crate::shop::{Shop, Stranger, address};

/// A workload's head, and a pod's template after it, indented by so many spaces.
fn template(image: &str, indent: usize, restart: &str, args: &str) -> String {
    let lines = format!(
        r#"template:
  metadata: {{ labels: {{ app: all }} }}
  spec:
    restartPolicy: {restart}
    terminationGracePeriodSeconds: 2
    initContainers: [{{ name: first, image: {image}, imagePullPolicy: Never, args: [get, "http://orders/init"] }}]
    containers:
      - {{ name: one, image: {image}, imagePullPolicy: Never, args: {args} }}
"#
    );
    let indented = lines.lines().map(|line| format!("{:indent$}{line}\n", ""));
    indented.collect()
}

#[tokio::test]
async fn jobs_end_by_themselves_and_stateful_and_daemon_sets_are_ready_having_called_a_service()
-> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let (cluster, namespace) = (shop.cluster, &shop.namespace);
    let image = cluster.web_image().await?;
    let get = r#"[get, "http://orders/job"]"#;
    let serve = r#"[serve, ":8080"], readinessProbe: { httpGet: { port: 8080, path: / }, periodSeconds: 1 }"#;
    let yaml = [
        format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: once, namespace: {namespace} }}\nspec:\n"),
        template(image, 2, "Never", get),
        format!("---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {{ name: nightly, namespace: {namespace} }}\nspec:\n  schedule: \"0 3 * * *\"\n  jobTemplate:\n    spec:\n"),
        template(image, 6, "OnFailure", get),
        format!("---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{ name: db, namespace: {namespace} }}\nspec:\n  serviceName: db\n  selector: {{ matchLabels: {{ app: all }} }}\n"),
        template(image, 2, "Always", serve),
        format!("---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{ name: agent, namespace: {namespace} }}\nspec:\n  selector: {{ matchLabels: {{ app: all }} }}\n"),
        template(image, 2, "Always", serve),
    ]
    .concat();
    cluster.apply(&yaml).await?;
    let now = [
        "create",
        "job",
        "tonight",
        "--from=cronjob/nightly",
        "-n",
        namespace,
    ];
    cluster.kubectl(&now).await?;
    for job in ["once", "tonight"] {
        let complete = [
            "wait",
            "--for=condition=Complete",
            "-n",
            namespace,
            "--timeout=90s",
        ];
        let job = format!("job/{job}");
        cluster.kubectl(&[&complete[..], &[&job]].concat()).await?;
        let said = cluster
            .kubectl(&["logs", &job, "-n", namespace, "-c", "one"])
            .await?;
        ensure!(
            said.starts_with("200\n") && said.contains("GET /job"),
            "{said}"
        );
        let said = cluster
            .kubectl(&["logs", &job, "-n", namespace, "-c", "first"])
            .await?;
        ensure!(
            said.starts_with("200\n") && said.contains("GET /init"),
            "{said}"
        );
    }
    for set in ["statefulset/db", "daemonset/agent"] {
        cluster.ready(namespace, set, PODS).await?;
    }
    Ok(())
}

#[tokio::test]
async fn people_reach_pods_by_kubectl_and_scrapers_their_metrics_under_strict() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    let (cluster, namespace) = (shop.cluster, &shop.namespace);
    let image = cluster.web_image().await?;
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata:
  name: orders
  namespace: {namespace}
  labels: {{ app: orders }}
  annotations:
    meshwright.dev/exclude-inbound-ports: "9090"
    meshwright.dev/permissive-ports: "9091"
    meshwright.dev/sidecar-cpu-request: 20m
    meshwright.dev/sidecar-workers: "1"
spec:
  containers:
    - name: orders
      image: {image}
      imagePullPolicy: Never
      args: [serve, ":8080", ":9090", ":9091"]
      ports: [{{ containerPort: 8080 }}, {{ containerPort: 9090 }}, {{ containerPort: 9091 }}]
      readinessProbe: {{ tcpSocket: {{ port: 9090 }}, periodSeconds: 1 }}
---
apiVersion: v1
kind: Service
metadata: {{ name: orders, namespace: {namespace} }}
spec:
  selector: {{ app: orders }}
  ports: [{{ name: http, port: 80, targetPort: 8080 }}, {{ name: http-excluded, port: 9090 }}, {{ name: http-permissive, port: 9091 }}]
"#
        ))
        .await?;
    cluster.ready(namespace, "orders", PODS).await?;

    let said = cluster
        .exec(
            namespace,
            "orders",
            "orders",
            &["/web", "get", "http://127.0.0.1:8080/x"],
        )
        .await?;
    ensure!(said.contains("orders GET /x"), "{said}");
    let sidecar = cluster
        .logs(namespace, "orders", "meshwright-sidecar")
        .await?;
    ensure!(sidecar.contains("listening"), "{sidecar}");
    // The application's own port, past its sidecar.
    let mut forward = cluster
        .command("kubectl")
        .args(["port-forward", "-n", namespace, "pod/orders", ":8080"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(forward.stdout.take().context("its output")?).lines();
    let line = lines.next_line().await?.context("a line")?;
    let at = line
        .split(' ')
        .find(|word| word.starts_with("127.0.0.1:"))
        .context(line.clone())?;
    let (status, said) = shop
        .get_from_node(&format!("http://{at}/forwarded"))
        .await?;
    ensure!(
        status == 200 && said.contains("GET /forwarded"),
        "{status} {said}"
    );

    // A scraper outside of the mesh.
    let stranger = Stranger::start(cluster).await?;
    let pod = address(cluster, namespace, "orders").await?;
    let get = async |port: u16| stranger.get(&format!("http://{pod}:{port}/metrics")).await;
    for (port, wanted, says) in [
        (
            15020,
            200,
            "meshwright_certificate_expiry_timestamp_seconds",
        ),
        (9090, 200, "orders GET /metrics"),
        (9091, 200, "orders GET /metrics"),
        (8080, 403, "plaintext_refused"),
    ] {
        wait_until(&format!("{port} answers {wanted}"), PODS, async || {
            let (status, said) = get(port).await?;
            ensure!(status == wanted && said.contains(says), "{status} {said}");
            Ok(())
        })
        .await?;
    }
    // Members of the mesh reach all of them.
    for port in [80, 9090, 9091] {
        let url = format!("http://orders:{port}/member");
        wait_until(&url, PODS, async || shop.answered_by(&url).await).await?;
    }
    Ok(())
}

#[tokio::test]
async fn check_names_pods_without_a_sidecar_and_inject_gives_one_as_the_webhook_would() -> Result<()>
{
    let cluster = installed().await?;
    let namespace = cluster.namespace("late").await?;
    let shop = Shop::elsewhere(cluster, &namespace).await;
    let image = cluster.web_image().await?;
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  containers:\n  - {{ name: app, image: {image}, imagePullPolicy: Never, args: [serve, \":8080\"] }}\n"
        )
    };
    cluster.apply(&pod("early")).await?;
    // The same function on a file, as the operator of this cluster says.
    let meshwright = || Ok::<_, anyhow::Error>(cluster.command(binary("meshwright")?));
    let injected = run(
        meshwright()?.args(["inject", "--cluster", "-"]),
        &pod("by-hand"),
    )
    .await?;
    ensure!(injected.contains("meshwright-sidecar"), "{injected}");
    cluster.apply(&injected).await?;
    cluster.ready(&namespace, "by-hand", PODS).await?;

    let label = [
        "label",
        "namespace",
        &namespace,
        "meshwright.dev/inject=enabled",
    ];
    cluster.kubectl(&label).await?;
    let mut check = shop.meshwright(&["check", "--cluster"])?;
    let checked = check.output().await?;
    let told = String::from_utf8(checked.stdout)?;
    let named = format!("Pod {namespace}/early should have a sidecar and has none");
    ensure!(
        checked.status.code() == Some(1) && told.contains(&named),
        "{told}"
    );
    ensure!(!told.contains("by-hand should"), "{told}");
    let operator = cluster
        .kubectl(&[
            "get",
            "pods",
            "-n",
            "meshwright-system",
            "-o",
            "jsonpath={.items[0].status.podIP}",
        ])
        .await?;
    wait_until("the operator counts it", PODS, async || {
        let (_, metrics) = shop
            .get_from_node(&format!("http://{operator}:15014/metrics"))
            .await?;
        let counted = metrics
            .lines()
            .find(|line| line.starts_with("meshwright_operator_unmeshed_pods "));
        let counted = counted.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        ensure!(counted.is_some_and(|counted| counted > 0), "{metrics}");
        Ok(())
    })
    .await
}

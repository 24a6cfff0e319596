//! Names that lead somewhere else than to a Service's virtual address.

use anyhow::{Result, ensure};
use tests::cluster::{run, wait_until};

use crate::installation::{PODS, installed};
use crate::shop::{Shop, Stranger};

/// Connections that a sidecar has passed through as they are.
const PASSED: &str = r#"meshwright_connections_total{direction="outbound",kind="passthrough"}"#;

/// Two pods of a StatefulSet behind a headless Service, port 8080.
fn ledger(namespace: &str, image: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: ledger, namespace: {namespace} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: ledger, namespace: {namespace} }}
spec:
  clusterIP: None
  selector: {{ app: ledger }}
  ports: [{{ name: http, port: 8080 }}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: ledger, namespace: {namespace} }}
spec:
  serviceName: ledger
  replicas: 2
  podManagementPolicy: Parallel
  selector: {{ matchLabels: {{ app: ledger }} }}
  template:
    metadata: {{ labels: {{ app: ledger }} }}
    spec:
      serviceAccountName: ledger
      terminationGracePeriodSeconds: 5
      containers:
        - name: ledger
          image: {image}
          imagePullPolicy: Never
          args: [serve, ":8080"]
"#
    )
}

fn external_name(name: &str, namespace: &str, leads_to: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ type: ExternalName, externalName: {leads_to} }}
---
"#
    )
}

/// A name of the cluster's DNS that leads to an address, and of which the mesh knows no port.
fn bare_name(name: &str, namespace: &str, address: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ clusterIP: None }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{ kubernetes.io/service-name: {name} }}
addressType: IPv4
endpoints: [{{ addresses: [{address}] }}]
---
"#
    )
}

/// Waits until the sidecar of `web` knows as many endpoints of a Service.
async fn known(shop: &Shop, service: &str, endpoints: &str) -> Result<()> {
    wait_until(&format!("{service} is known"), PODS, async || {
        let routes = run(&mut shop.meshwright(&["routes", "deployment/web"])?, "").await?;
        let mut rows = routes.lines().map(|line| line.split_whitespace());
        let row = rows.find(|row| row.clone().next() == Some(service));
        let told = row.and_then(|mut row| row.nth(4));
        let told = told.map(|told| told.trim_end_matches(','));
        ensure!(told == Some(endpoints), "{routes}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stateful_sets_pod_is_called_by_its_own_name_over_mutual_tls() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    let image = shop.cluster.web_image().await?;
    let namespace = &shop.namespace;
    let first = format!("ledger-0.ledger.{namespace}.svc.cluster.local");
    let first = external_name("first", namespace, &first);
    shop.cluster
        .apply(&(first + &ledger(namespace, image)))
        .await?;
    shop.cluster
        .ready(namespace, "statefulset/ledger", PODS)
        .await?;
    known(&shop, &format!("{namespace}/ledger"), "2").await?;

    for pod in ["ledger-1", "ledger-0"] {
        let names = [
            format!("{pod}.ledger.{namespace}.svc.cluster.local"),
            format!("{pod}.ledger"),
        ];
        for name in names {
            let url = format!("http://{name}:8080/to/{pod}");
            // Its name is in DNS a moment after it is ready.
            let answers = format!("{url} answers");
            let by = wait_until(&answers, PODS, async || shop.answered_by(&url).await).await?;
            assert_eq!(by, pod, "{url}");
        }
        for _ in 0..4 {
            let url = format!("http://{pod}.ledger:8080/to/{pod}");
            assert_eq!(shop.answered_by(&url).await?, pod);
        }
        // Who called has proved who it is, and nobody has called who has not.
        let peer = format!(
            r#""source":"spiffe://cluster.local/ns/{namespace}/sa/web","service":"{namespace}/ledger""#
        );
        wait_until("the access log has the calls", PODS, async || {
            let sidecar = "meshwright-sidecar";
            let log = shop.cluster.logs(namespace, pod, sidecar).await?;
            let calls = log.matches(r#""direction":"inbound""#).count();
            ensure!(calls >= 6 && log.matches(&peer).count() == calls, "{log}");
            Ok(())
        })
        .await?;
    }
    let by = shop.answered_by("http://first:8080/").await?;
    assert_eq!(by, "ledger-0", "by a name that leads to its name");
    assert_eq!(shop.metric(&shop.pod("web").await?, PASSED).await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_external_name_means_what_its_name_leads_to() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1), ("two", 1)]).await?;
    let stranger = Stranger::start(shop.cluster).await?;
    let web = shop.pod("web").await?;
    let namespace = &shop.namespace;
    let services = [
        external_name(
            "partner",
            namespace,
            &format!("orders.{namespace}.svc.cluster.local"),
        ),
        // A Service outside the mesh, which the mesh knows all the same.
        external_name(
            "neighbour",
            namespace,
            &format!("stranger.{}.svc.cluster.local", stranger.namespace),
        ),
        // An address at which it knows no such port.
        external_name(
            "supplier",
            namespace,
            &format!("bare.{}.svc.cluster.local", stranger.namespace),
        ),
        bare_name("bare", &stranger.namespace, &stranger.address().await?),
    ];
    shop.cluster.apply(&services.concat()).await?;
    let answers = async |url: &str, wanted: &str| {
        wait_until(&format!("{url} answers"), PODS, async || {
            let pod = shop.answered_by(url).await?;
            ensure!(pod.starts_with(wanted), "{pod}");
            Ok(())
        })
        .await
    };

    // The Service itself: its pods take nothing but mutual TLS, and its ApiRoute governs.
    answers("http://partner/", "orders-").await?;
    shop.cluster.apply(&shop.route("two")).await?;
    shop.programmed("orders").await?;
    answers("http://partner/", "two-").await?;
    answers("http://neighbour/", "stranger").await?;
    known(&shop, &format!("{}/stranger", stranger.namespace), "1").await?;
    assert_eq!(shop.metric(&web, PASSED).await?, 0);

    answers("http://supplier:9090/", "stranger").await?;
    assert_eq!(shop.metric(&web, PASSED).await?, 1);

    // Where unknown addresses are refused, only the last is one.
    let refuse = "meshwright.dev/unknown-addresses=refuse";
    let label = ["label", "namespace", namespace, refuse];
    shop.cluster.kubectl(&label).await?;
    wait_until("what is not known is refused", PODS, async || {
        let (status, body) = shop.get("http://supplier:9090/").await?;
        ensure!(
            status == 403 && body.contains("address_not_known"),
            "{status} {body}"
        );
        Ok(())
    })
    .await?;
    answers("http://partner/", "two-").await?;
    answers("http://neighbour/", "stranger").await
}

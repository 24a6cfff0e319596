//! Who gets a sidecar, and what the pod then is.

use anyhow::{Result, ensure};

use crate::installation::{PODS, installed, meshed_namespace, operator_stays};
use crate::shop::Shop;

#[tokio::test]
async fn a_pod_of_a_labelled_namespace_gets_a_ready_sidecar() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    let name = shop.pod("web").await?;
    let pod = shop
        .cluster
        .json(&["get", "pod", &name, "-n", &shop.namespace])
        .await?;

    let init = pod["spec"]["initContainers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let sidecar = init
        .iter()
        .find(|container| container["name"] == "meshwright-sidecar");
    let sidecar = sidecar.expect("a sidecar among the init containers");
    assert_eq!(sidecar["restartPolicy"], "Always", "a native sidecar");
    let security = &sidecar["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"][0], "ALL");

    let statuses = pod["status"]["initContainerStatuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let status = statuses
        .iter()
        .find(|status| status["name"] == "meshwright-sidecar");
    assert_eq!(status.expect("a status")["ready"], true);
    Ok(())
}

#[tokio::test]
async fn a_pod_elsewhere_or_opted_out_gets_none() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let image = cluster.web_image().await?;
    let labelled = meshed_namespace(cluster, "opt-out").await?;
    let elsewhere = cluster.namespace("elsewhere").await?;
    for (namespace, label) in [(&labelled, "disabled"), (&elsewhere, "unrelated")] {
        cluster
            .apply(&format!(
                r#"
apiVersion: v1
kind: Pod
metadata:
  name: plain
  namespace: {namespace}
  labels: {{ meshwright.dev/inject: {label} }}
spec:
  containers: [{{ name: plain, image: {image}, imagePullPolicy: Never, args: [serve, ":8080"] }}]
"#
            ))
            .await?;
        cluster.ready(namespace, "plain", PODS).await?;
        let pod = cluster
            .json(&["get", "pod", "plain", "-n", namespace])
            .await?;
        assert!(
            pod["spec"]["initContainers"].is_null(),
            "{namespace}: {}",
            pod["spec"]
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_that_asks_for_a_sidecar_gets_one_where_its_namespace_does_not() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let image = cluster.web_image().await?;
    let namespace = cluster.namespace("elsewhere").await?;
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata:
  name: asks
  namespace: {namespace}
  labels: {{ meshwright.dev/inject: enabled }}
spec:
  containers: [{{ name: plain, image: {image}, imagePullPolicy: Never, args: [serve, ":8080"] }}]
"#
        ))
        .await?;
    cluster.ready(&namespace, "asks", PODS).await?;
    let pod = cluster
        .json(&["get", "pod", "asks", "-n", &namespace])
        .await?;
    let injected = pod["spec"]["initContainers"].as_array().into_iter();
    let mut names = injected.flatten().map(|one| &one["name"]);
    ensure!(
        names.any(|name| name == "meshwright-sidecar"),
        "{}",
        pod["spec"]
    );
    Ok(())
}

#[tokio::test]
async fn a_pod_that_cannot_be_captured_is_refused_with_a_reason() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let image = cluster.web_image().await?;
    let namespace = meshed_namespace(cluster, "refused").await?;
    let refused = cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{ name: host, namespace: {namespace} }}
spec:
  hostNetwork: true
  containers: [{{ name: host, image: {image}, imagePullPolicy: Never, args: [serve, ":8080"] }}]
"#
        ))
        .await
        .expect_err("the webhook refuses");
    let said = format!("{refused:#}");
    assert!(said.contains("hostNetwork"), "{said}");
    Ok(())
}

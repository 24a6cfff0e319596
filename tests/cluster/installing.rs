//! The whole life of an installation, from the first word to the last trace, in a cluster of its own.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{Cluster, programs, run, wait_until};
use tests::mesh::binary;
use tokio::process::Command;

use crate::installation::{PODS, SYSTEM, import_built, meshed_namespace, root};

/// What `meshwright` says and its exit code, in a cluster.
async fn meshwright(cluster: &Cluster, arguments: &[&str]) -> Result<(i32, String)> {
    told(cluster.command(binary("meshwright")?).args(arguments)).await
}

async fn told(command: &mut Command) -> Result<(i32, String)> {
    let output = command.output().await?;
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().context("a signal")?;
    Ok((code, String::from_utf8(said)?))
}

/// The same, when it succeeds.
async fn succeeds(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let (code, said) = meshwright(cluster, arguments).await?;
    ensure!(code == 0, "meshwright {arguments:?}: {said}");
    Ok(said)
}

/// The same, when it fails, with a part of what it has to say.
async fn refuses(cluster: &Cluster, arguments: &[&str], expected: &str) -> Result<String> {
    let (code, said) = meshwright(cluster, arguments).await?;
    ensure!(
        code == 1 && said.contains(expected),
        "meshwright {arguments:?}: {code}, {said}"
    );
    Ok(said)
}

/// The kubeconfig of somebody without rights.
fn nobody(cluster: &Cluster) -> Result<PathBuf> {
    let own = std::fs::read_to_string(cluster.kubeconfig())?;
    let path = cluster.state().join("nobody");
    std::fs::write(
        &path,
        own.replace("user: {client-", "user: {as: nobody, client-"),
    )?;
    Ok(path)
}

/// How many containers and init containers a pod of that name has, once it runs.
async fn containers(cluster: &Cluster, namespace: &str, name: &str) -> Result<usize> {
    let image = cluster.web_image().await?;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  containers: [{{ name: web, image: {image}, \
             imagePullPolicy: Never, args: [serve, \":8080\"] }}]\n"
        ))
        .await?;
    cluster.ready(namespace, name, PODS).await?;
    let pod = cluster.json(&["get", "pod", name, "-n", namespace]).await?;
    let count = |list: &str| pod["spec"][list].as_array().map_or(0, Vec::len);
    Ok(count("containers") + count("initContainers"))
}

/// The names of the objects that kubectl finds.
async fn names(cluster: &Cluster, arguments: &[&str]) -> Result<Vec<String>> {
    let get = ["get", "-o", "name", "--ignore-not-found"];
    let said = cluster.kubectl(&[&get[..], arguments].concat()).await?;
    Ok(said.lines().map(str::to_owned).collect())
}

const WEBHOOKS: &str = "mutatingwebhookconfigurations,validatingwebhookconfigurations";

#[tokio::test]
async fn a_mesh_is_installed_tested_upgraded_and_uninstalled_and_what_remains_is_named()
-> Result<()> {
    let cluster = &Cluster::alone().await?;
    for part in ["operator", "sidecar"] {
        import_built(cluster, part).await?;
    }

    // Before.
    let mut forbidden = cluster.command(binary("meshwright")?);
    forbidden.arg("install").env("KUBECONFIG", nobody(cluster)?);
    let (code, said) = told(&mut forbidden).await?;
    let expected =
        "you may not create namespaces, create customresourcedefinitions.apiextensions.k8s.io, ";
    ensure!(code == 1 && said.contains(expected), "{code}, {said}");
    refuses(
        cluster,
        &["upgrade"],
        "no Meshwright is installed here: meshwright install",
    )
    .await?;
    let said = succeeds(cluster, &["install", "--dry-run"]).await?;
    ensure!(
        said.contains("can be installed into meshwright-system"),
        "{said}"
    );
    ensure!(names(cluster, &["namespace", SYSTEM]).await?.is_empty());
    let check = ["check", "--cluster"];
    let said = succeeds(cluster, &check).await?;
    let expected = "no Meshwright is installed here: `meshwright install` does that, and you may create all that it makes \
                    (docs/install.md#";
    ensure!(said.contains(expected), "{said}");
    let mut checking = cluster.command(binary("meshwright")?);
    checking.args(check).env("KUBECONFIG", nobody(cluster)?);
    let (code, said) = told(&mut checking).await?;
    let expected = [
        "the operator can't be looked for: ",
        "there are no definitions of the mesh's kinds: ",
    ];
    ensure!(
        code == 0 && expected.iter().all(|part| said.contains(part)),
        "{code}, {said}"
    );

    // In.
    let said = succeeds(cluster, &["install"]).await?;
    ensure!(said.contains("it is ready. Label a namespace"), "{said}");
    let namespace = meshed_namespace(cluster, "shop").await?;
    ensure!(
        containers(cluster, &namespace, "first").await? == 3,
        "a pod without a sidecar"
    );
    let tested = cluster.helm(&["test", "meshwright", "-n", SYSTEM]).await?;
    ensure!(tested.contains("Phase:          Succeeded"), "{tested}");
    ensure!(
        names(cluster, &["pod", "meshwright-test", "-n", SYSTEM])
            .await?
            .is_empty()
    );

    // Nothing at all is to be said of it.
    let said = succeeds(cluster, &check).await?;
    let looked_at = "0 objects of the mesh looked at, 1 of 1 sidecars asked";
    ensure!(
        said.contains(looked_at) && !said.contains("(docs/"),
        "{said}"
    );

    // Twice.
    let expected =
        "is installed already, as release meshwright in namespace meshwright-system (deployed)";
    refuses(cluster, &["install", "-n", "other"], expected).await?;
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path")?;
    let other = [
        "install",
        "other",
        chart,
        "-n",
        "other",
        "--create-namespace",
    ];
    let said = cluster.helm(&other).await.err().context("a second mesh")?;
    let expected = "Meshwright is installed in this cluster already, as release meshwright in namespace \
                    meshwright-system, and there is one mesh in a cluster";
    ensure!(format!("{said:#}").contains(expected), "{said:#}");

    // Broken, and repaired by what the check says to type.
    let injector = "mutatingwebhookconfiguration/meshwright-injector";
    cluster.kubectl(&["delete", injector]).await?;
    let expected = "there is no MutatingWebhookConfiguration meshwright-injector, so that pods are created without a \
                    sidecar: `meshwright upgrade` puts it back (docs/webhooks.md#";
    refuses(cluster, &check, expected).await?;
    succeeds(cluster, &["upgrade"]).await?;
    succeeds(cluster, &check).await?;

    // On.
    let said = succeeds(cluster, &["upgrade", "--ha", "--set", "logLevel=debug"]).await?;
    ensure!(
        said.contains("1 pods keep the sidecars that they have"),
        "{said}"
    );
    let operator = ["get", "deployment", "meshwright-operator", "-n", SYSTEM];
    let deployment = cluster.json(&operator).await?;
    ensure!(
        deployment["status"]["readyReplicas"] == 3,
        "{}",
        deployment["status"]
    );
    ensure!(names(cluster, &["pdb", "-n", SYSTEM]).await?.len() == 1);
    // What was set stays set.
    succeeds(cluster, &["upgrade", "--set", "operator.replicas=1"]).await?;
    let deployment = cluster.json(&operator).await?;
    ensure!(deployment["spec"]["replicas"] == 1, "{deployment}");
    let log = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    ensure!(log.to_string().contains("\"debug\""), "{log}");
    let manifest = succeeds(cluster, &["upgrade", "--render", "--set", "logLevel=warn"]).await?;
    ensure!(manifest.contains("value: \"warn\""), "{manifest}");
    ensure!(
        cluster.json(&operator).await?["spec"] == deployment["spec"],
        "it was applied"
    );

    // Out.
    let said = refuses(cluster, &["uninstall"], "1 pods have a sidecar").await?;
    ensure!(said.contains(&format!("{namespace}/first")), "{said}");
    let would = succeeds(cluster, &["uninstall", "--dry-run"]).await?;
    ensure!(!names(cluster, &[WEBHOOKS]).await?.is_empty());
    let said = succeeds(cluster, &["uninstall", "--yes"]).await?;
    ensure!(said.contains("no webhook is left. This remains:"), "{said}");
    let lease = "kubectl delete lease meshwright-operator -n meshwright-system";
    ensure!(said.contains(lease), "{said}");
    let remains = |said: &str| {
        said.split_once("remain")
            .map(|(_, what)| what[what.find('\n').unwrap_or(0)..].to_owned())
    };
    ensure!(remains(&would) == remains(&said), "{would}\n{said}");
    ensure!(names(cluster, &[WEBHOOKS]).await?.is_empty());
    let rights = [
        "clusterrole,clusterrolebinding",
        "-l",
        "app.kubernetes.io/name=meshwright",
    ];
    ensure!(names(cluster, &rights).await?.is_empty());
    wait_until("the operator has ended", PODS, async || {
        let left = names(cluster, &["all", "-n", SYSTEM]).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    ensure!(
        containers(cluster, &namespace, "second").await? == 1,
        "a pod with a sidecar"
    );
    let expected = "1 pods have a sidecar and there is no operator: ";
    refuses(cluster, &check, expected).await?;

    // A new one goes on where the old one ended, and no other takes its definitions.
    let elsewhere = ["install", "--dry-run", "-n", "other"];
    refuses(
        cluster,
        &elsewhere,
        "were left by release meshwright in namespace meshwright-system",
    )
    .await?;
    let authority = ["get", "secret", "meshwright-ca", "-n", SYSTEM];
    let before = cluster.json(&authority).await?;
    succeeds(cluster, &["install"]).await?;
    ensure!(
        cluster.json(&authority).await?["data"] == before["data"],
        "other roots"
    );
    ensure!(
        containers(cluster, &namespace, "third").await? == 3,
        "a pod without a sidecar"
    );
    let said = succeeds(cluster, &["uninstall", "--yes"]).await?;

    // The commands that it names remove all the rest.
    cluster
        .kubectl(&["delete", "pod", "--all", "-n", &namespace])
        .await?;
    let mut removed = 0;
    for line in said
        .lines()
        .filter_map(|line| line.strip_prefix("  kubectl "))
    {
        // There is no workload here that could be restarted.
        if !line.starts_with("rollout restart") {
            cluster
                .kubectl(&line.split(' ').collect::<Vec<_>>())
                .await?;
            removed += 1;
        }
    }
    ensure!(removed == 5, "{said}");
    let own = names(cluster, &["crd"]).await?;
    ensure!(
        !own.iter().any(|name| name.contains("meshwright")),
        "{own:?}"
    );
    ensure!(names(cluster, &["namespace", SYSTEM]).await?.is_empty());
    ensure!(
        names(cluster, &["namespace", "-l", "meshwright.dev/inject"])
            .await?
            .is_empty()
    );
    refuses(cluster, &["uninstall"], "no Meshwright is installed here").await?;
    Ok(())
}

#[tokio::test]
async fn the_command_renders_what_helm_renders_and_needs_no_cluster() -> Result<()> {
    let path = programs().await?;
    let chart = root().join("charts/meshwright");
    let mut helm = Command::new(path.join("helm"));
    helm.args(["template", "meshwright"]).arg(&chart);
    helm.args([
        "--kube-version",
        "1.35.0",
        "--namespace",
        "mesh",
        "--set",
        "operator.replicas=5",
    ]);
    helm.arg("--values").arg(chart.join("values-ha.yaml"));
    let expected = run(&mut helm, "").await?;

    let mut own = Command::new(binary("meshwright")?);
    own.args([
        "install",
        "--render",
        "--ha",
        "-n",
        "mesh",
        "--set",
        "operator.replicas=5",
    ]);
    own.env("PATH", path).env("KUBECONFIG", "/nowhere");
    let rendered = run(&mut own, "").await?;
    ensure!(rendered.trim() == expected.trim(), "{rendered}");
    Ok(())
}

#[tokio::test]
async fn without_a_helm_that_is_new_enough_it_is_said_where_one_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut own = Command::new(binary("meshwright")?);
    own.args(["install", "--render"]).env("PATH", folder.path());
    let (code, said) = told(&mut own).await?;
    let expected =
        "helm, which installs the chart, is not in PATH: get 3.14 or later from https://helm.sh/";
    ensure!(code == 1 && said.contains(expected), "{said}");

    let old = folder.path().join("helm");
    std::fs::write(&old, "#!/bin/sh\necho v3.9.4\n")?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&old, executable)?;
    // Whoever has just written a program may find it busy for as long as another test forks.
    let said = wait_until("it runs", PODS, async || Ok(told(&mut own).await?.1)).await?;
    ensure!(
        said.contains("helm 3.9 is too old: the chart needs 3.14 or later"),
        "{said}"
    );
    Ok(())
}

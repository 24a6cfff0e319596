//! The applications of the cluster tests: ordinary Deployments and Services.

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{Cluster, run, wait_until};
use tests::mesh::binary;
use tokio::process::Command;
use tokio::sync::RwLockWriteGuard;

use crate::installation::{
    OperatorStays, PODS, meshed_namespace, nobody_needs_the_operator, operator_stays,
};

/// A namespace with `web`, which calls, and Services that are called.
pub(crate) struct Shop {
    pub(crate) cluster: &'static Cluster,
    pub(crate) namespace: String,
    /// Whether the namespace goes with it.
    opened: bool,
    /// What keeps other tests from taking the operator away: none where the test does so itself.
    operator: Option<OperatorStays>,
    /// What keeps other tests from needing the operator.
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

/// A pod without a sidecar, in a namespace of its own, with the Service `stranger`, port 80. It also
/// answers at port 9090, which no Service has.
pub(crate) struct Stranger {
    cluster: &'static Cluster,
    pub(crate) namespace: String,
}

/// A Deployment, a ServiceAccount and a Service of one name, port 80.
pub(crate) fn application(name: &str, namespace: &str, image: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: {name}, namespace: {namespace} }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      serviceAccountName: {name}
      terminationGracePeriodSeconds: 5
      containers:
        - name: {name}
          image: {image}
          imagePullPolicy: Never
          args: [serve, ":8080"]
          ports: [{{ name: http, containerPort: 8080 }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ name: http, port: 80, targetPort: http }}]
---
"#
    )
}

impl Shop {
    /// Opens one in a meshed namespace of its own: `web` and the named Services, all ready. No
    /// other test takes the operator away while it lives; a second one is opened by
    /// [`Shop::another`].
    pub(crate) async fn open(cluster: &'static Cluster, services: &[(&str, u32)]) -> Result<Self> {
        let operator = Some(operator_stays().await);
        Self::open_with(cluster, services, operator).await
    }

    /// Opens one more, in another namespace.
    pub(crate) async fn another(&self, services: &[(&str, u32)]) -> Result<Self> {
        Self::open_with(self.cluster, services, self.operator.clone()).await
    }

    /// One that the test opens by itself, in the namespace of that name.
    pub(crate) async fn elsewhere(cluster: &'static Cluster, namespace: &str) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
            opened: false,
            operator: Some(operator_stays().await),
            _alone: None,
        }
    }

    /// One that the test opens by itself, in a cluster and with an operator that no other test has.
    pub(crate) fn apart(cluster: &'static Cluster, namespace: &str) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
            opened: false,
            operator: None,
            _alone: None,
        }
    }

    /// Opens one for a test that takes the operator away: no other test needs it while this lives, nor
    /// has pods of its own.
    pub(crate) async fn alone(cluster: &'static Cluster, services: &[(&str, u32)]) -> Result<Self> {
        let alone = nobody_needs_the_operator().await;
        let mut shop = Self::open_with(cluster, services, None).await?;
        shop._alone = Some(alone);
        Ok(shop)
    }

    async fn open_with(
        cluster: &'static Cluster,
        services: &[(&str, u32)],
        operator: Option<OperatorStays>,
    ) -> Result<Self> {
        let shop = Self {
            cluster,
            namespace: meshed_namespace(cluster, "shop").await?,
            opened: true,
            operator,
            _alone: None,
        };
        let namespace = &shop.namespace;
        let image = cluster.web_image().await?;
        let all = [("web", 1)].into_iter().chain(services.iter().copied());
        let yaml: String = all
            .clone()
            .map(|(name, replicas)| application(name, namespace, image, replicas))
            .collect();
        cluster.apply(&yaml).await?;
        for (name, _) in all {
            let deployment = format!("deployment/{name}");
            cluster.ready(namespace, &deployment, PODS).await?;
        }
        Ok(shop)
    }

    /// Status and body of one GET from `web`.
    pub(crate) async fn get(&self, url: &str) -> Result<(u16, String)> {
        self.asks("get", url).await
    }

    /// Status and body of one POST from `web`, without a body of its own.
    pub(crate) async fn post(&self, url: &str) -> Result<(u16, String)> {
        self.asks("post", url).await
    }

    async fn asks(&self, verb: &str, url: &str) -> Result<(u16, String)> {
        let answer = self
            .cluster
            .exec(
                &self.namespace,
                "deployment/web",
                "web",
                &["/web", verb, url],
            )
            .await?;
        read(&answer)
    }

    /// A `meshwright` command that asks about this namespace.
    pub(crate) fn meshwright(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.cluster.command(binary("meshwright")?);
        command.args(arguments).args(["-n", &self.namespace]);
        Ok(command)
    }

    /// Status and body of one GET from the node, outside of every pod: `http://127.0.0.1` is where
    /// `kubectl port-forward` listens.
    pub(crate) async fn get_from_node(&self, url: &str) -> Result<(u16, String)> {
        // Where the image's program was built.
        let web = self.cluster.state().join("web");
        read(&run(self.cluster.command(web).args(["get", url]), "").await?)
    }

    /// An ApiRoute for the Service `orders` that sends everything to `backend`.
    pub(crate) fn route(&self, backend: &str) -> String {
        format!(
            r#"
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: orders, namespace: {} }}
spec:
  hosts: [orders]
  rules:
    - name: all
      backendRefs: [{{ name: {backend}, port: 80 }}]
"#,
            self.namespace
        )
    }

    /// The pod that answers `url`, by its own word.
    pub(crate) async fn answered_by(&self, url: &str) -> Result<String> {
        let (status, body) = self.get(url).await?;
        ensure!(status == 200, "{url}: {status} {body}");
        Ok(body.split(' ').next().unwrap_or_default().to_owned())
    }

    /// The pod that answers `url` first. Pods that are ready are known to those who call a moment later, as
    /// long as Kubernetes and the operator take to tell them.
    pub(crate) async fn first_answered_by(&self, url: &str) -> Result<String> {
        let what = format!("{url} is answered");
        wait_until(&what, PODS, async || self.answered_by(url).await).await
    }

    /// Waits until an ApiRoute is programmed in all sidecars, and returns the count as `n/m`.
    pub(crate) async fn programmed(&self, name: &str) -> Result<String> {
        self.enforced("apiroute", name).await
    }

    /// The same of an object of any kind.
    pub(crate) async fn enforced(&self, kind: &str, name: &str) -> Result<String> {
        wait_until(&format!("{kind} {name} is programmed"), PODS, async || {
            let object = self.of_kind(kind, name).await?;
            let count = object["status"]["programmed"].as_str().unwrap_or_default();
            let (n, m) = count.split_once('/').unwrap_or_default();
            ensure!(n == m && !n.is_empty() && n != "0", "{}", object["status"]);
            let current = condition(&object, "Programmed");
            ensure!(
                current["observedGeneration"] == object["metadata"]["generation"],
                "{current}"
            );
            Ok(count.to_owned())
        })
        .await
    }

    /// An ApiRoute as the API server has it.
    pub(crate) async fn object(&self, name: &str) -> Result<serde_json::Value> {
        self.of_kind("apiroute", name).await
    }

    /// An object of any kind as the API server has it.
    pub(crate) async fn of_kind(&self, kind: &str, name: &str) -> Result<serde_json::Value> {
        self.cluster
            .json(&["get", kind, name, "-n", &self.namespace])
            .await
    }

    /// The name of the only pod of a Deployment.
    pub(crate) async fn pod(&self, app: &str) -> Result<String> {
        let selector = format!("app={app}");
        let pods = self
            .cluster
            .json(&["get", "pods", "-n", &self.namespace, "-l", &selector])
            .await?;
        let name = pods["items"][0]["metadata"]["name"].as_str();
        Ok(name.with_context(|| format!("no pod of {app}"))?.to_owned())
    }

    /// What the sidecar of each pod has logged, but for its access log: the last of it.
    pub(crate) async fn sidecar_logs(&self) -> Result<String> {
        let of = ["logs", "-n", &self.namespace, "-l", "app", "--tail=-1"];
        let how = ["-c", "meshwright-sidecar", "--prefix"];
        let how = [&how[..], &["--max-log-requests=20"]].concat();
        let said = self.cluster.kubectl(&[&of[..], &how].concat()).await?;
        let told = |line: &&str| !line.contains(r#""direction":"#);
        let told: Vec<&str> = said.lines().filter(told).collect();
        Ok(told[told.len().saturating_sub(300)..].join("\n"))
    }

    /// A series of a pod's sidecar, 0 while it has not been counted.
    pub(crate) async fn metric(&self, pod: &str, series: &str) -> Result<u64> {
        let address = address(self.cluster, &self.namespace, pod).await?;
        let url = format!("http://{address}:15020/metrics");
        let (status, metrics) = self.get_from_node(&url).await?;
        ensure!(status == 200, "{url}: {status} {metrics}");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0), str::parse)?)
    }
}

impl Drop for Shop {
    /// Its pods go with it: all those of a whole run would be more than a node takes.
    fn drop(&mut self) {
        if self.opened {
            self.cluster.forget_namespace(&self.namespace);
        }
    }
}

// === impl Stranger ===

impl Drop for Stranger {
    fn drop(&mut self) {
        self.cluster.forget_namespace(&self.namespace);
    }
}

impl Stranger {
    pub(crate) async fn start(cluster: &'static Cluster) -> Result<Self> {
        let namespace = cluster.namespace("outside").await?;
        let image = cluster.web_image().await?;
        cluster
            .apply(&format!(
                r#"
apiVersion: v1
kind: Pod
metadata: {{ name: stranger, namespace: {namespace}, labels: {{ app: stranger }} }}
spec:
  containers: [{{ name: stranger, image: {image}, imagePullPolicy: Never, args: [serve, ":8080", ":9090"] }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: stranger, namespace: {namespace} }}
spec:
  selector: {{ app: stranger }}
  ports: [{{ name: http, port: 80, targetPort: 8080 }}]
"#
            ))
            .await?;
        cluster.ready(&namespace, "stranger", PODS).await?;
        Ok(Self { cluster, namespace })
    }

    /// Status and body of one GET.
    pub(crate) async fn get(&self, url: &str) -> Result<(u16, String)> {
        let get = ["/web", "get", url];
        let pod = "stranger";
        read(&self.cluster.exec(&self.namespace, pod, pod, &get).await?)
    }

    /// The pod's address.
    pub(crate) async fn address(&self) -> Result<String> {
        address(self.cluster, &self.namespace, "stranger").await
    }
}

/// The address of a pod.
pub(crate) async fn address(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String> {
    let pod = cluster.json(&["get", "pod", pod, "-n", namespace]).await?;
    let address = pod["status"]["podIP"].as_str();
    Ok(address.context("a pod without an address")?.to_owned())
}

/// What `web get` prints: a status, and a body.
fn read(answer: &str) -> Result<(u16, String)> {
    let (status, body) = answer.split_once('\n').context("a status line")?;
    Ok((status.trim().parse()?, body.trim().to_owned()))
}

/// A condition of an object's status; null when it is not there.
pub(crate) fn condition(object: &serde_json::Value, kind: &str) -> serde_json::Value {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = conditions
        .into_iter()
        .find(|condition| condition["type"] == kind);
    found.unwrap_or_default()
}

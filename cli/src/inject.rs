//! `meshwright inject`: puts sidecars into the pods of files, as the webhook does when they are created.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_lc_rs::{hmac, rand};
use compiler::yaml;
use k8s_openapi::api::core::v1::Pod;
use operator::inject::{Config, LABEL, SidecarArgs, inject};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::http;
use crate::kubectl::Forward;
use crate::sidecar::Cluster;

/// Puts a sidecar into every pod of files, and writes them to standard output.
///
/// Reads YAML: Pods, Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, and Lists of
/// them. Everything else is written as it is, and so is what is labelled `meshwright.dev/inject:
/// disabled` or has a sidecar. Words without quotes are read as kubectl does: 0400 is 256, and yes is true. It is the very function that the webhook calls for a new pod; where the
/// webhook refuses one, so does this, and writes nothing.
///
/// What a sidecar must know is asked of the operator (--cluster, --context), through kubectl, or given:
/// with --bundle nobody is asked. A file that was injected holds the trust bundle of its moment: inject
/// it again after the roots of the mesh have changed. Nobody is asked about namespaces: where one lets no
/// container have NET_ADMIN, label the pods `meshwright.dev/capture: cni`.
#[derive(Clone, Debug, clap::Args)]
pub struct InjectArgs {
    /// The files; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What the sidecars trust first: the roots of the mesh, PEM. Nobody is asked then.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster", "context"])]
    pub bundle: Option<PathBuf>,
    /// With --bundle: the trust domain of the mesh.
    #[arg(long, default_value = "cluster.local", requires = "bundle")]
    pub trust_domain: String,
    /// With --bundle: the operator's address as a pod reaches it, host:port.
    #[arg(
        long,
        default_value = "meshwright-operator.meshwright-system.svc.cluster.local:15012",
        requires = "bundle"
    )]
    pub operator: String,
    /// A file with a secret, 16 bytes or more, that the tokens of probes are made of: then the same file
    /// becomes the same text. Without it they are random.
    #[arg(long, value_name = "FILE")]
    pub probe_token_seed: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sidecar: SidecarArgs,
    /// Ask the operator in the cluster of the current kubeconfig.
    #[arg(long)]
    pub cluster: bool,
    /// Ask the operator in the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace that the operator runs in.
    #[arg(short, long, value_name = "NAME", default_value = "meshwright-system")]
    pub namespace: String,
}

/// How long the operator may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of the input, at most.
const MAX_INPUT: u64 = 64 << 20;
/// Bytes of a seed, at least: as many as a token has.
const MIN_SEED: usize = 16;

/// Where pods are in objects of each kind.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("v1", "Pod", ""),
    ("apps/v1", "Deployment", "/spec/template"),
    ("apps/v1", "ReplicaSet", "/spec/template"),
    ("apps/v1", "StatefulSet", "/spec/template"),
    ("apps/v1", "DaemonSet", "/spec/template"),
    ("v1", "ReplicationController", "/spec/template"),
    ("batch/v1", "Job", "/spec/template"),
    ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
];

/// What became of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    Injected,
    AsItWas,
}

/// What the tokens are made of by which the kubelet is known to the sidecars of pods.
enum Tokens {
    /// Of nothing that anybody knows.
    Random,
    /// Of a secret, the template and the roots: whoever has only the last two can't make one.
    Seeded(Vec<u8>),
}

/// Injects; returns the exit code.
pub fn run(args: &InjectArgs) -> anyhow::Result<i32> {
    let tokens = Tokens::of(args.probe_token_seed.as_deref())?;
    let config = config(args)?;
    let mut documents = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        documents.extend(yaml::kept(&name, &read(file)?)?);
    }
    let mut told = Vec::new();
    for document in &mut documents {
        object(&mut document.value, &config, &tokens, &mut told)?;
    }
    // First all is decided: half of it would be applied as if it were all.
    std::io::stdout().write_all(yaml::rewritten(&documents).as_bytes())?;
    for (name, became) in told {
        let words = match became {
            Became::Injected => "gets a sidecar",
            Became::AsItWas => "is left as it is",
        };
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{name} {words}");
    }
    Ok(0)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let reading = || format!("reading {}", file.display());
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().take(MAX_INPUT).read_to_string(&mut text),
        _ => {
            let file = std::fs::File::open(file).with_context(reading)?;
            file.take(MAX_INPUT).read_to_string(&mut text)
        }
    };
    if read.with_context(reading)? as u64 == MAX_INPUT {
        bail!("{} is larger than 64 MiB: split it", file.display());
    }
    Ok(text)
}

/// What the sidecars are told: from the operator, or as it is given.
fn config(args: &InjectArgs) -> anyhow::Result<Config> {
    if let Some(bundle) = &args.bundle {
        let roots = read(bundle)?;
        sidecar::identity::store::parse_bundle(roots.as_bytes())
            .with_context(|| format!("{} is no trust bundle", bundle.display()))?;
        return Ok(Config {
            sidecar: args.sidecar.clone(),
            operator: args.operator.clone(),
            trust_domain: args.trust_domain.clone(),
            roots,
            roots_ended: None,
            namespace: BTreeMap::new(),
            probe_token: String::new(),
        });
    }
    if !args.cluster && args.context.is_none() {
        bail!(
            "a sidecar must know whom to trust: ask the operator for it (--cluster, or --context NAME), or \
             give the roots of the mesh (--bundle FILE)"
        );
    }
    let cluster = Cluster {
        cluster: true,
        context: args.context.clone(),
        namespace: Some(args.namespace.clone()),
    };
    let service = "service/meshwright-operator";
    let mut forward = Forward::start(&cluster, None, service, &[":15014".to_owned()])?;
    let address = forward.forwarded()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = async { timeout(ANSWER, http::get(address, "/injection")).await? };
    match runtime.block_on(asked).context("asking the operator")? {
        (200, answer) => serde_json::from_slice(&answer).context("reading the operator's answer"),
        (status, _) => bail!("the operator answered {status}: is it as new as this command?"),
    }
}

/// Injects what pods there are in an object.
fn object(
    object: &mut Value,
    config: &Config,
    tokens: &Tokens,
    told: &mut Vec<(String, Became)>,
) -> anyhow::Result<()> {
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    if version == "v1" && kind == "List" {
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        return items
            .into_iter()
            .flatten()
            .try_for_each(|item| self::object(item, config, tokens, told));
    }
    let mut known = TEMPLATES.iter();
    let Some((_, _, place)) = known.find(|one| (one.0, one.1) == (&*version, &*kind)) else {
        return Ok(());
    };
    let metadata = &object["metadata"];
    let named = [&metadata["name"], &metadata["generateName"]];
    let name = named.into_iter().map(text).find(|name| !name.is_empty());
    let name = format!("{kind} {}", name.unwrap_or_default());
    let Some(pod) = object.pointer_mut(place) else {
        bail!(
            "{name} has no {}",
            place.trim_start_matches('/').replace('/', ".")
        );
    };
    let became = template(pod, config, tokens).with_context(|| name.clone())?;
    told.push((name, became));
    Ok(())
}

/// Injects one pod, or what pods are made after.
fn template(pod: &mut Value, config: &Config, tokens: &Tokens) -> anyhow::Result<Became> {
    let Some(fields) = pod.as_object_mut() else {
        bail!("its pod is no object");
    };
    // What the patch finds its places in.
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let typed: Pod = serde_json::from_value(pod.clone()).context("can't be read as a pod")?;
    let config = Config {
        probe_token: tokens.token(pod, config)?,
        ..config.clone()
    };
    let patch = inject(&typed, &config).map_err(|refusal| {
        anyhow::anyhow!("can't have a sidecar: {refusal}; to leave it out of the mesh, label its pods {LABEL}: disabled")
    })?;
    if patch.0.is_empty() {
        return Ok(Became::AsItWas);
    }
    json_patch::patch(pod, &patch).context("putting the sidecar in")?;
    Ok(Became::Injected)
}

// === impl Tokens ===

impl Tokens {
    fn of(seed: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = seed else {
            return Ok(Self::Random);
        };
        let mut secret = Vec::new();
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(MAX_INPUT).read_to_end(&mut secret))
            .with_context(|| format!("reading {}", path.display()))?;
        if secret.len() < MIN_SEED {
            bail!(
                "{} holds less than {MIN_SEED} bytes, which can be guessed: write a longer secret into it, such as the \
                 output of `openssl rand -hex 32`",
                path.display()
            );
        }
        Ok(Self::Seeded(secret))
    }

    /// One for a template, and so for all pods that are made after it: 32 letters and digits.
    fn token(&self, pod: &Value, config: &Config) -> anyhow::Result<String> {
        let mut bytes = [0; MIN_SEED];
        match self {
            Self::Random => rand::fill(&mut bytes).context("there is no randomness")?,
            Self::Seeded(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                let tag = hmac::sign(&key, format!("{pod}\n{}", config.roots).as_bytes());
                let half = bytes.iter_mut().zip(tag.as_ref());
                half.for_each(|(byte, of_tag)| *byte = *of_tag);
            }
        }
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: InjectArgs,
    }

    fn args(arguments: &[&str]) -> InjectArgs {
        use clap::Parser as _;
        let command = ["inject"].into_iter().chain(arguments.iter().copied());
        Command::parse_from(command).args
    }

    fn told() -> Config {
        Config {
            sidecar: args(&["-"]).sidecar,
            operator: "operator:15012".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            roots: "roots".to_owned(),
            roots_ended: None,
            namespace: BTreeMap::new(),
            probe_token: String::new(),
        }
    }

    type Injected = (Vec<Value>, Vec<(String, Became)>);

    fn seeded() -> Tokens {
        Tokens::Seeded(b"a secret of the test's".to_vec())
    }

    fn rewritten(text: &str, tokens: &Tokens) -> anyhow::Result<(String, Vec<(String, Became)>)> {
        let mut documents = yaml::kept("-", text)?;
        let mut told_of = Vec::new();
        for document in &mut documents {
            object(&mut document.value, &told(), tokens, &mut told_of)?;
        }
        Ok((yaml::rewritten(&documents), told_of))
    }

    fn injected(text: &str) -> anyhow::Result<Injected> {
        let (text, told_of) = rewritten(text, &seeded())?;
        // As it is written and read again.
        Ok((yaml::values("-", &text)?, told_of))
    }

    fn workload(version: &str, kind: &str, place: &str) -> String {
        let mut pod = json!({ "spec": { "containers": [{ "name": "app", "image": "app:1" }] } });
        for field in place
            .split('/')
            .skip(1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            pod = json!({ field: pod });
        }
        pod["apiVersion"] = json!(version);
        pod["kind"] = json!(kind);
        pod["metadata"] = json!({ "name": "app" });
        yaml::written(&[pod])
    }

    #[test]
    fn every_kind_that_makes_pods_gets_what_the_webhook_would_put_into_them() {
        for (version, kind, place) in TEMPLATES {
            let text = workload(version, kind, place);
            let (documents, told_of) = injected(&text).unwrap();
            assert_eq!(told_of, [(format!("{kind} app"), Became::Injected)]);
            let pod = documents[0].pointer(place).unwrap();
            let before = yaml::values("-", &text).unwrap();
            let before = before[0].pointer(place).unwrap();
            let mut before = before.clone();
            before
                .as_object_mut()
                .unwrap()
                .entry("metadata")
                .or_insert(json!({}));
            let config = Config {
                probe_token: seeded().token(&before, &told()).unwrap(),
                ..told()
            };
            let typed: Pod = serde_json::from_value(before.clone()).unwrap();
            json_patch::patch(&mut before, &inject(&typed, &config).unwrap()).unwrap();
            assert_eq!(*pod, before, "{kind}");
            assert_eq!(
                pod["spec"]["initContainers"][1]["name"],
                "meshwright-sidecar"
            );

            let again = injected(&yaml::written(&documents)).unwrap();
            assert_eq!(again.0, documents, "twice is once");
            assert_eq!(again.1[0].1, Became::AsItWas);
        }
    }

    #[test]
    fn lists_are_injected_item_by_item_and_other_kinds_stay_as_they_are() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {generateName: job-}\n  spec: {containers: [{name: a, image: a}]}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {on: \"yes\"}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: out, labels: {meshwright.dev/inject: disabled}}\nspec: {hostNetwork: true, containers: []}\n";
        let (documents, told_of) = injected(list).unwrap();
        let before = yaml::values("-", list).unwrap();
        assert_eq!(documents[1..], before[1..]);
        let names: Vec<_> = told_of
            .iter()
            .map(|(name, became)| (&**name, *became))
            .collect();
        assert_eq!(
            names,
            [("Pod job-", Became::Injected), ("Pod out", Became::AsItWas)]
        );
        assert_ne!(documents[0]["items"][0], before[0]["items"][0]);
    }

    const PROBED: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: a, image: a, livenessProbe: {tcpSocket: {port: 80}}}]\n  volumes: [{name: keys, secret: {secretName: keys, defaultMode: 0400}}]\n";

    #[test]
    fn nobody_can_compute_a_token_who_knows_the_template_and_the_roots() {
        let token = |tokens: &Tokens| {
            let (text, _) = rewritten(PROBED, tokens).unwrap();
            let pod = &yaml::values("-", &text).unwrap()[0];
            let get = &pod["spec"]["containers"][0]["livenessProbe"]["httpGet"];
            get["httpHeaders"][0]["value"].as_str().unwrap().to_owned()
        };
        assert_ne!(token(&Tokens::Random), token(&Tokens::Random));
        assert_eq!(
            token(&seeded()),
            token(&seeded()),
            "a seed makes it the same"
        );
        let another = Tokens::Seeded(b"another secret".to_vec());
        assert_ne!(token(&seeded()), token(&another));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seed");
        std::fs::write(&file, "short").unwrap();
        let refused = Tokens::of(Some(&file)).err().unwrap().to_string();
        assert!(refused.contains("can be guessed"), "{refused}");
        std::fs::write(&file, "a secret of 16 b").unwrap();
        assert!(matches!(Tokens::of(Some(&file)), Ok(Tokens::Seeded(_))));
        assert!(matches!(Tokens::of(None), Ok(Tokens::Random)));
    }

    #[test]
    fn words_without_quotes_are_read_as_kubectl_does_and_other_documents_do_not_change() {
        let other = "---\n# kept\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  on: yes # kept\n  mode: 0400\n";
        let (text, _) = rewritten(&format!("{PROBED}{other}"), &seeded()).unwrap();
        assert!(text.ends_with(other), "{text}");
        let pod = &yaml::values("-", &text).unwrap()[0];
        let mode = &pod["spec"]["volumes"][0]["secret"]["defaultMode"];
        assert_eq!(*mode, json!(256));
        assert!(text.contains("defaultMode: 256"), "{text}");
    }

    #[test]
    fn what_the_webhook_refuses_is_refused_with_its_name_and_what_to_do() {
        let text = workload("apps/v1", "DaemonSet", "/spec/template");
        let text = text.replace("containers:", "hostNetwork: true\n      containers:");
        let refused = format!("{:#}", injected(&text).unwrap_err());
        assert!(
            refused.starts_with("DaemonSet app: can't have a sidecar: it uses the host's network"),
            "{refused}"
        );
        assert!(
            refused.ends_with("label its pods meshwright.dev/inject: disabled"),
            "{refused}"
        );
        let empty = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec: {}\n";
        let refused = injected(empty).unwrap_err().to_string();
        assert_eq!(refused, "Deployment app has no spec.template");
    }

    #[test]
    fn without_anybody_to_trust_nothing_is_injected() {
        let refused = config(&args(&["-"])).unwrap_err().to_string();
        assert!(
            refused.contains("--cluster") && refused.contains("--bundle"),
            "{refused}"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        std::fs::write(&file, "nothing").unwrap();
        let refused = config(&args(&["-", "--bundle", file.to_str().unwrap()])).unwrap_err();
        assert!(
            format!("{refused:#}").contains("is no trust bundle"),
            "{refused:#}"
        );
    }
}

//! A page of the documents: the files that it shows, what it says to type, and a shell in which that is
//! typed as it is written.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::cluster::Cluster;
use tests::mesh::binary;

use crate::installation::root;

/// What a line begins with that is for a shell, where it stands within a sentence.
const PROGRAMS: &[&str] = &["kubectl ", "helm ", "meshwright "];

/// One line for a shell.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What it stands below.
    pub(crate) heading: String,
    /// Which of the blocks below that heading, from 0; none of what a sentence names.
    pub(crate) block: Option<usize>,
    /// With all that goes on in further lines.
    pub(crate) command: String,
    /// What the page shows as its answer; of a block of `console` only.
    pub(crate) answer: Vec<String>,
}

/// A page, and which of its lines were typed.
pub(crate) struct Page {
    name: String,
    text: String,
    lines: Vec<Line>,
    typed: BTreeSet<String>,
}

/// Where lines are typed: a folder in a checkout's shape, with `meshwright`, kubectl and helm in `PATH`.
pub(crate) struct Shell {
    cluster: &'static Cluster,
    folder: TempDir,
    /// What stands for what a page can't know, such as `NAMESPACE`.
    instead: Vec<(String, String)>,
}

/// What was typed, and what it answered: both of its outputs in one.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

/// How many seconds a line may take.
const LIMIT: &str = "150";
/// The exit code of `timeout` for what it has ended.
const ENDED: i32 = 124;
/// The container that says why a pod of the mesh is not ready.
const SIDECAR: &str = "meshwright-sidecar";
/// How many of its last lines are told.
const LAST: usize = 12;

/// The page's blocks of YAML, each with the name of its file, which its first line says.
pub(crate) fn files(page: &str) -> Vec<(&str, &str)> {
    let blocks = page.split("```yaml").skip(1);
    let blocks = blocks.filter_map(|block| {
        let (_, text) = block.split_once('\n')?;
        let (text, _) = text.split_once("```")?;
        let name = text.lines().next()?.strip_prefix("# ")?;
        // What follows a colon says what the file is for.
        let name = name.split(':').next()?;
        name.ends_with(".yaml").then_some((name, text))
    });
    blocks.collect()
}

/// All lines of a page for a shell, in order: those of its blocks, and those that its sentences name.
pub(crate) fn lines(page: &str) -> Vec<Line> {
    let (mut all, mut heading, mut blocks) = (Vec::<Line>::new(), String::new(), 0);
    let (mut marked, mut goes_on) = (None, false);
    let mut sentences = String::new();
    for line in page.lines().chain(["# the end"]) {
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            all.extend(named(&std::mem::take(&mut sentences), &heading));
            let opens = marked.is_none();
            marked = opens.then(|| mark.trim().to_owned());
            if opens && (mark == "sh" || mark == "console") {
                blocks += 1;
            }
            goes_on = false;
            continue;
        }
        let begun = match marked.as_deref() {
            None => {
                if line.starts_with('#') {
                    all.extend(named(&std::mem::take(&mut sentences), &heading));
                    (heading, blocks) = (line.trim_start_matches(['#', ' ']).to_owned(), 0);
                } else {
                    sentences.push_str(line);
                    sentences.push('\n');
                }
                continue;
            }
            _ if goes_on => None,
            Some("sh") if line.is_empty() => continue,
            Some("sh") => Some(line.trim_start()),
            Some("console") => line.strip_prefix("$ "),
            Some(_) => continue,
        };
        match (begun, all.last_mut()) {
            (Some(command), _) => all.push(Line {
                heading: heading.clone(),
                block: Some(blocks - 1),
                command: command.to_owned(),
                answer: Vec::new(),
            }),
            (None, Some(last)) if goes_on => last.command = format!("{}\n{line}", last.command),
            (None, Some(last)) => last.answer.push(line.to_owned()),
            (None, None) => {}
        }
        // A loop goes on until it is done, every other line where it ends so.
        let command = all.last().map_or("", |last| &last.command);
        goes_on = (begun.is_some() || goes_on)
            && match command.starts_with("for ") {
                true => !command.contains("done"),
                false => command.ends_with('\\'),
            };
    }
    all
}

/// The commands that sentences name in backquotes.
fn named(sentences: &str, heading: &str) -> Vec<Line> {
    // A span goes over line ends, and not from one paragraph or line of a table into another.
    let parts = sentences.split("\n\n").flat_map(|paragraph| {
        let paragraph = paragraph.trim_start();
        match paragraph.starts_with('|') {
            true => paragraph.lines().collect(),
            false => vec![paragraph],
        }
    });
    let mut all = Vec::new();
    for part in parts {
        let spans = part.split('`').enumerate();
        let spans = spans.filter(|(at, _)| at % 2 == 1).map(|(_, span)| span);
        for span in spans {
            let command = span.split_whitespace().collect::<Vec<_>>().join(" ");
            let is = PROGRAMS.iter().any(|program| command.starts_with(program));
            if is {
                all.push(Line {
                    heading: heading.to_owned(),
                    block: None,
                    command,
                    answer: Vec::new(),
                });
            }
        }
    }
    all
}

// === impl Line ===

impl Line {
    /// A verb alone, in a sentence, names a command and is nothing to type.
    pub(crate) fn only_names(&self) -> bool {
        let words: Vec<&str> = self.command.split(' ').collect();
        let verb = matches!(words[..], [_, _] | ["kubectl", "rollout", _]);
        self.block.is_none() && verb
    }
}

// === impl Page ===

impl Page {
    /// Of the checkout, such as `docs/upgrade.md`.
    pub(crate) fn read(name: &str) -> Result<Self> {
        let text = std::fs::read_to_string(root().join(name)).context(name.to_owned())?;
        Ok(Self::of(name, text))
    }

    fn of(name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            lines: lines(&text),
            text,
            typed: BTreeSet::new(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The lines of one block, which must be there.
    pub(crate) fn block(&self, heading: &str, block: usize) -> Result<Vec<Line>> {
        let is = |line: &&Line| line.heading == heading && line.block == Some(block);
        let found: Vec<Line> = self.lines.iter().filter(is).cloned().collect();
        let name = &self.name;
        ensure!(
            !found.is_empty(),
            "{name} has no block {block} below {heading:?}"
        );
        Ok(found)
    }

    /// Types the lines of a block one after another, none of which may fail, and returns what they said.
    pub(crate) async fn types(
        &mut self,
        shell: &Shell,
        heading: &str,
        block: usize,
    ) -> Result<Vec<String>> {
        let mut said = Vec::new();
        for Line { command, .. } in self.block(heading, block)? {
            said.push(shell.succeeds(&command).await?);
            self.typed.insert(command);
        }
        Ok(said)
    }

    /// Types one line, which must be on the page.
    pub(crate) async fn types_line(&mut self, shell: &Shell, command: &str) -> Result<String> {
        let name = &self.name;
        let is = self.lines.iter().any(|line| line.command == command);
        ensure!(is, "{name} says nothing of {command}");
        let said = shell.succeeds(command).await?;
        self.typed.insert(command.to_owned());
        Ok(said)
    }

    /// Every line was typed, but for those that are not for a reason, all of which are on the page.
    pub(crate) fn is_typed_whole(&self, except: &[(&str, &str)]) -> Result<()> {
        let excepted = |command: &str| except.iter().any(|(other, _)| *other == command);
        let left: Vec<&str> = self
            .lines
            .iter()
            .filter(|line| !line.only_names())
            .map(|line| line.command.as_str())
            .filter(|command| !self.typed.contains(*command) && !excepted(command))
            .collect();
        let name = &self.name;
        ensure!(left.is_empty(), "of {name} nobody has typed {left:#?}");
        let on_page = |command: &str| self.lines.iter().any(|line| line.command == command);
        let stale = except
            .iter()
            .filter(|(command, _)| !on_page(command) || self.typed.contains(*command));
        let stale: Vec<_> = stale.collect();
        ensure!(stale.is_empty(), "no exceptions of {name}: {stale:#?}");
        Ok(())
    }
}

// === impl Shell ===

impl Shell {
    /// One whose folder has the charts, definitions and examples of this checkout.
    pub(crate) fn open(cluster: &'static Cluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for part in ["charts", "crds", "examples"] {
            std::os::unix::fs::symlink(root().join(part), folder.path().join(part))?;
        }
        Ok(Self {
            cluster,
            folder,
            instead: Vec::new(),
        })
    }

    /// Writes these for what a page can't know.
    pub(crate) fn writes(mut self, instead: &[(&str, &str)]) -> Self {
        let own = |(word, by): &(&str, &str)| ((*word).to_owned(), (*by).to_owned());
        self.instead.extend(instead.iter().map(own));
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that `meshwright` is in.
    fn programs() -> Result<PathBuf> {
        let own = binary("meshwright")?;
        Ok(own.parent().context("a folder")?.to_owned())
    }

    /// What a line says, however it ends.
    pub(crate) async fn says(&self, command: &str) -> Result<Said> {
        let mut command = command.to_owned();
        for (word, by) in &self.instead {
            command = command.replace(word, by);
        }
        let own = Self::programs()?;
        let line = format!(
            "export PATH=\"{}:$PATH\"; {{ {command}\n}} 2>&1",
            own.display()
        );
        // What does not end is ended, with all that it has started.
        let mut shell = self.cluster.command("timeout");
        shell.args([LIMIT, "bash", "-o", "pipefail", "-c", &line]);
        shell.current_dir(self.folder()).kill_on_drop(true);
        // Where meshes of this machine are looked for: there is none, so that the cluster is asked.
        shell.env("XDG_RUNTIME_DIR", self.folder());
        let output = shell.stdin(std::process::Stdio::null()).output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = output.status.code();
        if code == Some(ENDED) {
            let waiting = self.waiting().await;
            bail!("{command}: not done within {LIMIT} s\n{text}\n{waiting}");
        }
        Ok(Said { code, text })
    }

    /// What the cluster says of pods that are not ready, for whoever wonders why something took too long.
    async fn waiting(&self) -> String {
        let cluster = self.cluster;
        let Ok(pods) = cluster.json(&["get", "pods", "-A"]).await else {
            return "the pods can't be listed".to_owned();
        };
        let mut said = String::new();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let metadata = &pod["metadata"];
            let conditions = pod["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
            let names = (metadata["namespace"].as_str(), metadata["name"].as_str());
            let (false, (Some(namespace), Some(name))) = (conditions.any(is_ready), names) else {
                continue;
            };
            let logs = cluster.logs(namespace, name, SIDECAR).await;
            let logs = logs.unwrap_or_else(|error| error.to_string());
            let last = Vec::from_iter(logs.lines().rev().take(LAST));
            let last = Vec::from_iter(last.into_iter().rev()).join("\n");
            let ends = &metadata["deletionTimestamp"];
            let _ = writeln!(
                said,
                "{namespace}/{name} is not ready (ends: {ends}):\n{last}"
            );
        }
        let events = ["get", "events", "-A", "--field-selector=type=Warning"];
        let events = cluster.kubectl(&events).await;
        said + &events.unwrap_or_else(|error| error.to_string())
    }

    /// What a line says, which may not fail.
    pub(crate) async fn succeeds(&self, command: &str) -> Result<String> {
        let began = std::time::Instant::now();
        let Said { code, text } = self.says(command).await?;
        ensure!(code == Some(0), "{command}\nends with {code:?}:\n{text}");
        eprintln!("{command}: {:?}", began.elapsed());
        Ok(text)
    }
}

#[test]
fn lines_of_blocks_and_of_sentences_are_found_where_they_stand() {
    let page = "# A\n`kubectl get a -A` and `kubectl get`, `helm\nlist -A`\n\n| `meshwright check DIR` | `x` |\n\
                ```sh\na # why\nb \\\n  c\n```\n## B\n```console\n$ d\nanswer\n$ for i in 1; do\n    e\n  done\n```\n\
                ```text\n$ f\n```\n";
    let found = lines(page).into_iter().map(|line| {
        let Line {
            heading,
            block,
            command,
            answer,
        } = line;
        let block = block.map_or("-".to_owned(), |block| block.to_string());
        format!("{heading} {block} {command:?} {}", answer.join("/"))
    });
    assert_eq!(
        Vec::from_iter(found),
        [
            r#"A - "kubectl get a -A" "#,
            r#"A - "kubectl get" "#,
            r#"A - "helm list -A" "#,
            r#"A - "meshwright check DIR" "#,
            r#"A 0 "a # why" "#,
            r#"A 0 "b \\\n  c" "#,
            r#"B 0 "d" answer"#,
            r#"B 0 "for i in 1; do\n    e\n  done" "#,
        ]
    );
    let named = files("```yaml\n# a.yaml: said\nb\n```\n```yaml\n# not one\n```\n");
    assert_eq!(named, [("a.yaml", "# a.yaml: said\nb\n")]);
}

#[test]
fn a_line_that_nobody_has_typed_is_told_and_so_is_an_exception_that_is_none() {
    let text = "```sh\na\nb\n```\n`helm list` and `helm list -A`\n";
    let mut page = Page::of("a page", text.to_owned());
    page.typed.insert("a".to_owned());
    let told = |page: &Page, except: &[(&str, &str)]| {
        let told = page.is_typed_whole(except).err();
        told.map(|error| error.to_string()).unwrap_or_default()
    };
    let left = told(&page, &[]);
    assert!(
        left.contains("\"b\"") && left.contains("\"helm list -A\""),
        "{left}"
    );
    assert!(
        !left.contains("\"a\"") && !left.contains("\"helm list\""),
        "{left}"
    );
    let except = [("b", "a reason"), ("helm list -A", "another")];
    assert_eq!(told(&page, &except), "");
    for stale in [("a", "it was typed"), ("c", "it is not there")] {
        let told = told(&page, &[except[0], except[1], stale]);
        assert!(told.contains(stale.1), "{told}");
    }
}

//! `docs/first-route.md`, done as it is written: its files applied, its commands typed, and their answers
//! compared with those that it shows.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{Cluster, run, wait_until};
use tests::mesh::binary;
use tests::shown::{Typed, is_as_shown, typed};

use crate::installation::{PODS, import_built, installed, operator_stays, root};

/// The page's blocks of YAML, each with the name of its file, which its first line says.
fn files(page: &str) -> Vec<(&str, &str)> {
    let blocks = page.split("```yaml").skip(1);
    let blocks = blocks.filter_map(|block| {
        let (_, text) = block.split_once('\n')?;
        let (text, _) = text.split_once("```")?;
        let name = text.lines().next()?.strip_prefix("# ")?;
        Some((name, text))
    });
    blocks.collect()
}

/// What a command answers, both of its outputs in one.
async fn answers(cluster: &Cluster, folder: &Path, command: &str) -> Result<String> {
    let own = binary("meshwright")?;
    let own = own.parent().context("a folder")?.display();
    let line = format!("export PATH=\"{own}:$PATH\"; ({command}) 2>&1 || true");
    // What does not end is ended, with all that it has started.
    let mut shell = cluster.command("timeout");
    let shell = shell.args(["30", "bash", "-c", &line]).current_dir(folder);
    match run(shell, "").await {
        Ok(said) => Ok(said),
        Err(error) => {
            let pods = [
                "get",
                "events,replicasets,pods",
                "-n",
                "first",
                "-o",
                "wide",
            ];
            let pods = cluster.kubectl(&pods).await.unwrap_or_default();
            Err(error.context(format!("{command}\n{pods}")))
        }
    }
}

#[tokio::test]
async fn the_first_route_is_as_its_page_says() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    import_built(cluster, "shop").await?;
    let page = std::fs::read_to_string(root().join("docs/first-route.md"))?;
    let folder = tempfile::tempdir()?;
    for (name, text) in files(&page) {
        std::fs::write(folder.path().join(name), text)?;
    }

    let commands = typed(&page);
    assert!(commands.len() > 12, "{commands:?}");
    for Typed { command, answer } in commands {
        // What only looks is looked at until it is so; what does something is done once.
        let looks = ["kubectl get ", "kubectl rollout status ", "meshwright "];
        let looks = looks.iter().any(|word| command.starts_with(word));
        let compare = async || {
            let said = answers(cluster, folder.path(), &command).await?;
            let lines: Vec<&str> = said.trim_end().lines().collect();
            let shown = answer.join("\n");
            ensure!(
                is_as_shown(&answer, &lines),
                "{command}\n{said}\nis not as shown:\n{shown}"
            );
            Ok(())
        };
        match looks {
            true => {
                wait_until(&format!("the page is right about {command}"), PODS, compare).await?
            }
            false => compare().await?,
        }
        if command.starts_with("kubectl apply -f limit.yaml") {
            let wrong = answers(cluster, folder.path(), "kubectl apply -f wrong.yaml").await?;
            assert!(
                wrong.contains("unknown field \"spec.limits[0].request\""),
                "{wrong}"
            );
        }
    }
    Ok(())
}

//! `docs/first-route.md`, done as it is written: its files applied, its commands typed, and their answers
//! compared with those that it shows.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use tests::cluster::wait_until;
use tests::shown::is_as_shown;

use crate::installation::{PODS, import_built, installed, operator_stays};
use crate::page::{Line, Page, Shell, files};

/// Lines that only look, and are typed until what they say is so.
const LOOKS: &[&str] = &["kubectl get ", "kubectl rollout status ", "meshwright "];

/// Lines that are typed in other words, since they would not end by themselves.
const INSTEAD: &[(&str, &str)] = &[(
    "meshwright tap deployment/orders -n first",
    "meshwright tap deployment/orders -n first --count 1 & tap=$!; while kill -0 $tap 2>&-; do kubectl exec -n first \
     deployment/web -c web -- shop call GET http://orders/7 >/dev/null 2>&1; done; wait $tap",
)];

/// What a line says is what the page shows, if it shows anything.
async fn compare(shell: &Shell, line: &Line) -> Result<()> {
    let command = line.command.as_str();
    let instead = INSTEAD.iter().find(|(other, _)| *other == command);
    let said = shell.says(instead.map_or(command, |(_, by)| by)).await?;
    let lines: Vec<&str> = said.text.trim_end().lines().collect();
    let shown = line.answer.join("\n");
    ensure!(
        line.block.is_none() || is_as_shown(&line.answer, &lines),
        "{command}\n{}\nis not as shown:\n{shown}",
        said.text
    );
    ensure!(
        line.block.is_some() || said.code == Some(0),
        "{command}\n{}",
        said.text
    );
    Ok(())
}

#[tokio::test]
async fn the_first_route_is_as_its_page_says() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    import_built(cluster, "shop").await?;
    let page = Page::read("docs/first-route.md")?;
    let shell = Shell::open(cluster)?;
    for (name, text) in files(page.text()) {
        std::fs::write(shell.folder().join(name), text)?;
    }
    let lines: Vec<&Line> = page
        .lines()
        .iter()
        .filter(|line| !line.only_names())
        .collect();
    assert!(lines.len() > 12, "{lines:?}");

    let mut typed = BTreeSet::new();
    for line in lines {
        let command = line.command.as_str();
        typed.insert(command);
        if command == "meshwright check DIR" {
            let checked = shell.says("meshwright check .").await?;
            let named = "wrong.yaml:8: ";
            assert!(
                checked.code == Some(1) && checked.text.contains(named),
                "{checked:?}"
            );
            let wrong = shell.says("kubectl apply -f wrong.yaml").await?;
            let refused = "unknown field \"spec.limits[0].request\"";
            assert!(wrong.text.contains(refused), "{wrong:?}");
            continue;
        }
        let what = format!("the page is right about {command}");
        match LOOKS.iter().any(|word| command.starts_with(word)) {
            true => wait_until(&what, PODS, async || compare(&shell, line).await).await?,
            false => compare(&shell, line).await?,
        }
    }
    assert!(typed.contains("meshwright check DIR"), "{typed:?}");
    Ok(())
}

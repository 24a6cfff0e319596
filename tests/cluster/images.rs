//! The images that `make images` builds, looked at without running them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::{programs, run};
use tokio::process::Command;

use crate::installation::{archive, root};

/// A file of an archive.
async fn unpacked(archive: &Path, file: &str) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    let output = tar.arg("-xOf").arg(archive).arg(file).output().await?;
    ensure!(output.status.success(), "{}: {file}", archive.display());
    Ok(output.stdout)
}

/// What a descriptor of an archive leads to, as JSON.
async fn blob(archive: &Path, descriptor: &Value) -> Result<Value> {
    let digest = descriptor["digest"].as_str().context("a digest")?;
    let path = format!("blobs/{}", digest.replace(':', "/"));
    Ok(serde_json::from_slice(&unpacked(archive, &path).await?)?)
}

async fn index(archive: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(
        &unpacked(archive, "index.json").await?,
    )?)
}

#[tokio::test]
async fn an_image_holds_one_program_for_a_user_without_a_name_and_says_what_it_is_made_of()
-> Result<()> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    for part in ["operator", "sidecar", "cni"] {
        let archive = archive(part)?;
        let index = index(&archive).await?;
        let image = &index["manifests"][0];
        let manifest = blob(&archive, image).await?;
        let config = blob(&archive, &manifest["config"]).await?;
        ensure!(config["config"]["User"] == "65532", "{config}");
        let layers = manifest["layers"].as_array().context("layers")?;
        let [layer] = layers.as_slice() else {
            anyhow::bail!("{manifest}")
        };
        let digest = layer["digest"].as_str().context("a digest")?;
        // As `make images` builds them; beside it, tests may be given what was built without optimisation.
        if layer["mediaType"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("+gzip"))
        {
            let bytes = std::fs::metadata(&archive)?.len();
            ensure!(bytes < 20_000_000, "{part} has {bytes} bytes");
        } else {
            eprintln!("{part} is not as `make images` builds it: its size is not looked at");
        }
        let layer = unpacked(&archive, &format!("blobs/{}", digest.replace(':', "/"))).await?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("layer");
        std::fs::write(&path, layer)?;
        let files = run(Command::new("tar").arg("-tf").arg(&path), "").await?;
        let program = format!("meshwright-{part}");
        ensure!(files.trim() == program, "{files}");

        let architecture = image["platform"]["architecture"].as_str();
        let architecture = architecture.context("an architecture")?;
        let list = archive.with_extension("");
        let list = format!("{}-{architecture}.cdx.json", list.display());
        let list: Value = serde_json::from_str(&std::fs::read_to_string(&list)?)?;
        // Of this very program.
        let held = folder.path().join(&program);
        std::fs::write(&held, unpacked(&path, &program).await?)?;
        let sum = run(Command::new("sha256sum").arg(&held), "").await?;
        says_not_where_it_was_built(&held).await?;
        let hash = &list["metadata"]["component"]["hashes"][0]["content"];
        ensure!(hash.as_str() == sum.split(' ').next(), "{hash} {sum}");
        let parts = list["components"].as_array().context("components")?;
        ensure!(parts.len() > 100, "only {} parts", parts.len());
        for name in ["rustls", "tokio", "glibc"] {
            let found = parts.iter().find(|one| one["name"] == name);
            let found = found.with_context(|| format!("{part} is not made of {name}"))?;
            ensure!(!found["licenses"][0]["expression"].is_null(), "{found}");
            let checksum = found["hashes"][0]["content"].as_str();
            let locked = checksum.is_none_or(|sum| lock.contains(&format!("checksum = \"{sum}\"")));
            ensure!(locked && (checksum.is_some() || name == "glibc"), "{found}");
        }
        // What only tests are made of is in no image.
        ensure!(!parts.iter().any(|one| one["name"] == "proptest"));
    }
    Ok(())
}

/// Else the same sources would give another program in another folder.
async fn says_not_where_it_was_built(program: &Path) -> Result<()> {
    let says = async |text: &str| {
        let mut grep = Command::new("grep");
        let found = grep.args(["-qaF", text]).arg(program).status().await?;
        anyhow::Ok(found.success())
    };
    ensure!(
        says("/cargo/index").await?,
        "a panic says where in the sources it was"
    );
    let checkout = root().display().to_string();
    let home = std::env::var("HOME").context("a home")?;
    for place in [checkout, format!("{home}/"), "registry/src".to_owned()] {
        ensure!(!says(&place).await?, "{} says {place}", program.display());
    }
    Ok(())
}

/// A static program in Go for that architecture, as an archive.
async fn archived(folder: &Path, architecture: &str) -> Result<PathBuf> {
    let program = folder.join(format!("pause-{architecture}"));
    let mut go = Command::new("go");
    go.args(["build", "-C"]);
    go.arg(root().join("tests/cluster/programs/images"));
    go.args(["-buildvcs=false", "-trimpath"]);
    go.arg("-o").arg(&program).arg("./pause");
    go.env("CGO_ENABLED", "0").env("GOARCH", architecture);
    run(&mut go, "").await?;
    let archive = folder.join(format!("{architecture}.tar"));
    std::fs::write(&archive, packed(&program).await?)?;
    Ok(archive)
}

/// The archive of a program.
async fn packed(program: &Path) -> Result<Vec<u8>> {
    let mut archiving = Command::new(programs().await?.join("oci-archive"));
    let archiving = archiving.args(["-compress", "localhost/pause:1"]);
    let output = archiving.arg(program).output().await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

#[tokio::test]
async fn the_same_program_is_the_same_image_wherever_and_whenever_it_was_built() -> Result<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let first = std::fs::read(archived(folders[0].path(), "amd64").await?)?;
    archived(folders[1].path(), "amd64").await?;
    let later = folders[1].path().join("pause-amd64");
    let mut touch = Command::new("touch");
    run(touch.args(["-d", "2001-02-03"]).arg(&later), "").await?;
    ensure!(packed(&later).await? == first, "they differ");
    Ok(())
}

#[tokio::test]
async fn images_of_two_architectures_become_one_and_no_other_pair_does() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let amd64 = archived(folder.path(), "amd64").await?;
    let arm64 = archived(folder.path(), "arm64").await?;
    let oci_archive = programs().await?.join("oci-archive");
    let mut joining = Command::new(&oci_archive);
    joining
        .args(["-join", "localhost/pause:1"])
        .args([&amd64, &arm64]);
    let output = joining.output().await?;
    ensure!(output.status.success(), "{output:?}");
    let both = folder.path().join("both.tar");
    std::fs::write(&both, output.stdout)?;

    let root = index(&both).await?;
    let list = blob(&both, &root["manifests"][0]).await?;
    for (number, architecture) in ["amd64", "arm64"].iter().enumerate() {
        let image = &list["manifests"][number];
        ensure!(image["platform"]["architecture"] == *architecture, "{list}");
        let config = blob(&both, &blob(&both, image).await?["config"]).await?;
        ensure!(config["architecture"] == *architecture, "{config}");
    }

    let mut twice = Command::new(&oci_archive);
    twice
        .args(["-join", "localhost/pause:1"])
        .args([&amd64, &amd64]);
    let said = run(&mut twice, "").await.err().context("an image twice")?;
    ensure!(
        format!("{said:#}").contains("is for the same machines as another one"),
        "{said:#}"
    );
    Ok(())
}

#[tokio::test]
async fn a_program_that_needs_a_loader_gets_no_image() -> Result<()> {
    let mut archiving = Command::new(programs().await?.join("oci-archive"));
    // This test itself, which is linked as programs usually are.
    archiving
        .arg("localhost/dynamic:1")
        .arg(std::env::current_exe()?);
    let said = run(&mut archiving, "").await.err().context("an image")?;
    ensure!(
        format!("{said:#}").contains("is not static: it needs a loader"),
        "{said:#}"
    );
    Ok(())
}

//! A volume that can be full.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::AsyncBufReadExt as _;
use tokio::process::{Child, Command};

/// Memory that is mounted over a folder, for those alone who enter its namespaces: so that nobody needs
/// rights for it, and nothing of it is left once they have ended.
pub struct SmallVolume {
    holder: Child,
    /// The folder as they see it.
    folder: PathBuf,
}

/// What fills the volume.
const FILLER: &str = "filler";

// === impl SmallVolume ===

impl SmallVolume {
    /// Mounts one of so many bytes over a folder, with what is in the folder; and `hosts` over `/etc/hosts`, if they are
    /// written.
    pub(super) async fn mount(folder: &Path, bytes: usize, hosts: Option<&str>) -> Result<Self> {
        let aside = folder.with_extension("aside");
        let file = folder.with_extension("hosts");
        let names = match hosts {
            Some(hosts) => {
                std::fs::write(&file, hosts)?;
                format!("mount --bind {} /etc/hosts && ", file.display())
            }
            None => String::new(),
        };
        let (folder, aside) = (folder.display(), aside.display());
        let script = format!(
            "{names}cp -a {folder} {aside} && mount -t tmpfs -o size={bytes},mode=700 tmpfs {folder} \
             && cp -a {aside}/. {folder} && rm -r {aside} && echo mounted && exec cat"
        );
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("unshare")?;
        let said = holder.stdout.take().context("a pipe")?;
        let mut lines = tokio::io::BufReader::new(said).lines();
        let said = lines.next_line().await?;
        ensure!(said.as_deref() == Some("mounted"), "{said:?}");
        let id = holder.id().context("it has ended")?;
        Ok(Self {
            holder,
            folder: format!("/proc/{id}/root{folder}").into(),
        })
    }

    /// What `nsenter` is told, before the program that is to see the volume.
    pub(super) fn entering(&self) -> Vec<String> {
        let target = self.holder.id().unwrap_or_default().to_string();
        let target = format!("--target={target}");
        let words = ["--user", "--mount", "--preserve-credentials", &target, "--"];
        words.map(str::to_owned).into()
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When writing fails for another reason than that it is full.
    pub fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.folder.join(FILLER))?;
        loop {
            match file.write(&[b'x'; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => bail!("it can't be filled: {error}"),
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join(FILLER))?)
    }

    /// The files that there are.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn files(&self) -> Result<Vec<String>> {
        let files = std::fs::read_dir(&self.folder)?;
        let names = files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }
}

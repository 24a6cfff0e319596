//! Folders as a source: read again whenever something in them changes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::task::JoinSet;

use super::reading::{Reading, read_folder};
use super::scan::scan;
use super::{Nudge, Seen, Settling, Source, nudge};

/// How often the folders are compared with how they were: not every file system tells of changes,
/// and the number of watches is limited.
const POLL: Duration = Duration::from_secs(1);

/// Objects of one or more folders.
pub struct Folder {
    folders: Arc<[PathBuf]>,
    last: Reading,
    settling: Settling,
    nudge: Nudge,
    /// Something changed that wasn't read yet.
    due: bool,
    /// What was last returned.
    told: Option<Reading>,
    /// Ends with this.
    _watcher: Option<RecommendedWatcher>,
    _polling: JoinSet<()>,
}

// === impl Folder ===

impl Folder {
    /// Starts to watch. Must be called inside a tokio runtime.
    pub fn new(folders: Vec<PathBuf>) -> Folder {
        let folders: Arc<[PathBuf]> = folders.into();
        let (nudge, settling) = nudge();
        let mut polling = JoinSet::new();
        polling.spawn(poll(folders.clone(), nudge.clone()));
        let watcher = match watch(&folders, nudge.clone()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::info!(%error, "the folders are polled each second, not watched");
                None
            }
        };
        Folder {
            folders,
            last: Reading::default(),
            settling,
            nudge,
            due: true,
            told: None,
            _watcher: watcher,
            _polling: polling,
        }
    }

    /// Waits as [`Source::changed`] does, for a change of any sort, and returns the whole reading: for
    /// whoever takes all of it or nothing. What may still be being written is waited for.
    /// `None`: nobody will tell of changes any more.
    ///
    /// Cancel safe.
    pub async fn reading(&mut self) -> Option<&Reading> {
        self.next(|told, now| !now.unsettled && !now.says_the_same(told))
            .await?;
        Some(&self.last)
    }

    /// Reads again and again, until what was read differs from what was last returned.
    async fn next(&mut self, differs: impl Fn(&Reading, &Reading) -> bool) -> Option<()> {
        loop {
            if !self.due && !self.settling.settled().await {
                return None;
            }
            // Stays set when the reading is cancelled.
            self.due = true;
            self.read().await;
            self.due = false;
            let told = self.told.as_ref();
            if told.is_none_or(|told| differs(told, &self.last)) {
                self.told = Some(self.last.clone());
                return Some(());
            }
        }
    }

    async fn read(&mut self) {
        let (folders, last) = (self.folders.clone(), self.last.clone());
        // Reading blocks; a folder may be on a network.
        let Ok(reading) = tokio::task::spawn_blocking(move || read_folder(&folders, &last)).await
        else {
            return; // only when the runtime is being shut down
        };
        for change in &reading.changes {
            tracing::info!("{change}");
        }
        let known: BTreeSet<_> = self.last.problems.iter().collect();
        for problem in reading
            .problems
            .iter()
            .filter(|problem| !known.contains(problem))
        {
            tracing::warn!("{problem}");
        }
        if reading.unsettled {
            let nudge = self.nudge.clone();
            tokio::spawn(async move {
                tokio::time::sleep(POLL).await;
                nudge.send();
            });
        }
        self.last = reading;
    }
}

impl Source for Folder {
    async fn changed(&mut self) -> Option<Seen> {
        self.next(|told, now| {
            now.inputs.seen != told.inputs.seen
                || now.problems != told.problems
                || now.origins != told.origins
        })
        .await?;
        Some(Seen {
            inputs: self.last.inputs.clone(),
            origins: self.last.origins.clone(),
            problems: self.last.problems.clone(),
            unreadable: 0,
        })
    }
}

fn watch(folders: &[PathBuf], nudge: Nudge) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an access too; of those only the end of a write is of interest.
        let noise = matches!(
            event.as_ref().map(|event| event.kind),
            Ok(EventKind::Access(access)) if access != AccessKind::Close(AccessMode::Write)
        );
        if !noise {
            nudge.send();
        }
    })?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

async fn poll(folders: Arc<[PathBuf]>, nudge: Nudge) {
    let mut before = None;
    loop {
        let folders = folders.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || scan(&folders)).await else {
            return;
        };
        let now = Some(now);
        // The first is compared too: the first reading may have come before it.
        if now != before {
            before = now;
            nudge.send();
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use compiler::ObjectKey;
    use std::fs;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(20);
    const ROUTE: &str = "
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: orders, namespace: shop }
spec: { hosts: [orders] }
";

    async fn changed(folder: &mut Folder) -> Seen {
        timeout(LONG, folder.changed()).await.unwrap().unwrap()
    }

    fn hosts(seen: &Seen) -> Vec<String> {
        let key = ObjectKey::new("shop", "orders");
        seen.inputs
            .api_routes
            .get(&key)
            .map(|r| r.spec.hosts.clone())
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn an_edit_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(vec![dir.path().to_owned()]);
        assert!(
            changed(&mut folder).await.inputs.api_routes.is_empty(),
            "an empty folder counts"
        );
        fs::write(dir.path().join("a.yaml"), ROUTE).unwrap();
        assert_eq!(hosts(&changed(&mut folder).await), ["orders"]);
    }

    #[tokio::test]
    async fn an_atomic_replacement_is_seen_where_nothing_tells_of_changes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), ROUTE).unwrap();
        let mut folder = Folder::new(vec![dir.path().to_owned()]);
        folder._watcher = None;
        assert_eq!(hosts(&changed(&mut folder).await), ["orders"]);
        fs::write(
            dir.path().join(".new"),
            ROUTE.replace("[orders]", "[orders.shop]"),
        )
        .unwrap();
        fs::rename(dir.path().join(".new"), dir.path().join("a.yaml")).unwrap();
        assert_eq!(hosts(&changed(&mut folder).await), ["orders.shop"]);
    }

    #[tokio::test]
    async fn whoever_takes_all_or_nothing_is_told_of_every_change_once_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.yaml"), ROUTE).unwrap();
        let mut folder = Folder::new(vec![dir.path().to_owned()]);
        let mut texts = async || {
            let reading = timeout(LONG, folder.reading()).await.unwrap().unwrap();
            let texts = reading.texts().map(|(_, text)| text.to_string());
            texts.collect::<Vec<_>>()
        };
        assert_eq!(texts().await, [ROUTE]);
        // Truncated, and another changed meanwhile: both are told, and not one before the other.
        fs::write(path("a.yaml"), "").unwrap();
        fs::write(path("b.yaml"), "# a comment\n").unwrap();
        assert_eq!(texts().await, ["", "# a comment\n"]);
    }

    #[tokio::test]
    async fn an_edit_that_does_not_parse_is_told_as_a_problem_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), ROUTE).unwrap();
        let mut folder = Folder::new(vec![dir.path().to_owned()]);
        let before = changed(&mut folder).await;
        fs::write(dir.path().join("a.yaml"), "kind: [").unwrap();
        let after = changed(&mut folder).await;
        assert_eq!(after.problems.len(), 1);
        assert_eq!(after.inputs.seen, before.inputs.seen);
        assert_eq!(hosts(&after), ["orders"]);
    }
}

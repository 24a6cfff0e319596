//! What was accepted of the user's folder: the copy that the operator reads.
//!
//! The operator takes a folder file by file and keeps what is good of it. `meshwright up` takes a
//! folder as a whole or not at all, so the operator is not given the folder itself but this copy,
//! which is written from the very texts that were checked: nobody can have edited them meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use operator::source::reading::Reading;
use serde_json::Value;

use super::state::{Layout, replace};

/// The copy.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) names: Names,
    /// Where it is made ready: on the same disk, out of the operator's sight.
    staging: PathBuf,
    /// What was written, by paths below the folder.
    files: BTreeMap<PathBuf, Arc<str>>,
}

/// The names of the copy and of what it is of: people are told of their own files only.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Where the copy is.
    copy: PathBuf,
    /// The user's folder, as the user named it.
    of: PathBuf,
}

// === impl Accepted ===

impl Accepted {
    /// Nothing yet.
    pub(super) fn new(layout: &Layout, of: &Path) -> Self {
        Self {
            names: Names {
                copy: layout.accepted(),
                of: of.to_owned(),
            },
            staging: layout.staging(),
            files: BTreeMap::new(),
        }
    }

    /// Makes the copy what `reading` says, which must be free of problems. Paths stay as they are,
    /// because their order decides conflicts.
    ///
    /// When it fails, most likely nothing was changed: everything is written before the first file
    /// is put in place. Otherwise it can be asked for again.
    pub(super) fn take(&mut self, reading: &Reading) -> anyhow::Result<()> {
        let of = &self.names.of;
        let mut wanted = BTreeMap::new();
        for (path, text) in reading.texts() {
            let below = path.strip_prefix(of);
            let below = below.with_context(|| format!("{} is elsewhere", path.display()))?;
            wanted.insert(below.to_owned(), text.clone());
        }
        let what = format!("keeping a copy of {} for the operator", of.display());
        self.make(wanted).context(what)
    }

    fn make(&mut self, wanted: BTreeMap<PathBuf, Arc<str>>) -> io::Result<()> {
        let mut staged = Vec::new();
        for (number, (path, text)) in wanted.iter().enumerate() {
            if self.files.get(path) != Some(text) {
                let ready = self.staging.join(number.to_string());
                replace(&ready, text.as_bytes())?;
                staged.push((ready, path, text));
            }
        }
        let gone = self
            .files
            .keys()
            .filter(|path| !wanted.contains_key(*path))
            .cloned();
        let in_the_way = |gone: &PathBuf| {
            let meets = |path: &PathBuf| path.starts_with(gone) || gone.starts_with(path);
            wanted.keys().any(meets)
        };
        let (first, last): (Vec<_>, Vec<_>) = gone.partition(in_the_way);
        for path in first {
            self.remove(&path)?;
        }
        for (ready, path, text) in staged {
            let place = self.names.copy.join(path);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::rename(ready, place)?;
            self.files.insert(path.clone(), text.clone());
        }
        // Last: what moved from one file to another is never in none.
        for path in last {
            self.remove(&path)?;
        }
        Ok(())
    }

    /// Removes a file, and the folders that it leaves empty.
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(self.names.copy.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.files.remove(path),
        };
        let mut parents = path.ancestors().skip(1).filter(|path| *path != "");
        while parents.next().is_some_and(|parent| {
            // Refused as long as something is in it.
            fs::remove_dir(self.names.copy.join(parent)).is_ok()
        }) {}
        Ok(())
    }
}

// === impl Names ===

impl Names {
    /// What the operator says, with the user's files instead of the copy's.
    pub(super) fn in_words(&self, said: &str) -> String {
        let copy = format!("{}/", self.copy.display());
        let theirs = self.of.join("");
        super::plain(&said.replace(&copy, &theirs.to_string_lossy())).to_owned()
    }

    /// The operator's verdicts, with the user's files instead of the copy's.
    pub(super) fn in_verdicts(&self, verdicts: &mut Value) {
        for report in verdicts.as_array_mut().into_iter().flatten() {
            if let Some(Value::String(file)) = report.get_mut("file") {
                *file = self.in_words(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use operator::source::reading::read_folder;
    use tempfile::TempDir;

    use super::*;

    struct Both {
        users: TempDir,
        _state: TempDir,
        accepted: Accepted,
    }

    impl Both {
        fn new() -> Self {
            let (users, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let layout = Layout {
                root: state.path().to_owned(),
            };
            fs::create_dir(layout.accepted()).unwrap();
            fs::create_dir(layout.staging()).unwrap();
            Self {
                accepted: Accepted::new(&layout, users.path()),
                users,
                _state: state,
            }
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.users.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// What the copy holds then: paths below it and texts.
        fn take(&mut self) -> Vec<(String, String)> {
            self.accepted.take(&read(self.users.path())).unwrap();
            let copy = read(&self.accepted.names.copy);
            let below = |(path, text): (&Path, &Arc<str>)| {
                let path = path.strip_prefix(&self.accepted.names.copy).unwrap();
                (path.to_string_lossy().into_owned(), text.to_string())
            };
            copy.texts().map(below).collect()
        }
    }

    fn read(folder: &Path) -> Reading {
        read_folder(&[folder.to_owned()], &Reading::default())
    }

    fn files(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        files.iter().map(owned).collect()
    }

    #[test]
    fn the_copy_has_the_same_paths_and_texts_and_loses_what_is_gone() {
        let mut both = Both::new();
        both.write("b.yaml", "# b\n");
        both.write("a/c.yml", "# c\n");
        assert_eq!(
            both.take(),
            files(&[("a/c.yml", "# c\n"), ("b.yaml", "# b\n")])
        );

        fs::remove_dir_all(both.users.path().join("a")).unwrap();
        both.write("b.yaml", "# another\n");
        assert_eq!(both.take(), files(&[("b.yaml", "# another\n")]));
        assert!(!both.accepted.names.copy.join("a").exists());
    }

    #[test]
    fn a_file_may_become_a_folder_and_a_folder_a_file() {
        let mut both = Both::new();
        both.write("a.yaml", "# a\n");
        both.write("b.yaml/c.yaml", "# c\n");
        both.take();
        fs::remove_file(both.users.path().join("a.yaml")).unwrap();
        fs::remove_dir_all(both.users.path().join("b.yaml")).unwrap();
        both.write("a.yaml/c.yaml", "# a/c\n");
        both.write("b.yaml", "# b\n");
        assert_eq!(
            both.take(),
            files(&[("a.yaml/c.yaml", "# a/c\n"), ("b.yaml", "# b\n")])
        );
    }

    #[test]
    fn what_the_operator_says_names_the_users_files() {
        let both = Both::new();
        let names = &both.accepted.names;
        let own = names.copy.join("a.yaml");
        let theirs = both.users.path().join("a.yaml");
        assert_eq!(
            names.in_words(&format!("warning: {}:3", own.display())),
            format!("warning: {}:3", theirs.display())
        );
        let mut verdicts = serde_json::json!([{ "file": own, "line": 3 }, { "line": 4 }]);
        names.in_verdicts(&mut verdicts);
        assert_eq!(verdicts[0]["file"], theirs.to_str().unwrap());
    }
}

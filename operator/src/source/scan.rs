//! Which files a folder holds: bounded, in a fixed order, never out of the folder.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Problem;

/// The largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;
/// How many YAML files all folders together may hold.
pub(crate) const MAX_FILES: usize = 1000;
/// How many entries of any sort are looked at, so that a mistaken `--files /` ends.
const MAX_ENTRIES: usize = 50_000;
const MAX_DEPTH: usize = 32;

/// The YAML files of some folders, in order of precedence.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Scan {
    pub(crate) files: Vec<Found>,
    /// Folders and links that can't be followed.
    pub(crate) problems: Vec<Problem>,
    /// These, or what lies under them, couldn't be looked at: what is known of it holds on.
    pub(crate) unlisted: Vec<PathBuf>,
}

/// A YAML file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// The place of its folder among those given.
    pub(crate) folder: usize,
    pub(crate) stamp: Stamp,
}

/// Differs when the file was written to or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    device: u64,
    inode: u64,
    /// Microseconds since 1970.
    pub(crate) modified: i128,
    changed: i128,
}

struct Walk {
    scan: Scan,
    entries: usize,
    /// Canonical, so that a folder given twice, or inside another, is read once.
    known: BTreeSet<PathBuf>,
}

// === impl Scan ===

/// Lists the YAML files of `folders`. `Err`: there are too many, and none of them is to be read.
pub(crate) fn scan(folders: &[PathBuf]) -> Result<Scan, Problem> {
    let mut walk = Walk {
        scan: Scan::default(),
        entries: 0,
        known: BTreeSet::new(),
    };
    for (place, folder) in folders.iter().enumerate() {
        match folder.canonicalize() {
            Ok(root) => walk.folder(folder, &root, place, 0)?,
            Err(error) => walk.unlisted(folder, &error),
        }
    }
    Ok(walk.scan)
}

// === impl Stamp ===

impl Stamp {
    /// Whether this is the same file, perhaps written to, and not another one in its place.
    pub(crate) fn same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    fn of(metadata: &Metadata) -> Stamp {
        let micros = |s: i64, ns: i64| i128::from(s) * 1_000_000 + i128::from(ns) / 1000;
        Stamp {
            size: metadata.size(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: micros(metadata.mtime(), metadata.mtime_nsec()),
            changed: micros(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

// === impl Walk ===

impl Walk {
    fn folder(
        &mut self,
        folder: &Path,
        root: &Path,
        place: usize,
        depth: usize,
    ) -> Result<(), Problem> {
        if depth > MAX_DEPTH {
            self.problem(
                folder,
                format!("is deeper than {MAX_DEPTH} folders and isn't read"),
            );
            return Ok(());
        }
        let entries = match fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => {
                self.unlisted(folder, &error);
                return Ok(());
            }
        };
        self.entries += entries.len();
        if self.entries > MAX_ENTRIES {
            return Err(too_many(folder, MAX_ENTRIES, "entries"));
        }
        let mut entries = entries;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            // Hidden: editors' leftovers, and the real folders behind a mounted ConfigMap's links.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.folder(&path, root, place, depth + 1)?,
                Ok(_) if is_yaml(&path) => self.file(path, root, place)?,
                Ok(_) => {}
                Err(error) => self.unseen(&path, &error),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, root: &Path, place: usize) -> Result<(), Problem> {
        let seen = path
            .canonicalize()
            .and_then(|real| Ok((real, fs::metadata(&path)?)));
        let (real, metadata) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                self.unseen(&path, &error);
                return Ok(());
            }
        };
        if !real.starts_with(root) {
            self.problem(
                &path,
                "is a link out of its folder and isn't followed; copy the file into the folder"
                    .to_owned(),
            );
            return Ok(());
        }
        if !metadata.is_file() || !self.known.insert(real) {
            return Ok(());
        }
        self.scan.files.push(Found {
            path,
            folder: place,
            stamp: Stamp::of(&metadata),
        });
        if self.scan.files.len() > MAX_FILES {
            return Err(too_many(root, MAX_FILES, "YAML files"));
        }
        Ok(())
    }

    /// An entry that can't be looked at. It is gone since it was listed, or a link to nothing; if not,
    /// it is still there.
    fn unseen(&mut self, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.problem(
                path,
                format!("can't be looked at: {error}; make its folder accessible"),
            );
            self.scan.unlisted.push(path.to_owned());
        }
    }

    fn unlisted(&mut self, folder: &Path, error: &io::Error) {
        self.problem(
            folder,
            format!("can't be listed: {error}; create it or make it readable"),
        );
        self.scan.unlisted.push(folder.to_owned());
    }

    fn problem(&mut self, file: &Path, message: String) {
        self.scan.problems.push(Problem {
            file: file.to_owned(),
            line: None,
            message,
        });
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

fn too_many(folder: &Path, most: usize, what: &str) -> Problem {
    let message = format!(
        "holds more than {most} {what}, so nothing is read anew; name a folder that holds only the \
         mesh's objects"
    );
    Problem {
        file: folder.to_owned(),
        line: None,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(scan: &Scan) -> Vec<String> {
        scan.files
            .iter()
            .filter_map(|f| Some(f.path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }

    #[test]
    fn files_come_in_the_order_of_their_paths_and_hidden_ones_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::create_dir(dir.path().join(".git")).unwrap();
        for file in [
            "c.yml",
            "b/x.yaml",
            "a.yaml",
            ".a.yaml",
            ".git/y.yaml",
            "readme.md",
        ] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let scan = scan(&[dir.path().to_owned()]).unwrap();
        assert_eq!(names(&scan), ["a.yaml", "x.yaml", "c.yml"]);
    }

    #[test]
    fn a_folder_inside_another_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/x.yaml"), "").unwrap();
        let scan = scan(&[dir.path().join("b"), dir.path().to_owned()]).unwrap();
        assert_eq!(names(&scan), ["x.yaml"]);
    }

    #[test]
    fn a_link_is_followed_inside_the_folder_and_not_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("x.yaml"), "").unwrap();
        symlink(outside.path().join("x.yaml"), dir.path().join("out.yaml")).unwrap();
        fs::create_dir(dir.path().join("..data")).unwrap();
        fs::write(dir.path().join("..data/in.yaml"), "").unwrap();
        symlink("..data/in.yaml", dir.path().join("in.yaml")).unwrap();
        let scan = scan(&[dir.path().to_owned()]).unwrap();
        assert_eq!(names(&scan), ["in.yaml"]);
        assert_eq!(scan.problems.len(), 1);
        assert!(scan.problems[0].message.contains("link out of its folder"));
    }

    #[test]
    fn too_many_files_are_refused_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..=MAX_FILES {
            fs::write(dir.path().join(format!("{n}.yaml")), "").unwrap();
        }
        let problem = scan(&[dir.path().to_owned()]).unwrap_err();
        assert!(
            problem.message.contains("more than 1000 YAML files"),
            "{problem}"
        );
    }

    #[test]
    fn what_can_not_be_looked_at_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (circle, nothing) = (dir.path().join("circle.yaml"), dir.path().join("no.yaml"));
        symlink("circle.yaml", &circle).unwrap();
        symlink("nowhere.yaml", nothing).unwrap();
        let scan = scan(&[dir.path().to_owned()]).unwrap();
        assert_eq!(scan.unlisted, [circle]);
        assert_eq!(scan.problems.len(), 1, "{:?}", scan.problems);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(dir.path().join("pipe.yaml"))
            .status();
        assert!(made.unwrap().success());
        assert_eq!(scan(&[dir.path().to_owned()]).unwrap().files, []);
    }

    #[test]
    fn a_missing_folder_is_a_problem_and_not_an_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nowhere");
        let scan = scan(std::slice::from_ref(&missing)).unwrap();
        assert_eq!(scan.unlisted, [missing]);
        assert_eq!(scan.problems.len(), 1);
    }
}

//! A folder of documents, as `meshwright up` and `meshwright check` read it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use compiler::yaml::{self, Document, Problem};

/// Deeper folders are not looked into.
const MAX_DEPTH: usize = 32;
/// More files than this are a mistaken folder.
const MAX_FILES: usize = 1000;
/// Larger files are refused.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything a folder says.
#[derive(Debug, Default)]
pub struct Reading {
    /// The documents, in the order of files and lines.
    pub documents: Vec<Document>,
    /// What is wrong; when there is anything, the documents are not all there are.
    pub problems: Vec<Problem>,
}

/// Differs when a file of the folder was written to, came or went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, [i64; 4])>);

/// Reads all YAML files in and below `folder`. Hidden files and folders are left alone.
pub fn read(folder: &Path) -> Reading {
    let mut reading = Reading::default();
    let mut files = Vec::new();
    if let Err(error) = list(folder, 0, &mut files) {
        reading
            .problems
            .push(problem(folder, format!("can't be read: {error}")));
    }
    for path in files {
        let too_large = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_FILE_BYTES);
        let text = if too_large {
            Err(format!("is larger than {MAX_FILE_BYTES} bytes"))
        } else {
            fs::read_to_string(&path).map_err(|error| format!("can't be read: {error}"))
        };
        match text {
            Ok(text) => {
                let file = yaml::parse(&path.to_string_lossy(), &text);
                reading.documents.extend(file.documents);
                reading.problems.extend(file.problems);
            }
            Err(message) => reading.problems.push(problem(&path, message)),
        }
    }
    reading.problems.extend(written_twice(&reading.documents));
    reading
}

/// How the folder is now; cheap enough to be asked several times a second.
pub fn stamp(folder: &Path) -> Stamp {
    let mut files = Vec::new();
    // What can't be listed is told by the reading.
    let _ = list(folder, 0, &mut files);
    Stamp(
        files
            .into_iter()
            .map(|path| {
                let mark = fs::metadata(&path).map_or([0; 4], |metadata| {
                    [
                        metadata.size().cast_signed(),
                        metadata.mtime(),
                        metadata.mtime_nsec(),
                        metadata.ino().cast_signed(),
                    ]
                });
                (path, mark)
            })
            .collect(),
    )
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") || files.len() >= MAX_FILES {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if depth < MAX_DEPTH {
                list(&path, depth + 1, files)?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            files.push(path);
        }
    }
    Ok(())
}

fn written_twice(documents: &[Document]) -> Vec<Problem> {
    let mut seen = BTreeMap::new();
    let mut problems = Vec::new();
    for document in documents {
        match seen.entry((&document.kind, &document.key)) {
            Entry::Vacant(place) => {
                place.insert(document);
            }
            Entry::Occupied(first) => {
                let first = first.get();
                problems.push(Problem {
                    file: document.file.clone(),
                    line: document.line,
                    field: "metadata.name".to_owned(),
                    message: format!(
                        "{} {}/{} is written a second time (first in {}:{}); delete one of them or give it another name",
                        document.kind, document.key.namespace, document.key.name, first.file, first.line
                    ),
                });
            }
        }
    }
    problems
}

fn problem(path: &Path, message: String) -> Problem {
    Problem {
        file: path.to_string_lossy().into(),
        line: 1,
        field: String::new(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_and_other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("more")).unwrap();
        for name in ["a.yaml", "more/b.yml", ".c.yaml", "d.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let Stamp(files) = stamp(folder.path());
        let names: Vec<_> = files
            .iter()
            .map(|(path, _)| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a.yaml", "more/b.yml"]);
    }

    #[test]
    fn a_stamp_differs_once_a_file_was_written_to() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "a").unwrap();
        let before = stamp(folder.path());
        assert_eq!(before, stamp(folder.path()));
        fs::write(folder.path().join("a.yaml"), "a: 1").unwrap();
        assert_ne!(before, stamp(folder.path()));
    }
}

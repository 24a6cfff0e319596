//! Keys in a folder: a file each, as `meshwright up` runs it or GitOps applies it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use compiler::yaml::{self, Document, Object, line_of};
use k8s_openapi::api::core::v1::Secret;
use operator::source::reading::{Reading, read_folder};
use serde_json::Value;

use super::secret::{Kept, New};
use super::store::Store;
use super::time::words;

/// The folder as it was read.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    namespace: Option<String>,
    reading: Reading,
    texts: BTreeMap<PathBuf, String>,
}

/// Writes a new file, and never over another.
///
/// # Errors
/// When there is one, or it can't be written.
pub(super) fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
            "{} is there already, and is not written over: name another file; of a consumer that has \
             a key, `meshwright consumer rotate --folder DIR` makes another",
            path.display()
        ),
        file => file.with_context(|| format!("{} can't be written", path.display()))?,
    };
    file.write_all(text.as_bytes()).with_context(|| {
        // Half of it is of no use to anybody.
        let _ = fs::remove_file(path);
        format!("{} can't be written", path.display())
    })
}

// === impl Folder ===

impl Folder {
    /// Reads it as `meshwright up` does; of a namespace, if one is named, alone.
    ///
    /// # Errors
    /// When it is no folder.
    pub(super) fn open(path: &Path, namespace: Option<&str>) -> anyhow::Result<Self> {
        let is_folder = fs::metadata(path).map(|found| found.is_dir());
        if !is_folder.with_context(|| format!("--folder {}", path.display()))? {
            bail!("--folder {}: is no folder", path.display());
        }
        let reading = read_folder(&[path.to_owned()], &Reading::default());
        let texts = reading.texts();
        let texts = texts.map(|(path, text)| (path.to_owned(), text.to_string()));
        Ok(Self {
            path: path.to_owned(),
            namespace: namespace.map(str::to_owned),
            texts: texts.collect(),
            reading,
        })
    }

    /// The document of a key, and its file's text.
    ///
    /// # Errors
    /// When anything else stands in its file: that is somebody's to edit.
    fn alone(&self, kept: &Kept, by_hand: &str) -> anyhow::Result<(&Document, &str)> {
        let mut documents = self.documents();
        // A name that stands twice is a problem, and no two places are the same.
        let found = documents.find(|(document, _)| Some(place(document)) == kept.place);
        let (document, _) = found.with_context(|| format!("{} is gone", kept.secret()))?;
        let file = Path::new(&*document.file);
        let others = self.reading.documents();
        let others = others.filter(|one| one.file == document.file).count() > 1;
        let problems = self.reading.problems.iter().any(|one| one.file == *file);
        match self.texts.get(file) {
            Some(text) if !others && !problems => Ok((document, text)),
            _ => bail!(
                "{} does not stand alone in its file: {by_hand} by hand",
                kept.secret()
            ),
        }
    }

    /// The text of a key's file, with which it ends at a moment.
    fn ended(&self, kept: &Kept, at: i64) -> anyhow::Result<(&Path, String)> {
        let line = format!("expiresAt: {:?}", words(at));
        let by_hand = format!("write `{line}` in its stringData");
        let (document, text) = self.alone(kept, &by_hand)?;
        let mut wanted = document.value.clone();
        wanted["stringData"]["expiresAt"] = Value::from(words(at));
        let edited = with_expiry(text, document, &line);
        // However it was written: what is written now must say that, and nothing else that is new.
        let says_it = |text: &String| {
            let parsed = yaml::parse("", text);
            let documents = &parsed.documents;
            parsed.problems.is_empty()
                && matches!(documents.as_slice(), [one] if one.value == wanted)
        };
        match edited.filter(says_it) {
            Some(edited) => Ok((Path::new(&*document.file), edited)),
            None => bail!(
                "{} is written in a form that is not edited here: {by_hand} by hand",
                kept.secret()
            ),
        }
    }

    /// Documents that are Secrets, of the namespace that was named.
    fn documents(&self) -> impl Iterator<Item = (&Document, &Secret)> {
        let wanted = self.namespace.as_deref();
        let documents = self.reading.documents();
        documents.filter_map(move |document| match &document.object {
            Object::Secret(secret) if wanted.is_none_or(|one| *document.key.namespace == *one) => {
                Some((document, &**secret))
            }
            _ => None,
        })
    }
}

/// `file:line`.
fn place(document: &Document) -> String {
    format!("{}:{}", document.file, document.line)
}

/// A text in which the line of `expiresAt` is another; none of a text in which it has no line of its
/// own.
fn with_expiry(text: &str, document: &Document, line: &str) -> Option<String> {
    let data = document.value["stringData"].as_object()?;
    let is_there = data.contains_key("expiresAt");
    // Where there is none yet, it stands below the id.
    let beside = if is_there { "expiresAt" } else { "keyID" };
    let number = line_of(text, document, &format!("stringData.{beside}"));
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = number.checked_sub(1)?;
    let before = *lines.get(at)?;
    let indent = before.len() - before.trim_start_matches(' ').len();
    let edited = format!("{}{line}\n", &before[..indent]);
    if is_there {
        *lines.get_mut(at)? = &edited;
        return Some(lines.concat());
    }
    let ended = format!("{}\n", before.trim_end_matches('\n'));
    *lines.get_mut(at)? = &ended;
    lines.insert(number, &edited);
    Some(lines.concat())
}

/// Replaces a file in one step: whoever reads it meanwhile reads the one or the other.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    // Not the link, if it is one.
    let path = path.canonicalize()?;
    let beside = path.with_extension("yaml.new");
    write_new(&beside, text)?;
    let moved = fs::metadata(&path)
        .and_then(|found| fs::set_permissions(&beside, found.permissions()))
        .and_then(|()| fs::rename(&beside, &path));
    moved.with_context(|| {
        // It is of no use to anybody.
        let _ = fs::remove_file(&beside);
        format!("{} can't be written", path.display())
    })
}

impl Store for Folder {
    fn unread(&self) -> Vec<String> {
        let problems = self.reading.problems.iter();
        problems.map(ToString::to_string).collect()
    }

    fn keys(&self, _: Option<&str>) -> anyhow::Result<Vec<Kept>> {
        let kept = self
            .documents()
            .filter_map(|(document, secret)| Kept::of(secret, Some(place(document))));
        Ok(kept.collect())
    }

    fn namespace(&self) -> anyhow::Result<Option<String>> {
        if let Some(namespace) = &self.namespace {
            return Ok(Some(namespace.clone()));
        }
        let documents = self.reading.documents();
        let namespaces = documents.map(|document| match &document.object {
            Object::Namespace(_) => &document.key.name,
            _ => &document.key.namespace,
        });
        let namespaces: BTreeSet<String> = namespaces.map(ToString::to_string).collect();
        let mut namespaces = namespaces.into_iter();
        match (namespaces.next(), namespaces.next()) {
            (Some(only), None) => Ok(Some(only)),
            (None, _) => bail!("the folder names no namespace: name the ApiRoute's with -n"),
            (Some(first), Some(second)) => bail!(
                "the folder has the namespaces {first} and {second}, if not more: name the ApiRoute's \
                 with -n"
            ),
        }
    }

    fn add(&self, new: &New) -> anyhow::Result<String> {
        let path = self.path.join(format!("{}.yaml", new.name));
        write_new(&path, &new.yaml())?;
        Ok(path.display().to_string())
    }

    fn can_end(&self, keys: &[(&Kept, i64)]) -> anyhow::Result<()> {
        all(keys
            .iter()
            .map(|(kept, at)| self.ended(kept, *at).map(drop)))
    }

    fn end(&self, kept: &Kept, at: i64) -> anyhow::Result<()> {
        let (path, text) = self.ended(kept, at)?;
        replace(path, &text)
    }

    fn remove(&self, keys: &[&Kept]) -> anyhow::Result<()> {
        // Whatever stands in the way of one, the others are ended: they may have been stolen.
        all(keys.iter().map(|kept| {
            let (document, _) = self.alone(kept, "delete the document")?;
            let removed = fs::remove_file(&*document.file);
            removed.with_context(|| format!("{} can't be deleted", document.file))
        }))
    }
}

/// Does all of them; what went wrong is said of each.
fn all(done: impl Iterator<Item = anyhow::Result<()>>) -> anyhow::Result<()> {
    let failed = done.filter_map(Result::err);
    let failed: Vec<_> = failed.map(|error| format!("{error:#}")).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("{}", failed.join("\n")),
    }
}

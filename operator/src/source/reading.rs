//! One reading of some folders: files to objects, keeping what is known good.
//!
//! [`read_folder`] is synchronous and has no side effects, so that `meshwright check` and
//! `meshwright up` read exactly as the operator does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use compiler::yaml::{self, Document, Object};
use compiler::{Inputs, ObjectKey, ObjectKind, ObjectRef, describe_change};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use wire::generation::Input;

use super::scan::{Found, MAX_FILE_BYTES, Stamp, scan};
use super::{Origin, Problem, derive};

/// A file that was written to and lost documents may still be being written; it is believed at this
/// age. One that took the other's place is believed at once.
const BELIEVED_AFTER_MICROS: i128 = 1_000_000;

/// What some folders hold. `Reading::default()` is before the first reading.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The objects; `settings` are left at their defaults.
    pub inputs: Inputs,
    /// Deployments: nothing that the compiler reads, but `meshwright up` runs them.
    pub deployments: BTreeMap<ObjectKey, Arc<Deployment>>,
    /// Where each object that gets a verdict stands written.
    pub origins: Arc<BTreeMap<ObjectRef, Origin>>,
    /// What can't be used, in the order of paths.
    pub problems: Arc<Vec<Problem>>,
    /// What differs from the reading before, one sentence each.
    pub changes: Vec<String>,
    /// A file may still be being written: read again within a second.
    pub unsettled: bool,
    files: BTreeMap<Place, Arc<Known>>,
}

/// Where a file stands: the folder's place among those given, and the path. Its order is the order
/// of precedence.
type Place = (usize, PathBuf);

/// What is known of one file.
#[derive(Debug, Default)]
struct Known {
    /// Of the text last read, good or not; none when it couldn't be read.
    hash: Option<blake3::Hash>,
    /// Of the file that the text was read from.
    stamp: Option<Stamp>,
    /// The last good text, and what it says.
    text: Arc<str>,
    documents: Vec<Document>,
    problems: Vec<Problem>,
}

/// Gathers objects in order of precedence.
struct Gather<'a> {
    before: &'a Reading,
    inputs: Inputs,
    deployments: BTreeMap<ObjectKey, Arc<Deployment>>,
    origins: BTreeMap<ObjectRef, Origin>,
    /// Of every document taken: the folder and the document, for completion and for words.
    taken: BTreeMap<(String, ObjectKey), (usize, Origin)>,
    problems: Vec<Problem>,
}

// === impl Reading ===

/// Reads every `*.yaml` and `*.yml` below `folders`. Earlier folders take precedence; a Service in
/// a later one completes the cluster addresses of the same Service in an earlier one.
///
/// A file that can't be used is a problem, and what was last good in it (`last`) holds on. An
/// object that is as it was in `last` keeps its `Arc`.
pub fn read_folder(folders: &[PathBuf], last: &Reading) -> Reading {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    read_at(folders, last, now.as_micros() as i128)
}

/// `now` in microseconds since 1970.
fn read_at(folders: &[PathBuf], last: &Reading, now: i128) -> Reading {
    let found = match scan(folders) {
        Ok(found) => found,
        Err(problem) => {
            let problems = std::iter::once(problem).chain(last.file_problems().cloned());
            let problems = Arc::new(problems.collect());
            return Reading {
                problems,
                changes: Vec::new(),
                unsettled: false,
                ..last.clone()
            };
        }
    };
    let mut unsettled = false;
    let mut files = BTreeMap::new();
    for file in found.files {
        let place = (file.folder, file.path.clone());
        let known = last.files.get(&place).cloned().unwrap_or_default();
        let read = known
            .read(&file, now, &mut unsettled)
            .map_or(known, Arc::new);
        files.insert(place, read);
    }
    for (place, known) in &last.files {
        let unknown = |folder: &PathBuf| place.1.starts_with(folder);
        if !files.contains_key(place) && found.unlisted.iter().any(unknown) {
            files.insert(place.clone(), known.clone());
        }
    }
    let mut gather = Gather::new(last, found.problems);
    for ((folder, _), known) in &files {
        gather.file(*folder, known);
    }
    let mut reading = gather.finish(now);
    reading.changes.extend(changes(last, &files));
    reading.unsettled = unsettled;
    reading.files = files;
    reading
}

impl Reading {
    /// Every document that is in force, in order of precedence.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.files.values().flat_map(|known| &known.documents)
    }

    /// Every file and its text that is in force, in order of precedence. Where there are problems,
    /// the texts aren't all there is.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &Arc<str>)> {
        let files = self.files.iter();
        files.map(|((_, path), known)| (path.as_path(), &known.text))
    }

    /// Whether nothing differs, not even a comment.
    pub(crate) fn says_the_same(&self, other: &Reading) -> bool {
        self.problems == other.problems && self.texts().eq(other.texts())
    }

    fn file_problems(&self) -> impl Iterator<Item = &Problem> {
        self.files.values().flat_map(|known| &known.problems)
    }
}

// === impl Known ===

impl Known {
    /// The file anew; `None` when its text is as it was, or isn't to be believed yet.
    fn read(&self, file: &Found, now: i128, unsettled: &mut bool) -> Option<Known> {
        let text = match text_of(&file.path) {
            Ok(text) => text,
            Err(message) => {
                let problems = vec![Problem {
                    file: file.path.clone(),
                    line: None,
                    message,
                }];
                return Some(Known {
                    hash: None,
                    stamp: Some(file.stamp),
                    text: self.text.clone(),
                    documents: self.documents.clone(),
                    problems,
                });
            }
        };
        let hash = blake3::hash(text.as_bytes());
        let in_place = self.stamp.is_some_and(|stamp| stamp.same_file(&file.stamp));
        if self.hash == Some(hash) {
            let replaced = || Known {
                hash: Some(hash),
                stamp: Some(file.stamp),
                text: self.text.clone(),
                documents: self.documents.clone(),
                problems: self.problems.clone(),
            };
            return (!in_place).then(replaced);
        }
        let parsed = yaml::parse(&file.path.to_string_lossy(), &text);
        let good = parsed.problems.is_empty();
        // An editor that truncates and then writes leaves, for a moment, a file that is valid and
        // empty, or that ends after some document.
        let young = (0..BELIEVED_AFTER_MICROS).contains(&(now - file.stamp.modified));
        if good && young && in_place && parsed.documents.len() < self.documents.len() {
            *unsettled = true;
            return None;
        }
        // With nothing good to fall back on, what can be read of it is better than nothing.
        let (text, documents) = if good || self.documents.is_empty() {
            (text.into(), parsed.documents)
        } else {
            (self.text.clone(), self.documents.clone())
        };
        let problems = parsed.problems.into_iter().map(Problem::from).collect();
        Some(Known {
            hash: Some(hash),
            stamp: Some(file.stamp),
            text,
            documents,
            problems,
        })
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("can't be read: {error}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("is larger than 1 MiB, which is the limit; split it".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "isn't UTF-8; save it as UTF-8".to_owned())
}

impl From<yaml::Problem> for Problem {
    fn from(problem: yaml::Problem) -> Self {
        let message = match problem.field.as_str() {
            "" => problem.message,
            field => format!("{field}: {}", problem.message),
        };
        Problem {
            file: PathBuf::from(&*problem.file),
            line: Some(problem.line),
            message,
        }
    }
}

// === impl Gather ===

impl<'a> Gather<'a> {
    fn new(before: &'a Reading, problems: Vec<Problem>) -> Self {
        Gather {
            before,
            inputs: Inputs::default(),
            deployments: BTreeMap::new(),
            origins: BTreeMap::new(),
            taken: BTreeMap::new(),
            problems,
        }
    }

    fn file(&mut self, folder: usize, known: &Known) {
        self.problems.extend(known.problems.iter().cloned());
        for document in &known.documents {
            self.document(folder, document);
        }
    }

    fn document(&mut self, folder: usize, document: &Document) {
        let key = &document.key;
        let origin = Origin {
            file: PathBuf::from(&*document.file),
            line: document.line,
        };
        if matches!(document.object, Object::Ignored) {
            return;
        }
        let name = (document.kind.clone(), key.clone());
        if let Some((first_folder, first)) = self.taken.get(&name) {
            match &document.object {
                Object::Service(later) if *first_folder != folder => self.complete(key, later),
                // Whoever hands out files for one namespace writes it into each.
                Object::Namespace(later) if self.inputs.namespaces.get(key) == Some(later) => {}
                _ => {
                    let first = format!("{}:{}", first.file.display(), first.line);
                    let message = format!(
                        "{} {key} is already in {first}, which holds; delete one of them",
                        document.kind
                    );
                    let Origin { file, line } = origin;
                    self.problems.push(Problem {
                        file,
                        line: Some(line),
                        message,
                    });
                }
            }
            return;
        }
        self.taken.insert(name, (folder, origin.clone()));
        match &document.object {
            Object::ApiRoute(route) => {
                let place = self.inputs.api_routes.len();
                self.written(ObjectRef::api_route(key), place, origin);
                self.inputs.api_routes.insert(key.clone(), route.clone());
            }
            Object::RetryPolicy(policy) => {
                let place = self.inputs.retry_policies.len();
                self.written(ObjectRef::retry_policy(key), place, origin);
                let policies = &mut self.inputs.retry_policies;
                policies.insert(key.clone(), policy.clone());
            }
            Object::RateLimit(limit) => {
                let object = ObjectRef::rate_limit(key);
                self.written(object, self.inputs.rate_limits.len(), origin);
                self.inputs.rate_limits.insert(key.clone(), limit.clone());
            }
            Object::EventSubscription(one) => {
                let object = ObjectRef::event_subscription(key);
                self.written(object, self.inputs.event_subscriptions.len(), origin);
                let all = &mut self.inputs.event_subscriptions;
                all.insert(key.clone(), one.clone());
            }
            Object::Service(service) => {
                self.inputs.services.insert(key.clone(), service.clone());
            }
            Object::EndpointSlice(slice) => {
                let slices = &mut self.inputs.endpoint_slices;
                slices.insert(key.clone(), slice.clone());
            }
            Object::Pod(pod) => {
                self.inputs.pods.insert(key.clone(), pod.clone());
            }
            Object::Namespace(namespace) => {
                let all = &mut self.inputs.namespaces;
                all.insert(key.clone(), namespace.clone());
            }
            Object::Secret(secret) => self.inputs.keep_secret(key, secret),
            Object::Deployment(deployment) => {
                self.deployments.insert(key.clone(), deployment.clone());
            }
            Object::Ignored => {}
        }
    }

    /// Of two objects of a kind that conflict, the one that stands first wins.
    fn written(&mut self, object: ObjectRef, place: usize, origin: Origin) {
        self.inputs.precedence.insert(object.clone(), place as u64);
        self.origins.insert(object, origin);
    }

    /// What a cluster would have assigned, and whoever runs the folder has.
    fn complete(&mut self, key: &ObjectKey, later: &Service) {
        let Some(service) = self.inputs.services.get_mut(key) else {
            return;
        };
        let (Some(spec), Some(assigned)) = (&service.spec, &later.spec) else {
            return;
        };
        if spec.cluster_ip.is_some() || assigned.cluster_ip.is_none() {
            return;
        }
        let assigned = (assigned.cluster_ip.clone(), assigned.cluster_ips.clone());
        if let Some(spec) = &mut Arc::make_mut(service).spec {
            (spec.cluster_ip, spec.cluster_ips) = assigned;
        }
    }

    fn finish(self, now: i128) -> Reading {
        let Gather {
            before,
            mut inputs,
            deployments,
            origins,
            problems,
            ..
        } = self;
        for (key, slice) in derive::endpoint_slices(&inputs) {
            inputs
                .endpoint_slices
                .entry(key)
                .or_insert_with(|| Arc::new(slice));
        }
        let old = &before.inputs;
        let now = u64::try_from(now).unwrap_or_default();
        let mut seen = old.seen;
        let mut note = |input, changed: bool| {
            // The first reading has seen every kind, also those of which there is nothing. Later
            // than before even when the clock was set back.
            if changed || old.seen.at(input) == 0 {
                seen.observe(input, now.max(old.seen.at(input) + 1));
            }
        };
        note(
            Input::ApiRoute,
            settle(&mut inputs.api_routes, &old.api_routes),
        );
        note(
            Input::RetryPolicy,
            settle(&mut inputs.retry_policies, &old.retry_policies),
        );
        note(
            Input::RateLimit,
            settle(&mut inputs.rate_limits, &old.rate_limits),
        );
        note(
            Input::EventSubscription,
            settle(&mut inputs.event_subscriptions, &old.event_subscriptions),
        );
        note(Input::Broker, settle(&mut inputs.brokers, &old.brokers));
        note(Input::Service, settle(&mut inputs.services, &old.services));
        note(
            Input::EndpointSlice,
            settle(&mut inputs.endpoint_slices, &old.endpoint_slices),
        );
        note(Input::Pod, settle(&mut inputs.pods, &old.pods));
        note(
            Input::Namespace,
            settle(&mut inputs.namespaces, &old.namespaces),
        );
        note(
            Input::Consumer,
            settle(&mut inputs.consumers, &old.consumers),
        );
        note(
            Input::Credential,
            settle(&mut inputs.credentials, &old.credentials),
        );
        // The order of paths decides conflicts between objects of a kind: a rename is a change of
        // them.
        for kind in ObjectKind::ALL {
            note(kind.input(), order(&inputs, kind).ne(order(old, kind)));
        }
        inputs.seen = seen;
        Reading {
            inputs,
            deployments,
            origins: Arc::new(origins),
            problems: Arc::new(problems),
            ..Reading::default()
        }
    }
}

/// Which objects of a kind come first.
fn order(inputs: &Inputs, kind: ObjectKind) -> impl Iterator<Item = (&ObjectRef, &u64)> {
    let given = inputs.precedence.iter();
    given.filter(move |(object, _)| object.kind == kind)
}

/// Keeps the `Arc` of what is as it was; whether anything isn't.
fn settle<T: PartialEq>(
    new: &mut BTreeMap<ObjectKey, Arc<T>>,
    old: &BTreeMap<ObjectKey, Arc<T>>,
) -> bool {
    let mut changed = new.len() != old.len();
    for (key, object) in new {
        match old.get(key) {
            Some(before) if before == object => *object = before.clone(),
            _ => changed = true,
        }
    }
    changed
}

/// What differs between two readings, in words.
fn changes(last: &Reading, files: &BTreeMap<Place, Arc<Known>>) -> Vec<String> {
    let name = |d: &Document| (d.kind.clone(), d.key.clone());
    let old: BTreeMap<_, _> = last.documents().map(|d| (name(d), d)).collect();
    let mut words = Vec::new();
    let mut kept = BTreeSet::new();
    for document in files.values().flat_map(|known| &known.documents) {
        let name = name(document);
        let what = format!("{} {}", document.kind, document.key);
        let at = format!("{}:{}", document.file, document.line);
        match old.get(&name) {
            None => words.push(format!("{what} added ({at})")),
            Some(before) => {
                for change in describe_change(&before.value, &document.value) {
                    words.push(format!("{what}: {change} ({at})"));
                }
            }
        }
        kept.insert(name);
    }
    for (kind, key) in old.keys().filter(|name| !kept.contains(*name)) {
        words.push(format!("{kind} {key} removed"));
    }
    words
}

#[cfg(test)]
#[path = "reading/tests.rs"]
mod tests;

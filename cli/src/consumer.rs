//! `meshwright consumer`: the keys of those who call an API from outside of the mesh.
//!
//! A key is a Secret that holds its hash ([`key`]); the compiler reads it (`compiler::consumer_key`),
//! the sidecars compare with it. What is made here is shown once, on standard output alone, so that it
//! can be piped to where it belongs; all else is said on standard error.

mod folder;
pub mod key;
mod names;
mod ring;
mod secret;
mod store;
pub mod time;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use k8s_openapi::jiff::Timestamp;

use self::folder::Folder;
use self::ring::{Made, Ring};
use self::store::Store;
use self::time::{Span, When};
use crate::sidecar::Cluster;
use crate::up::{plain, table::say};

/// Makes, replaces, ends and lists the API keys of consumers: Secrets that hold a key's hash, in a
/// cluster through kubectl, or in a folder.
#[derive(Clone, Debug, clap::Args)]
pub struct ConsumerArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do with keys.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Verb {
    /// Make the first key of a consumer, and show it, once.
    Create(CreateArgs),
    /// Make another key of a consumer and show it, once; those that it has end after an overlap.
    Rotate(RotateArgs),
    /// End a key of a consumer, or all of them.
    Revoke(RevokeArgs),
    /// Show who has which keys, and until when.
    List(ListArgs),
}

/// The first key of a consumer.
#[derive(Clone, Debug, clap::Args)]
pub struct CreateArgs {
    /// What the consumer is called: in rules, in the log, and to the application.
    #[arg(value_name = "NAME", value_parser = names::name)]
    pub name: String,
    /// The consumer's plan.
    #[arg(long, value_parser = names::name)]
    pub plan: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bounds: Bounds,
    /// A label of the Secret, for `consumerSelector`; may be given several times.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = names::label)]
    pub labels: Vec<(String, String)>,
    /// Write the Secret to this new file, and look at nothing else.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["folder", "context"])]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Another key of a consumer.
#[derive(Clone, Debug, clap::Args)]
pub struct RotateArgs {
    /// The consumer.
    #[arg(value_name = "NAME", value_parser = names::name)]
    pub name: String,
    /// How long the keys that are valid now are taken beside the new one, unless they end before.
    #[arg(long, value_name = "SPAN", default_value = "7d")]
    pub overlap: Span,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bounds: Bounds,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// The end of keys.
#[derive(Clone, Debug, clap::Args)]
pub struct RevokeArgs {
    /// The consumer.
    #[arg(value_name = "NAME", value_parser = names::name)]
    pub name: String,
    /// Only the key with this id: the characters between `mk_` and the next `_`.
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// Don't ask whether all keys are meant.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Who has which keys.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Only this consumer.
    #[arg(value_name = "NAME", value_parser = names::name)]
    pub name: Option<String>,
    /// `json` for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// When a new key is taken.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Bounds {
    /// From when on it is taken: RFC 3339, or a span from now; without it, at once.
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<When>,
    /// Until when: RFC 3339, or a span from now; without it, until it is revoked.
    #[arg(long, value_name = "TIME", conflicts_with = "expires_in")]
    pub expires: Option<When>,
    /// For how long from now, such as 90d.
    #[arg(long, value_name = "SPAN")]
    pub expires_in: Option<Span>,
}

/// Where keys are kept.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Place {
    /// In the files of this folder, and in no cluster.
    #[arg(long, value_name = "DIR", conflicts_with = "context")]
    pub folder: Option<PathBuf>,
    /// In the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// In this namespace: the one of the ApiRoutes that take the keys.
    #[arg(short, long, value_name = "NAME", value_parser = names::namespace)]
    pub namespace: Option<String>,
}

/// How keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Does it; returns the exit code.
///
/// # Errors
/// When it can't be done; what was done before is said.
pub fn run(args: &ConsumerArgs) -> anyhow::Result<i32> {
    let now = Timestamp::now().as_second();
    match &args.verb {
        Verb::Create(args) => {
            let bounds = args.bounds.settled(now)?;
            let plan = args.plan.as_deref();
            if let Some(file) = &args.output {
                let namespace = args.place.namespace.clone();
                let labels = ring::labels(&args.name, plan, &args.labels);
                let (key, new) = ring::new(namespace, labels, bounds)?;
                folder::write_new(file, &new.yaml())?;
                return shown(ring::made(key, &new, &file.display().to_string()));
            }
            let store = args.place.store()?;
            let ring = Ring::of(&*store, now);
            shown(ring.create(&args.name, plan, &args.labels, bounds)?)
        }
        Verb::Rotate(args) => {
            let bounds = args.bounds.settled(now)?;
            let store = args.place.store()?;
            let ring = Ring::of(&*store, now);
            shown(ring.rotate(&args.name, args.overlap, bounds)?)
        }
        Verb::Revoke(args) => {
            let store = args.place.store()?;
            let ring = Ring::of(&*store, now);
            let sure = |question: &str| args.yes || confirmed(question);
            for line in ring.revoke(&args.name, args.key.as_deref(), sure)? {
                tell(line);
            }
            Ok(unread(&*store))
        }
        Verb::List(args) => {
            let store = args.place.store()?;
            let rows = Ring::of(&*store, now).list(args.name.as_deref())?;
            match args.output {
                Output::Table => say(ring::table(&rows)),
                Output::Json => say(serde_json::to_string_pretty(&rows)?),
            }
            Ok(unread(&*store))
        }
    }
}

/// Shows a key, alone on standard output; returns the exit code.
fn shown(made: Made) -> anyhow::Result<i32> {
    for line in &made.told {
        tell(line);
    }
    let mut output = io::stdout().lock();
    let written = writeln!(output, "{}", made.key.reveal()).and_then(|()| output.flush());
    written.with_context(|| {
        format!(
            "the key could not be shown, and nobody has it: `meshwright consumer revoke {} --key {}` \
             deletes what is kept of it",
            made.consumer,
            made.key.id()
        )
    })?;
    made.failed.map_or(Ok(0), Err)
}

/// What of a place can't be read is said; the exit code.
fn unread(store: &dyn Store) -> i32 {
    let sentences = store.unread();
    for sentence in &sentences {
        tell(plain(sentence));
    }
    i32::from(!sentences.is_empty())
}

/// Says a line to whoever types. Where standard error is closed there is nobody.
fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether somebody at the terminal says yes.
fn confirmed(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let mut error = io::stderr().lock();
    let _ = write!(error, "{question} [y/N] ").and_then(|()| error.flush());
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

// === impl Bounds ===

impl Bounds {
    /// In seconds since 1970.
    ///
    /// # Errors
    /// When no moment is between them.
    fn settled(self, now: i64) -> anyhow::Result<secret::Taken> {
        let from = self.not_before.map(|when| when.seconds(now));
        let from = from.transpose().context("--not-before")?;
        let (option, expires) = match self.expires_in {
            Some(span) => ("--expires-in", Some(When::In(span))),
            None => ("--expires", self.expires),
        };
        let until = expires.map(|when| when.seconds(now));
        let until = until.transpose().context(option)?;
        if until.is_some_and(|until| until <= now) {
            bail!("{option}: that is past, and the key would never be taken: write a later one");
        }
        if let (Some(from), Some(until)) = (from, until)
            && until <= from
        {
            bail!("{option}: that is not after --not-before: write a later one");
        }
        Ok(secret::Taken {
            not_before: from,
            expires: until,
        })
    }
}

// === impl Place ===

impl Place {
    fn store(&self) -> anyhow::Result<Box<dyn Store>> {
        let namespace = self.namespace.as_deref();
        if let Some(folder) = &self.folder {
            return Ok(Box::new(Folder::open(Path::new(folder), namespace)?));
        }
        Ok(Box::new(Cluster {
            cluster: true,
            context: self.context.clone(),
            namespace: self.namespace.clone(),
        }))
    }
}

#[cfg(test)]
mod tests;

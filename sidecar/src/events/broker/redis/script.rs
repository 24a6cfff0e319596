//! The scripts that Redis runs for us: each does what it does at once, and looks at no more than it says.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::Cmd;

pub(super) static PUBLISH: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("publish.lua")));
pub(super) static CREATE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("create.lua")));
pub(super) static JOIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("join.lua")));
pub(super) static PULL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("pull.lua")));
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));
pub(super) static SETTLE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("settle.lua")));
pub(super) static FORGET: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("forget.lua")));
pub(super) static DISCARD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("discard.lua")));
pub(super) static LAG: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lag.lua")));

/// How many bytes the number of keys has at most.
const COUNT: usize = 20;

/// A script, and what Redis knows it by.
pub(super) struct Script {
    text: &'static str,
    digest: String,
}

// === impl Script ===

impl Script {
    fn new(text: &'static str) -> Self {
        // It is a name here: Redis computes it of what it runs.
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Self {
            text,
            digest: digest.collect(),
        }
    }

    /// To run it if it is known there.
    pub(super) fn by_digest(&self, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.digest, keys, arguments)
    }

    /// To run it, and have it known.
    pub(super) fn whole(&self, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        command("EVAL", self.text, keys, arguments)
    }
}

/// Has an entry of these fields and values held by a stream that is there.
pub(super) fn add(stream: &str, fields: &[&[u8]]) -> Cmd {
    let before = ["XADD", stream, "NOMKSTREAM", "*"];
    let bytes = before.iter().map(|part| part.len()).sum();
    let mut command = with_room(before.len(), bytes, fields);
    command.arg(&before);
    for field in fields {
        command.arg(field);
    }
    command
}

/// A command of so many arguments and bytes, and these.
fn with_room(count: usize, bytes: usize, arguments: &[&[u8]]) -> Cmd {
    // It grows otherwise, again and again.
    let lengths = arguments.iter().map(|argument| argument.len());
    Cmd::with_capacity(count + arguments.len(), bytes + lengths.sum::<usize>())
}

fn command(name: &str, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
    let lengths = keys.iter().map(|key| key.len());
    let bytes = name.len() + script.len() + COUNT + lengths.sum::<usize>();
    let mut command = with_room(3 + keys.len(), bytes, arguments);
    command.arg(name).arg(script).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    for argument in arguments {
        command.arg(argument);
    }
    command
}

//! What Redis answers.

use std::fmt;

use redis::{ErrorKind, RedisError, Value};

use super::link::Durability;

/// How long a reason of the broker's may be, in characters.
const REASON: usize = 200;
/// The codes that are told apart, or told: where a script failed, they stand in the middle of a
/// sentence before 7.0.
const CODES: [&str; 15] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOGROUP",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGTYPE",
];
/// Those of a broker that does nothing for now.
const FOR_NOW: [&str; 5] = ["BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN"];

/// What Redis says no with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Its first word.
    pub(super) code: String,
    said: String,
}

// === impl Refusal ===

impl Refusal {
    /// What it said, if it is an answer of the broker.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let code = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => error.code().unwrap_or_default(),
            _ => return None,
        };
        Some(Self::read(code, error.detail().unwrap_or_default()))
    }

    fn read(code: &str, said: &str) -> Self {
        // After that it says where in the script.
        let end = said.find(" script: ").or_else(|| said.find(", on @user"));
        let said = end.and_then(|end| said.get(..end)).unwrap_or(said);
        let words = said.split(|c: char| !c.is_ascii_uppercase());
        let within = words.into_iter().find(|word| CODES.contains(word));
        let code = match (code, within) {
            ("ERR" | "", Some(within)) => within,
            (code, _) => code,
        };
        let shown = |text: &str| {
            let shown = text.chars().filter(|c| !c.is_control());
            String::from_iter(shown.take(REASON))
        };
        Self {
            code: shown(code),
            said: shown(said),
        }
    }

    /// Whether it is no answer to what was asked: the same may be asked later, and was not done.
    pub(super) fn is_for_now(&self) -> bool {
        FOR_NOW.contains(&self.code.as_str())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.is_empty() || self.said.starts_with(&self.code) {
            true => f.write_str(&self.said),
            false => write!(f, "{} {}", self.code, self.said),
        }
    }
}

/// The bytes of an answer.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// The text of an answer.
pub(super) fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

/// The number of an answer, which a script may have as text.
pub(super) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// The parts of an answer.
pub(super) fn parts(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(parts) => Some(parts),
        _ => None,
    }
}

/// What is said by a name, in an answer that is names and what is said by them.
fn said<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let read = |value: &'a Value| match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text.as_str()),
        _ => None,
    };
    let mut pairs = parts.chunks_exact(2);
    let found = pairs.find(|pair| pair.first().and_then(read) == Some(name));
    found.and_then(|pair| pair.last()).and_then(read)
}

/// The version that a broker says, to `HELLO` or to `INFO`.
pub(super) fn version(answer: &Value) -> Option<String> {
    let found = match answer {
        Value::BulkString(info) => {
            let info = String::from_utf8_lossy(info);
            let found = info
                .lines()
                .find_map(|line| line.strip_prefix("redis_version:"));
            found.map(str::to_owned)
        }
        answer => said(answer, "version").map(str::to_owned),
    };
    let found = found.map(|version| {
        version
            .chars()
            .filter(char::is_ascii_graphic)
            .take(40)
            .collect()
    });
    found.filter(|version: &String| !version.is_empty())
}

/// What a broker says to `CONFIG GET`.
pub(super) fn durability(answer: &Value) -> Durability {
    match (said(answer, "appendonly"), said(answer, "appendfsync")) {
        (Some("no"), _) => Durability::None,
        (Some("yes"), Some("always")) => Durability::Always,
        (Some("yes"), Some(_)) => Durability::AtTimes,
        _ => Durability::Unknown,
    }
}

/// Whether it deletes what nobody has said may go, from what it says to `CONFIG GET`.
pub(super) fn evicts(answer: &Value) -> bool {
    let any = said(answer, "maxmemory-policy").is_some_and(|of| of.starts_with("allkeys"));
    any && said(answer, "maxmemory").is_some_and(|most| most != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_script_that_failed_is_that_of_what_failed() {
        for (code, said, found, shown) in [
            (
                "WRONGTYPE",
                "Operation against a key script: 3a, on @user_script:1.",
                "WRONGTYPE",
                "WRONGTYPE Operation against a key",
            ),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:1: WRONGTYPE Operation",
                "WRONGTYPE",
                "WRONGTYPE Error running script (call to f_1): @user_script:1: WRONGTYPE Operation",
            ),
            (
                "ERR",
                "The user's own OOMPH",
                "ERR",
                "ERR The user's own OOMPH",
            ),
            ("", "a\r\nb", "", "ab"),
        ] {
            let refusal = Refusal::read(code, said);
            assert_eq!((&*refusal.code, &*refusal.to_string()), (found, shown));
        }
        let long = Refusal::read("ERR", &"a".repeat(10_000));
        assert!(long.to_string().len() < 300);
    }

    #[test]
    fn what_a_broker_says_of_itself_is_read() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let hello = [
            bulk("server"),
            bulk("redis"),
            bulk("version"),
            bulk("7.0.15"),
        ];
        assert_eq!(version(&Value::Array(hello.to_vec())).unwrap(), "7.0.15");
        let info = bulk("# Server\r\nredis_version:5.0.7\r\n");
        assert_eq!(version(&info).unwrap(), "5.0.7");
        assert_eq!(version(&Value::Nil), None);
        let config = |only: &str, fsync: &str| {
            let said = [
                bulk("appendonly"),
                bulk(only),
                bulk("appendfsync"),
                bulk(fsync),
            ];
            durability(&Value::Array(said.to_vec()))
        };
        assert_eq!(config("no", "always"), Durability::None);
        assert_eq!(config("yes", "always"), Durability::Always);
        assert_eq!(config("yes", "everysec"), Durability::AtTimes);
        assert_eq!(durability(&Value::Array(Vec::new())), Durability::Unknown);
        let memory = |most: &str, policy: &str| {
            let said = ["maxmemory", most, "maxmemory-policy", policy].map(bulk);
            evicts(&Value::Array(said.to_vec()))
        };
        assert!(memory("1000", "allkeys-lru"));
        assert!(!memory("0", "allkeys-lru") && !memory("1000", "volatile-lru"));
        assert!(!evicts(&Value::Nil));
    }
}

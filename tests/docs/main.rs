//! What the documents say is so: their YAML is what the mesh takes, what they say to type are commands,
//! their links lead somewhere, and what they quote is really said.

mod commands;
mod links;
mod quotes;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

/// A file that people read.
struct Document {
    /// From the root, such as `docs/pods.md`.
    name: String,
    text: String,
}

/// What stands between two fences.
struct Block {
    /// The document and the line of what stands first in it.
    place: String,
    /// What stands behind the first fence, such as `yaml refused`.
    marked: String,
    text: String,
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the root").to_owned()
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of the files of a folder, from the root, in order.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| format!("{folder}/{}", name.to_string_lossy()))
        .collect();
    names.sort();
    names
}

/// Everything that is written for people: of the root, of `docs/` and of the examples.
fn documents() -> Vec<Document> {
    let mut all: Vec<String> = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    ]
    .iter()
    .map(|name| (*name).to_owned())
    .collect();
    all.push("SECURITY.md".to_owned());
    all.extend(
        names("docs")
            .into_iter()
            .filter(|name| name.ends_with(".md")),
    );
    let examples = names("examples").into_iter();
    let readmes = examples.map(|folder| format!("{folder}/README.md"));
    all.extend(readmes.filter(|name| root().join(name).exists()));
    assert!(all.len() > 30, "{all:?}");
    let read = |name: String| Document {
        text: read(&name),
        name,
    };
    all.into_iter().map(read).collect()
}

/// What stands between fences.
fn blocks(document: &Document) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in document.text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(marked), None) => {
                open = Some(Block {
                    place: format!("{}:{}", document.name, at + 2),
                    marked: marked.trim().to_owned(),
                    text: String::new(),
                });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence is left open", document.name);
    blocks
}

/// The lines that stand between no fences, each with its number.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            lines.push((at + 1, line));
        }
    }
    lines
}

/// What stands in backquotes, each with the number of its line: one pair or two, over line ends too.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let mut spans = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in prose(text) {
        let mut rest = line;
        // A span does not go on into another paragraph, or into another line of a table.
        if line.trim().is_empty() || line.starts_with('|') {
            open = None;
        }
        while let Some(at) = rest.find('`') {
            let (before, from) = rest.split_at(at);
            let ticks = from.len() - from.trim_start_matches('`').len();
            rest = &from[ticks..];
            match open.take() {
                None => open = Some((number, ticks, String::new())),
                Some((began, opened, text)) if opened == ticks => {
                    spans.push((began, format!("{text}{before}").trim().to_owned()));
                }
                Some((began, opened, text)) => {
                    let text = format!("{text}{before}{}", "`".repeat(ticks));
                    open = Some((began, opened, text));
                }
            }
        }
        if let Some((_, _, text)) = open.as_mut() {
            text.push_str(rest.trim());
            text.push(' ');
        }
    }
    spans
}

#[test]
fn blocks_lines_and_what_is_quoted_are_found() {
    let text = "a `b` and ``c ` d``\n```sh\n$ `no`\n```\n| `x\\|y` | `z` |\nlong `e\nf` g\n";
    let spans = quoted(text)
        .into_iter()
        .map(|(line, span)| format!("{line} {span}"));
    assert_eq!(
        Vec::from_iter(spans),
        ["1 b", "1 c ` d", "5 x\\|y", "5 z", "6 e f"]
    );
    let document = Document {
        name: "a.md".to_owned(),
        text: text.to_owned(),
    };
    let [block] = &blocks(&document)[..] else {
        panic!("one block");
    };
    assert_eq!((&*block.place, &*block.marked), ("a.md:3", "sh"));
    assert_eq!(block.text, "$ `no`\n");
    assert_eq!(prose(text).len(), 4);
}

//! Links within the repository: to files that are there, and to headings that these have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::{documents, names, prose, read, root};

/// What stands in a document's headings, as they are linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug = slug(heading.trim());
        let again = seen.entry(slug.clone()).or_default();
        anchors.insert(match *again {
            0 => slug,
            n => format!("{slug}-{n}"),
        });
        *again += 1;
    }
    anchors
}

/// As GitHub makes it of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

/// Where the links of a text lead, each with the number of its line. What stands in backquotes is none.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let outside = line.split('`').step_by(2);
        let outside = Vec::from_iter(outside).join("`");
        let targets = outside.split("](").skip(1);
        let targets = targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
        links.extend(targets.map(|target| (number, target)));
    }
    links
}

/// A path without `.` and `..`.
fn settled(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let (mut followed, mut problems) = (0, Vec::new());
    for document in documents() {
        let folder = Path::new(&document.name).parent().expect("a folder");
        for (line, link) in links(&document.text) {
            if link.starts_with("http") {
                continue;
            }
            let place = format!("{}:{line}: {link}", document.name);
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let file = match file {
                "" => document.name.clone(),
                file => settled(&folder.join(file)),
            };
            if !root().join(&file).exists() {
                problems.push(format!("{place}: there is no {file}"));
            } else if !anchor.is_empty() && !anchors(&read(&file)).contains(anchor) {
                problems.push(format!("{place}: {file} has no such heading"));
            }
            followed += 1;
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(followed > 150, "only {followed} links were followed");
}

#[test]
fn the_index_leads_to_every_document() {
    let index = read("docs/README.md");
    let linked: BTreeSet<String> = links(&index).into_iter().map(|(_, link)| link).collect();
    for name in names("docs") {
        let name = name.trim_start_matches("docs/");
        if name != "README.md" && name.ends_with(".md") {
            assert!(
                linked.contains(name),
                "docs/README.md does not lead to {name}"
            );
        }
    }
    let readme = read("README.md");
    assert!(
        readme.contains("](docs/README.md)"),
        "README.md does not lead to the index"
    );
}

#[test]
fn headings_are_linked_to_as_their_reader_makes_it_of_them() {
    let text = "# A thing\n## Files: `meshwright inject`\n## Twice\n## Twice\n```sh\n# no\n```\n";
    let expected = ["a-thing", "files-meshwright-inject", "twice", "twice-1"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
    assert_eq!(settled(Path::new("docs/../examples/./tcp")), "examples/tcp");
}

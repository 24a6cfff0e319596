//! What is told of a cluster: what is wrong, and what isn't but has to be known. Each finding ends with the
//! page of the documentation that says more.

use std::fmt::{self, Display};

use crate::up::{plain, table::say};

/// Where the pages are, from the top of a checkout.
const FOLDER: &str = "docs/";

/// A page of the documentation, and a heading in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page(&'static str);

/// Findings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    wrong: Vec<String>,
    notes: Vec<String>,
}

// === impl Page ===

impl Page {
    pub(super) const ACCEPTED: Self = Self("troubleshooting.md#an-object-is-not-accepted");
    pub(super) const ADVICE: Self = Self("webhooks.md#what-is-refused-and-what-is-only-told");
    pub(super) const CERTIFICATES: Self = Self("certificates.md#what-tells-in-time");
    pub(super) const INSTALLING: Self = Self("install.md#into-a-cluster-and-out-of-it");
    pub(super) const OPERATOR: Self = Self("troubleshooting.md#the-operator-is-away");
    pub(super) const PLAINTEXT: Self = Self("troubleshooting.md#plaintext-is-refused");
    pub(super) const PROGRAMMED: Self =
        Self("troubleshooting.md#programmed-stays-below-what-it-should-be");
    pub(super) const RIGHTS: Self = Self("cli.md#which-mesh-which-workload");
    pub(super) const SIDECAR: Self = Self("troubleshooting.md#a-pod-doesnt-become-ready");
    pub(super) const STALLS: Self = Self("troubleshooting.md#connections-are-closed");
    pub(super) const STORED: Self = Self("troubleshooting.md#an-edit-has-no-effect");
    pub(super) const UNINSTALLED: Self = Self("install.md#uninstalling");
    pub(super) const UNMESHED: Self = Self("troubleshooting.md#a-pod-has-no-sidecar");
    pub(super) const UPGRADE: Self = Self("upgrade.md#1-operator-and-definitions");
    pub(super) const UPGRADE_SIDECARS: Self = Self("upgrade.md#2-sidecars");
    pub(super) const WEBHOOKS: Self = Self("webhooks.md#what-the-api-server-asks-the-operator");
    pub(super) const WITHOUT_OPERATOR: Self = Self("webhooks.md#when-there-is-no-operator");
}

impl Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FOLDER}{}", self.0)
    }
}

// === impl Told ===

impl Told {
    /// What is wrong, in a sentence with its remedy.
    pub(super) fn wrong(&mut self, page: Page, sentence: impl Display) {
        self.wrong.push(format!("{sentence} ({page})"));
    }

    /// What is not wrong, but has to be known.
    pub(super) fn note(&mut self, page: Page, sentence: impl Display) {
        self.notes.push(format!("{sentence} ({page})"));
    }

    /// What somebody else has found.
    pub(super) fn add(&mut self, other: Self) {
        self.wrong.extend(other.wrong);
        self.notes.extend(other.notes);
    }

    pub(super) fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Says it, what is wrong first.
    pub(super) fn say(&self) {
        for line in self.wrong.iter().chain(&self.notes) {
            say(plain(line));
        }
    }

    /// What is wrong, and what is not.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (Vec<&str>, Vec<&str>) {
        (
            self.wrong.iter().map(String::as_str).collect(),
            self.notes.iter().map(String::as_str).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use regex::Regex;

    use super::*;

    /// The headings of a page, as they are linked to.
    fn anchors(text: &str) -> Vec<String> {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let kept = headings.map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
                _ => None,
            });
            kept.collect()
        });
        kept.collect()
    }

    #[test]
    fn every_page_that_a_finding_leads_to_is_there_and_has_the_heading() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(FOLDER);
        // All that stand in this file, whoever names them.
        let page = Regex::new(r#"Self\("([a-z-]+\.md)#([^"]+)"\)"#).unwrap();
        let mut seen = 0;
        for found in page.captures_iter(include_str!("told.rs")) {
            let text = fs::read_to_string(docs.join(&found[1])).unwrap();
            let anchors = anchors(&text);
            assert!(anchors.iter().any(|one| *one == found[2]), "{}", &found[0]);
            seen += 1;
        }
        let consts = include_str!("told.rs").matches(": Self =").count();
        assert!(seen == consts - 1 && seen > 10, "{seen} of {consts}");
    }

    #[test]
    fn each_finding_ends_with_its_page_and_what_is_wrong_comes_first() {
        let mut told = Told::default();
        told.note(Page::RIGHTS, "so it is");
        assert!(!told.is_wrong());
        let mut other = Told::default();
        other.wrong(Page::UPGRADE_SIDECARS, "it is too old: restart it");
        told.add(other);
        assert!(told.is_wrong());
        let (wrong, notes) = told.parts();
        assert_eq!(
            wrong,
            ["it is too old: restart it (docs/upgrade.md#2-sidecars)"]
        );
        assert_eq!(notes, ["so it is (docs/cli.md#which-mesh-which-workload)"]);
    }
}

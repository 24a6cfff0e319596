//! What is told of a cluster: what is wrong, and what isn't but has to be known. Each finding says what is so,
//! what helps, and which page of the documentation says more.

use std::fmt::{self, Display};

use crate::up::{plain, table::say};

/// Where the pages are, from the top of a checkout.
const FOLDER: &str = "docs/";

/// A page of the documentation, and a heading in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page(&'static str);

/// What helps against what is so, or lets it be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remedy(String);

/// What is so, what helps, and where more is said.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    what: String,
    remedy: Remedy,
    page: Page,
}

/// Findings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    wrong: Vec<Finding>,
    notes: Vec<Finding>,
}

/// A [`Remedy`], written as for `format!`.
macro_rules! remedy {
    ($($words:tt)+) => {
        $crate::check::told::Remedy::new(::std::format_args!($($words)+))
    };
}
pub(super) use remedy;

// === impl Page ===

impl Page {
    pub(super) const ACCEPTED: Self = Self("troubleshooting.md#an-object-is-not-accepted");
    pub(super) const ADVICE: Self = Self("webhooks.md#what-is-refused-and-what-is-only-told");
    pub(super) const CERTIFICATES: Self = Self("certificates.md#what-tells-in-time");
    pub(super) const INSTALLING: Self = Self("install.md#into-a-cluster-and-out-of-it");
    pub(super) const OPERATOR: Self = Self("troubleshooting.md#the-operator-is-away");
    pub(super) const PLAINTEXT: Self = Self("troubleshooting.md#plaintext-is-refused");
    pub(super) const PLUGIN: Self = Self("pod-security.md#installing-the-plugin");
    pub(super) const PROGRAMMED: Self =
        Self("troubleshooting.md#programmed-stays-below-what-it-should-be");
    pub(super) const READY: Self = Self("troubleshooting.md#events-are-not-delivered");
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

// === impl Remedy ===

impl Remedy {
    pub(super) fn new(words: impl Display) -> Self {
        Self(words.to_string())
    }
}

impl Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Finding ===

impl Finding {
    fn new(page: Page, what: impl Display, remedy: Remedy) -> Self {
        Self {
            what: what.to_string(),
            remedy,
            page,
        }
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, remedy, page } = self;
        write!(f, "{what}: {remedy} ({page})")
    }
}

// === impl Told ===

impl Told {
    /// What is wrong, and what puts it right.
    pub(super) fn wrong(&mut self, page: Page, what: impl Display, remedy: Remedy) {
        self.wrong.push(Finding::new(page, what, remedy));
    }

    /// What is not wrong, but has to be known, and what can be done about it.
    pub(super) fn note(&mut self, page: Page, what: impl Display, remedy: Remedy) {
        self.notes.push(Finding::new(page, what, remedy));
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
        for finding in self.wrong.iter().chain(&self.notes) {
            say(plain(&finding.to_string()));
        }
    }

    /// What is wrong, and what is not.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (Vec<String>, Vec<String>) {
        let said = |findings: &[Finding]| findings.iter().map(ToString::to_string).collect();
        (said(&self.wrong), said(&self.notes))
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
    fn each_finding_ends_with_its_remedy_and_its_page_and_what_is_wrong_comes_first() {
        let mut told = Told::default();
        told.note(Page::RIGHTS, "so it is", remedy!("ask for the right"));
        assert!(!told.is_wrong());
        let mut other = Told::default();
        let what = format_args!("{} is too old", "it");
        other.wrong(Page::UPGRADE_SIDECARS, what, remedy!("restart {}", "it"));
        told.add(other);
        assert!(told.is_wrong());
        let (wrong, notes) = told.parts();
        assert_eq!(
            wrong,
            ["it is too old: restart it (docs/upgrade.md#2-sidecars)"]
        );
        assert_eq!(
            notes,
            ["so it is: ask for the right (docs/cli.md#which-mesh-which-workload)"]
        );
    }
}

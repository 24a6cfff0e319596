//! Sidecars of another version than the operator's, counted, with what makes their pods anew.

use std::collections::{BTreeMap, BTreeSet};

use super::told::{Page, Told, remedy};
use crate::install::cluster::some;
use crate::install::version::{Step, Version};

/// The sidecar of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sidecar {
    pub(super) namespace: String,
    /// Of which version it is, as its image's tag says, or it itself.
    pub(super) version: Option<String>,
    pub(super) image: String,
}

/// What is to be said of the versions of sidecars. Of `operators`, which have several only while one takes
/// another's place, nothing is known when one namespace is looked at: then they are compared with each
/// other.
pub(super) fn findings(sidecars: &[Sidecar], operators: &BTreeSet<String>) -> Told {
    let mut told = Told::default();
    let mut counted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for sidecar in sidecars {
        if let Some(version) = &sidecar.version {
            let namespaces = counted.entry(version).or_default();
            namespaces.push(&sidecar.namespace);
        }
    }
    // The newest, if an upgrade is under way.
    let newest = operators
        .iter()
        .max_by_key(|version| Version::read(version));
    match newest {
        Some(newest) => {
            counted.retain(|version, _| !operators.contains(*version));
            for (version, namespaces) in &counted {
                compared(version, newest, namespaces, &mut told);
            }
        }
        None if counted.len() > 1 => {
            let versions = counted
                .iter()
                .map(|(version, of)| format!("{} of {version}", of.len()));
            let all = counted.values().flatten().copied();
            told.note(
                Page::UPGRADE_SIDECARS,
                format_args!("sidecars are of several versions ({})", some(versions)),
                remedy!("{} gives all of them the operator's", restarts(all)),
            );
        }
        None => {}
    }
    let unknown: Vec<_> = sidecars
        .iter()
        .filter(|one| one.version.is_none())
        .collect();
    if !unknown.is_empty() {
        let images: BTreeSet<_> = unknown.iter().map(|one| one.image.clone()).collect();
        told.note(
            Page::UPGRADE_SIDECARS,
            format_args!(
                "the version of {} can't be told by the image ({}), and is compared with nothing",
                sidecars_in_words(unknown.len()),
                some(images.into_iter())
            ),
            remedy!("`meshwright config POD` has it"),
        );
    }
    told
}

fn compared(version: &str, operator: &str, namespaces: &[&str], told: &mut Told) {
    let which = sidecars_in_words(namespaces.len());
    let are = if namespaces.len() == 1 { "is" } else { "are" };
    let restarts = restarts(namespaces.iter().copied());
    let remedy = remedy!("{restarts} gives them the operator's");
    let what = format!("{which} {are} of version {version}, and the operator of {operator}");
    if are_too_far(version, operator) {
        let what = format_args!(
            "{what}: more than two minor versions apart they are not meant to work together"
        );
        told.wrong(Page::UPGRADE_SIDECARS, what, remedy);
    } else {
        told.note(Page::UPGRADE_SIDECARS, what, remedy);
    }
}

fn are_too_far(one: &str, other: &str) -> bool {
    let (Some(one), Some(other)) = (Version::read(one), Version::read(other)) else {
        return false;
    };
    matches!(one.min(other).step(one.max(other)), Step::TooFar(_))
}

fn sidecars_in_words(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} sidecar{plural}")
}

/// What makes the pods of namespaces anew.
fn restarts<'a>(namespaces: impl Iterator<Item = &'a str>) -> String {
    let namespaces: BTreeSet<_> = namespaces.collect();
    some(namespaces.into_iter().map(|namespace| {
        format!("`kubectl rollout restart deployment,statefulset,daemonset -n {namespace}`")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(namespace: &str, version: Option<&str>) -> Sidecar {
        Sidecar {
            namespace: namespace.to_owned(),
            version: version.map(str::to_owned),
            image: "a/sidecar:next".to_owned(),
        }
    }

    fn said(sidecars: &[(&str, &str)], operators: &[&str]) -> Told {
        let sidecars: Vec<_> = sidecars
            .iter()
            .map(|(namespace, version)| sidecar(namespace, Some(version)))
            .collect();
        let operators = operators.iter().map(|one| (*one).to_owned()).collect();
        findings(&sidecars, &operators)
    }

    #[test]
    fn sidecars_of_another_version_are_counted_by_it_with_what_restarts_each_namespace() {
        assert_eq!(said(&[("shop", "0.3.0")], &["0.3.0"]), Told::default());
        let all = [
            ("shop", "0.2.0"),
            ("shop", "0.2.0"),
            ("pay", "0.2.0"),
            ("pay", "0.3.0"),
            ("pay", "0.3.1"),
        ];
        let told = said(&all, &["0.3.0"]);
        let (wrong, notes) = told.parts();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(
            notes,
            [
                "3 sidecars are of version 0.2.0, and the operator of 0.3.0: `kubectl rollout restart \
                 deployment,statefulset,daemonset -n pay`, `kubectl rollout restart deployment,statefulset,daemonset \
                 -n shop` gives them the operator's (docs/upgrade.md#2-sidecars)",
                "1 sidecar is of version 0.3.1, and the operator of 0.3.0: `kubectl rollout restart \
                 deployment,statefulset,daemonset -n pay` gives them the operator's (docs/upgrade.md#2-sidecars)",
            ]
        );
    }

    #[test]
    fn more_than_two_minor_versions_either_way_are_wrong() {
        for (sidecar, operator, is_wrong) in [
            ("0.1.0", "0.3.0", false),
            ("0.1.0", "0.4.0", true),
            ("0.4.0", "0.1.0", true),
            ("0.3.9", "0.1.0", false),
            ("0.9.0", "1.0.0", false),
            ("0.9.0", "1.1.0", true),
        ] {
            let told = said(&[("shop", sidecar)], &[operator]);
            assert_eq!(told.is_wrong(), is_wrong, "{sidecar} {operator}: {told:?}");
            assert_ne!(told, Told::default());
        }
    }

    #[test]
    fn while_the_operator_is_upgraded_sidecars_of_either_version_are_right() {
        let told = said(
            &[("shop", "0.2.0"), ("shop", "0.10.0")],
            &["0.2.0", "0.10.0"],
        );
        assert_eq!(told, Told::default());
        // And others are compared with the newest, as a number and not as a word.
        let told = said(&[("shop", "0.7.0")], &["0.9.0", "0.10.0"]);
        assert!(told.is_wrong(), "{told:?}");
    }

    #[test]
    fn of_one_namespace_sidecars_are_compared_with_each_other() {
        assert_eq!(said(&[("shop", "0.2.0")], &[]), Told::default());
        let told = said(&[("shop", "0.2.0"), ("shop", "0.3.0")], &[]);
        let (wrong, notes) = told.parts();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(
            notes[0]
                .starts_with("sidecars are of several versions (1 of 0.2.0, 1 of 0.3.0): `kubectl"),
            "{notes:?}"
        );
    }

    #[test]
    fn a_tag_that_is_no_version_is_told_and_compared_with_nothing() {
        let sidecars = [sidecar("shop", None), sidecar("shop", Some("0.1.0"))];
        let told = findings(&sidecars, &BTreeSet::from(["0.1.0".to_owned()]));
        let (wrong, notes) = told.parts();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].starts_with(
                "the version of 1 sidecar can't be told by the image (a/sidecar:next)"
            ),
            "{notes:?}"
        );
    }
}

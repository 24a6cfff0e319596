//! What is told of the certificate authority: to people, to `meshwright certificates` and `check`.
//! No key is part of it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Current;
use super::authority::{parse, validity};
use super::line::Line;
use super::provided::rfc3339;
use super::rotation::{Authorities, Stage};

/// How the authority is, as `GET /certificates` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The operator's clock, RFC 3339 as all times here.
    pub now: String,
    /// Where certificates come from: `Meshwright`, or the Secret that provides them.
    pub authority: String,
    /// `settled`, `announced` or `retiring`.
    pub stage: String,
    /// What that means, as a sentence.
    pub message: String,
    /// When the stage ends at the soonest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// When it ends although sidecars have not acknowledged the next root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// Sidecars connected to this replica that have not acknowledged the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,
    /// The request for a rotation that was carried out last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Why what is wished for can't be done, or the keys not be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What is trusted and what signs.
    pub certificates: Vec<Certificate>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// `root` or `intermediate`.
    pub kind: String,
    /// `signs`, `next` or `previous`.
    pub part: String,
    /// Its subject.
    pub subject: String,
    /// Of its DER: SHA-256, in hexadecimal digits.
    pub fingerprint: String,
    /// From when it is valid.
    pub begins: String,
    /// When it ends.
    pub ends: String,
}

// === impl Report ===

impl Report {
    pub(super) fn of(current: &Current, authority: String, now: SystemTime) -> Report {
        let authorities = &current.authorities;
        let (stage, message, until) = match &authorities.stage {
            Stage::Settled(_) => ("settled", "one root is trusted, and signs", None),
            Stage::Announced { since, .. } => (
                "announced",
                "the next root is trusted, and signs when everybody has heard of it",
                Some(*since),
            ),
            Stage::Retiring { since, .. } => (
                "retiring",
                "the next root signs, and the previous one is trusted until its last leaf has ended",
                Some(*since),
            ),
        };
        let until = until.map(|since| authorities.passed(since, current.margin));
        let latest = match &authorities.stage {
            Stage::Announced { since, .. } => Some(authorities.held_until(*since, current.margin)),
            Stage::Settled(_) | Stage::Retiring { .. } => None,
        };
        // Once it signs, who still lacks it is told of where there is anybody.
        let waiting = current.lagging.filter(|lagging| match &authorities.stage {
            Stage::Settled(_) => false,
            Stage::Announced { .. } => true,
            Stage::Retiring { .. } => *lagging > 0,
        });
        Report {
            now: rfc3339(now),
            authority,
            stage: stage.to_owned(),
            message: message.to_owned(),
            until: until.map(rfc3339),
            latest: latest.map(rfc3339),
            waiting,
            request: authorities.request.clone(),
            problem: current.problem.clone(),
            certificates: certificates(authorities),
        }
    }
}

/// The lines with their parts in the rotation.
pub(super) fn parts(authorities: &Authorities) -> Vec<(&'static str, &Line)> {
    match &authorities.stage {
        Stage::Settled(current) => vec![("signs", current)],
        Stage::Announced { current, next, .. } => vec![("signs", current), ("next", next)],
        Stage::Retiring {
            previous, current, ..
        } => vec![("signs", current), ("previous", previous)],
    }
}

fn certificates(authorities: &Authorities) -> Vec<Certificate> {
    let mut all = Vec::new();
    for (part, line) in parts(authorities) {
        let roots = line.roots.iter().map(|root| ("root", root));
        let between = line.between.iter().map(|one| ("intermediate", one));
        for (kind, der) in roots.chain(between) {
            let Ok(parsed) = parse(der) else { continue };
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
            let fingerprint = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
            let subject = parsed.subject().to_string();
            // Whoever made it chose it, and it is shown on terminals.
            let subject = subject.chars().filter(|c| !c.is_control()).take(256);
            let (begins, ends) = validity(&parsed);
            all.push(Certificate {
                kind: kind.to_owned(),
                part: part.to_owned(),
                subject: subject.collect(),
                fingerprint: fingerprint.collect(),
                begins: rfc3339(begins),
                ends: rfc3339(ends),
            });
        }
    }
    all
}

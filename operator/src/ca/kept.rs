//! How the authority is written down: JSON, with certificates and keys in PEM.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::authority::{Authority, pem_block};
use super::line::Line;
use super::rotation::{Authorities, MAX_HOLDS, MAX_PROOFS, Stage};
use super::{Error, LEAF_LIFE, micros};

/// The form that is written. A form that is not known is left alone.
const FORM: u32 = 1;
/// The most that is parsed of a form that was written before there were steps.
const MAX_SECTIONS: usize = 128;
/// The most roots of a line.
pub(super) const MAX_ROOTS: usize = 16;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    form: u32,
    stage: Name,
    /// Microseconds since 1970, as all times here.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    revision: u64,
    leaf_life_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    longer_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    holds: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    proofs: Vec<String>,
    /// The older one first.
    lines: Vec<WrittenLine>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Name {
    Settled,
    Announced,
    Retiring,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLine {
    roots: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_key: Option<String>,
    signer: String,
    signer_key: String,
    between: Vec<String>,
}

// === impl Authorities ===

impl Authorities {
    /// Everything, keys included.
    pub(super) fn to_text(&self) -> String {
        let (stage, since, lines) = match &self.stage {
            Stage::Settled(current) => (Name::Settled, None, vec![current]),
            Stage::Announced {
                current,
                next,
                since,
            } => (Name::Announced, Some(since), vec![current, next]),
            Stage::Retiring {
                previous,
                current,
                since,
            } => (Name::Retiring, Some(since), vec![previous, current]),
        };
        let holds = self.holds.iter();
        let written = Written {
            form: FORM,
            stage,
            since: since.copied().map(micros),
            revision: self.revision,
            leaf_life_seconds: self.leaf_life.as_secs(),
            longer_until: self.longer_until.map(micros),
            request: self.request.clone(),
            holds: holds
                .map(|(replica, until)| (replica.clone(), micros(*until)))
                .collect(),
            proofs: pem_of(&self.proofs),
            lines: lines.into_iter().map(|line| line.written()).collect(),
        };
        // Strings, numbers and lists of them: there is nothing that JSON can't say.
        serde_json::to_string_pretty(&written).unwrap_or_default()
    }

    /// What [`Authorities::to_text`] wrote, or an operator that knew of no steps.
    ///
    /// # Errors
    /// When it is something else. What is said shows nothing of it.
    pub(super) fn from_text(text: &str) -> Result<Authorities, Error> {
        if !text.trim_start().starts_with('{') {
            return from_pem(text);
        }
        let unusable = |what: &str| Error::Unusable(what.to_owned());
        // What serde says may quote what it read.
        let written: Written = serde_json::from_str(text)
            .map_err(|error| unusable(&format!("line {} is no such JSON", error.line())))?;
        if written.form != FORM {
            return Err(unusable("it is of a form that a newer operator writes"));
        }
        if written.holds.len() > MAX_HOLDS || written.proofs.len() > MAX_PROOFS {
            return Err(unusable("it has too many entries"));
        }
        let lines = written.lines.iter().map(WrittenLine::read);
        let mut lines = lines.collect::<Result<Vec<_>, _>>()?.into_iter();
        let lines = (lines.next(), lines.next(), lines.next());
        let stage = match (written.stage, written.since.map(at), lines) {
            (Name::Settled, _, (Some(current), None, None)) => Stage::Settled(current),
            (Name::Announced, Some(since), (Some(current), Some(next), None)) => Stage::Announced {
                current,
                next,
                since,
            },
            (Name::Retiring, Some(since), (Some(previous), Some(current), None)) => {
                Stage::Retiring {
                    previous,
                    current,
                    since,
                }
            }
            _ => return Err(unusable("its stage and its lines don't fit")),
        };
        let holds = written.holds.into_iter();
        Ok(Authorities {
            stage,
            revision: written.revision,
            leaf_life: Duration::from_secs(written.leaf_life_seconds),
            longer_until: written.longer_until.map(at),
            proofs: certificates(&written.proofs)?,
            request: written.request,
            holds: holds.map(|(replica, until)| (replica, at(until))).collect(),
        })
    }

    /// The trust bundle's certificates alone: no secret.
    pub(super) fn roots_pem(&self) -> String {
        self.bundle().to_pem()
    }
}

// === impl Line ===

impl Line {
    fn written(&self) -> WrittenLine {
        WrittenLine {
            roots: pem_of(&self.roots),
            root_key: self.own.as_ref().map(|root| key_pem(&root.key_der)),
            signer: pem_block("CERTIFICATE", &self.signer.certificate),
            signer_key: key_pem(&self.signer.key_der),
            between: pem_of(&self.between),
        }
    }
}

// === impl WrittenLine ===

impl WrittenLine {
    fn read(&self) -> Result<Arc<Line>, Error> {
        let roots = certificates(&self.roots)?;
        let between = certificates(&self.between)?;
        let (Some(first), true) = (roots.first(), roots.len() + between.len() <= 2 * MAX_ROOTS)
        else {
            return Err(Error::Unusable("a line without a root".into()));
        };
        let own = self.root_key.as_ref().map(|key| authority(first, key));
        let signer = authority(&certificate(&self.signer)?, &self.signer_key)?;
        Ok(Arc::new(Line {
            own: own.transpose()?.map(Arc::new),
            roots,
            signer: Arc::new(signer),
            between,
        }))
    }
}

fn authority(certificate: &CertificateDer<'_>, key: &str) -> Result<Authority, Error> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| Error::Unusable("a private key that is no PEM".into()))?;
    Authority::new(certificate, key)
}

fn certificates(pem: &[String]) -> Result<Vec<CertificateDer<'static>>, Error> {
    pem.iter().map(|pem| certificate(pem)).collect()
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| Error::Unusable("a certificate that is no PEM".into()))
}

fn pem_of(certificates: &[CertificateDer<'static>]) -> Vec<String> {
    let all = certificates.iter();
    all.map(|one| pem_block("CERTIFICATE", one)).collect()
}

fn key_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    pem_block(label, key.secret_der())
}

fn at(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

/// The form of old: each certificate followed by its key, roots first, the intermediate last.
fn from_pem(text: &str) -> Result<Authorities, Error> {
    let unusable = |what: &str| Error::Unusable(what.to_owned());
    let mut sections = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        sections.push(section.map_err(|_| unusable("it is no PEM"))?);
        if sections.len() > MAX_SECTIONS {
            return Err(unusable("too many certificates"));
        }
    }
    let (mut roots, mut intermediate) = (Vec::new(), None);
    for pair in sections.chunks(2) {
        let [
            (SectionKind::Certificate, certificate),
            (SectionKind::PrivateKey, key),
        ] = pair
        else {
            return Err(unusable(
                "each certificate must be followed by its private key (PKCS #8)",
            ));
        };
        let key = PrivatePkcs8KeyDer::from(key.clone());
        let one = Arc::new(Authority::new(certificate, key.into())?);
        match one.signed_by(&one.certificate) {
            true => roots.push(one),
            false => intermediate = Some(one),
        }
    }
    let intermediate = intermediate.ok_or_else(|| unusable("there is no intermediate"))?;
    roots.sort_by_key(|root| root.valid);
    let newest = roots.last().cloned();
    let newest = newest.ok_or_else(|| unusable("there is no root"))?;
    let signing = roots
        .iter()
        .find(|root| intermediate.signed_by(&root.certificate));
    let signing = signing.ok_or_else(|| unusable("the intermediate is of no root"))?;
    let since = intermediate.valid.0;
    let current = Arc::new(Line::of_own(signing.clone(), intermediate.clone()));
    let before = roots.iter().rev().find(|root| root.valid < signing.valid);
    let stage = match before {
        // It waited for half a year.
        _ if newest.valid != signing.valid => Stage::Announced {
            next: Arc::new(Line::below(newest.clone(), newest.valid.0)?),
            since: newest.valid.0,
            current,
        },
        Some(before) => Stage::Retiring {
            previous: Arc::new(Line::below(before.clone(), before.valid.0)?),
            since,
            current,
        },
        None => Stage::Settled(current),
    };
    let changes = roots.iter().map(|root| micros(root.valid.0));
    Ok(Authorities {
        stage,
        revision: changes.max().unwrap_or(0),
        leaf_life: LEAF_LIFE,
        longer_until: None,
        proofs: Vec::new(),
        request: None,
        holds: BTreeMap::new(),
    })
}

//! Access: from what an ApiRoute says of who may enter to `mesh::Access` and `mesh::Keys`.
//!
//! Unlike what says where calls go, it holds as long as the object is there: an object that an older
//! one stands in the way of, or whose backends are wrong, guards its Services all the same, and where
//! what it says of access can't be understood, nobody may enter. Otherwise a mistake in an edit would
//! open what the edit before had closed.

use std::collections::{BTreeMap, BTreeSet};

use crds::status::Reason;
use crds::{ApiRouteSpec, Auth, CredentialPlace, Jwks, Require, TokenSource};
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use wire::{capability, mesh};

use crate::api_route::Refusal;
use crate::host;
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings, Unreadable};
use crate::own_pods;

mod authorization;
pub(crate) mod keys;

/// What is known when it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a ApiRouteSpec,
    pub(crate) consumers: &'a Objects<Secret>,
    pub(crate) credentials: &'a Objects<Secret>,
    pub(crate) unreadable: &'a BTreeMap<String, Unreadable>,
    pub(crate) settings: &'a Settings,
}

/// The header that a bearer token stands in (RFC 6750 section 2.1).
const AUTHORIZATION: &str = "authorization";

// === impl Reader ===

impl Reader<'_> {
    /// Whether it says anything of who may enter.
    pub(crate) fn is_there(&self) -> bool {
        self.spec.auth.is_some() || self.spec.authorization.is_some()
    }

    /// Whether credentials are compared with Secrets.
    pub(crate) fn has_keys(&self) -> bool {
        let auth = self.spec.auth.as_ref();
        auth.is_some_and(|auth| auth.api_key.is_some() || auth.introspection.is_some())
    }

    /// The Services at whose pods it holds, given those of the hosts: these, and those that its rules
    /// send to. Others' Services are not its to close.
    pub(crate) fn services(&self, hosts: &[ObjectKey]) -> BTreeSet<ObjectKey> {
        if !self.is_there() {
            return BTreeSet::new();
        }
        // Copies are sent there without any backend being asked whether they may.
        let mirrors = self.spec.rules.iter().flat_map(|rule| &rule.mirror);
        let mirrors = mirrors.map(|mirror| {
            let to = &mirror.backend_ref;
            let namespace = to.namespace.as_deref();
            ObjectKey::new(namespace.unwrap_or(&self.key.namespace), &*to.name)
        });
        let mirrors = mirrors.filter(|service| service.namespace == self.key.namespace);
        let mut all = own_pods::services(self.key, self.spec, hosts);
        all.extend(mirrors);
        all
    }

    /// Why it can't be enforced, or is not understood.
    pub(crate) fn problems(&self, hosts: &[ObjectKey]) -> Vec<Refusal> {
        if !self.is_there() {
            return Vec::new();
        }
        let mut problems = self.misplaced(hosts);
        problems.extend(self.unreadable().into_iter().map(invalid));
        problems
    }

    /// Whether it can't be understood: then nobody may enter.
    pub(crate) fn is_closed(&self) -> bool {
        !self.unreadable().is_empty()
    }

    /// What no sidecar of its own namespace could enforce.
    fn misplaced(&self, hosts: &[ObjectKey]) -> Vec<Refusal> {
        let field = match self.spec.auth {
            Some(_) => "spec.auth",
            None => "spec.authorization",
        };
        let mut problems = Vec::new();
        let own = &self.key.namespace;
        if let Some(other) = hosts.iter().find(|host| host.namespace != *own) {
            problems.push(invalid(format!(
                "{field}: who may enter at the Services of namespace {} is said by an ApiRoute of \
                 that namespace: write it there, or take {field} out.",
                other.namespace
            )));
        }
        for (rule, written) in self.spec.rules.iter().enumerate() {
            let mirror = written.mirror.as_ref().map(|mirror| &mirror.backend_ref);
            let elsewhere = mirror.and_then(|to| to.namespace.as_ref().zip(Some(&to.name)));
            if let Some((namespace, name)) = elsewhere.filter(|(namespace, _)| *namespace != own) {
                problems.push(invalid(format!(
                    "spec.rules[{rule}].mirror.backendRef.namespace: the pods of namespace \
                     {namespace} would not enforce this object's {field} for the copies that are \
                     sent there: write it in an ApiRoute there, for Service {name:?}."
                )));
            }
            let would_not = format!("enforce this object's {field}");
            let elsewhere = own_pods::elsewhere(self.key, (rule, written), &would_not);
            problems.extend(elsewhere.map(invalid));
        }
        problems
    }

    /// What can't be understood, as sentences.
    fn unreadable(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(auth) = &self.spec.auth {
            self.check_auth(auth, &mut problems);
        }
        let read = authorization::compile(self.key, self.spec);
        problems.extend(read.err().into_iter().flatten());
        problems
    }

    fn check_auth(&self, auth: &Auth, problems: &mut Vec<String>) {
        for (place, jwt) in auth.jwt.iter().enumerate() {
            let at = format!("spec.auth.jwt[{place}].jwks");
            if let Some(inline) = &jwt.jwks.inline
                && let Err(why) = wire::jwks::Jwks::parse(inline.as_bytes())
            {
                problems.push(format!("{at}.inline: {why}."));
            }
            if let Some(uri) = &jwt.jwks.uri {
                problems.extend(self.remote(&format!("{at}.uri"), uri));
            }
            let authorities = jwt.jwks.ca_certificates.as_deref();
            problems.extend(authorities.and_then(|pem| certificates(&at, pem)));
        }
        if let Some(introspection) = &auth.introspection {
            let at = "spec.auth.introspection";
            problems.extend(self.remote(&format!("{at}.endpoint"), &introspection.endpoint));
            let authorities = introspection.ca_certificates.as_deref();
            problems.extend(authorities.and_then(|pem| certificates(at, pem)));
        }
    }

    /// What is wrong with a place to ask: plaintext leaves the mesh, and anybody could answer.
    fn remote(&self, at: &str, uri: &str) -> Option<String> {
        let (scheme, rest) = uri.split_once("://")?;
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port == 0)) {
            return Some(format!("{at}: 0 is no port."));
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Some(format!("{at}: {authority:?} has a port above 65535."));
        }
        let domain = &self.settings.cluster_domain;
        let is_service = host::service(host, &self.key.namespace, domain).is_some();
        (scheme == "http" && !is_service).then(|| {
            format!(
                "{at}: {host:?} is outside the mesh, where anybody could answer http://: write \
                 https://, or the name of a Service in the mesh."
            )
        })
    }

    /// The resource and the capabilities that it needs.
    pub(crate) fn access(
        &self,
        services: &BTreeSet<ObjectKey>,
        reads_requests: bool,
    ) -> (Vec<&'static str>, mesh::Access) {
        let mut capabilities = vec![capability::ACCESS];
        let mut access = mesh::Access {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            connections: !reads_requests,
            closed: self.is_closed(),
            services: services.iter().map(crate::api_route::service_ref).collect(),
            ..mesh::Access::default()
        };
        if access.closed {
            return (capabilities, access);
        }
        access.authentication = self
            .spec
            .auth
            .as_ref()
            .map(|auth| self.authentication(auth));
        access.authorization = authorization::compile(self.key, self.spec).unwrap_or_default();
        if let Some(authentication) = &access.authentication {
            if !authentication.jwt.is_empty() {
                capabilities.push(capability::ACCESS_JWT);
            }
            if authentication.introspection.is_some() {
                capabilities.push(capability::ACCESS_INTROSPECTION);
            }
            if authentication.api_key.is_some() {
                capabilities.push(capability::ACCESS_API_KEY);
            }
        }
        (capabilities, access)
    }

    fn authentication(&self, auth: &Auth) -> mesh::Authentication {
        mesh::Authentication {
            require: match auth.require {
                Require::Any => mesh::Require::Any,
                Require::All => mesh::Require::All,
                Require::Optional => mesh::Require::Optional,
            }
            .into(),
            jwt: auth.jwt.iter().map(jwt).collect(),
            introspection: auth
                .introspection
                .as_ref()
                .map(|asked| mesh::Introspection {
                    endpoint: Some(remote(&asked.endpoint, asked.ca_certificates.as_deref())),
                    client_id: asked.client_id.clone(),
                    ttl_ms: asked.cache_ttl.millis(),
                    audiences: asked.audiences.clone(),
                    required_scopes: asked.required_scopes.clone(),
                    from: sources(&asked.from),
                    claims_to_headers: claims_to_headers(&asked.claims_to_headers),
                    forward: asked.forward,
                }),
            api_key: auth.api_key.as_ref().map(|keys| mesh::ApiKey {
                from: Some(source(keys.place, &keys.name, None)),
                forward: keys.forward,
            }),
        }
    }
}

fn jwt(written: &crds::Jwt) -> mesh::JwtIssuer {
    mesh::JwtIssuer {
        issuer: written.issuer.clone(),
        audiences: written.audiences.clone(),
        jwks: Some(jwks(&written.jwks)),
        algorithms: written
            .algorithms
            .iter()
            .map(|algorithm| algorithm.as_str().to_owned())
            .collect(),
        clock_skew_ms: written.clock_skew.millis(),
        required_claims: written.required_claims.clone(),
        required_scopes: written.required_scopes.clone(),
        from: sources(&written.from),
        claims_to_headers: claims_to_headers(&written.claims_to_headers),
        forward: written.forward,
    }
}

fn jwks(written: &Jwks) -> mesh::JwksSource {
    use mesh::jwks_source::Source;
    mesh::JwksSource {
        source: match (&written.uri, &written.inline) {
            (Some(uri), _) => {
                let authorities = written.ca_certificates.as_deref();
                Some(Source::Remote(remote(uri, authorities)))
            }
            (None, inline) => inline.clone().map(Source::Inline),
        },
        ttl_ms: written.cache_ttl.millis(),
    }
}

fn remote(uri: &str, authorities: Option<&str>) -> mesh::Remote {
    mesh::Remote {
        uri: uri.to_owned(),
        ca_certificates: authorities.unwrap_or_default().to_owned(),
    }
}

fn sources(written: &[TokenSource]) -> Vec<mesh::TokenSource> {
    if written.is_empty() {
        return vec![mesh::TokenSource {
            place: mesh::CredentialPlace::Header.into(),
            name: AUTHORIZATION.to_owned(),
            prefix: "Bearer".to_owned(),
        }];
    }
    let sources = written.iter();
    sources
        .map(|one| source(one.place, &one.name, one.prefix.as_deref()))
        .collect()
}

fn source(place: CredentialPlace, name: &str, prefix: Option<&str>) -> mesh::TokenSource {
    let (place, name) = match place {
        CredentialPlace::Header => (mesh::CredentialPlace::Header, name.to_ascii_lowercase()),
        CredentialPlace::Query => (mesh::CredentialPlace::Query, name.to_owned()),
        CredentialPlace::Cookie => (mesh::CredentialPlace::Cookie, name.to_owned()),
    };
    mesh::TokenSource {
        place: place.into(),
        name,
        prefix: prefix.unwrap_or_default().to_owned(),
    }
}

fn claims_to_headers(written: &[crds::ClaimToHeader]) -> Vec<mesh::ClaimToHeader> {
    let told = written.iter().map(|told| mesh::ClaimToHeader {
        claim: told.claim.clone(),
        header: told.header.to_ascii_lowercase(),
    });
    told.collect()
}

/// What is wrong with certificates of authorities.
pub(crate) fn certificates(at: &str, pem: &str) -> Option<String> {
    let mut read = CertificateDer::pem_slice_iter(pem.as_bytes());
    match read.next() {
        None => Some(format!(
            "{at}.caCertificates: there is no certificate in it: write them as PEM, from \
             -----BEGIN CERTIFICATE----- on."
        )),
        Some(first) => {
            let unreadable = first.is_err() || read.any(|next| next.is_err());
            unreadable.then(|| format!("{at}.caCertificates: not all of it is PEM."))
        }
    }
}

fn invalid(message: String) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message,
    }
}

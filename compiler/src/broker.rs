//! Where a broker is, and who asks: from a Secret with the label `meshwright.dev/broker` to `mesh::Broker`.
//!
//! In its data: `url` (`nats://host:4222`, `amqp://host:5672` or `redis://host:6379`, where `host` is a Service, or
//! `tls://`, `amqps://` and `rediss://`), and as the broker wants them `username` and `password`, or `token`; `ca.crt` (PEM)
//! where its authority is none of the public web; `tls.crt` and `tls.key` (PEM), which it is shown over TLS; `virtualHost` of RabbitMQ. What is wrong with one is said without a
//! word of what stands in it.

use std::collections::BTreeMap;

use crds::status::Reason;
use k8s_openapi::api::core::v1::Secret;
use wire::broker::{Address, BrokerKind};
use wire::mesh;

use crate::access::certificates;
use crate::access::keys::text;
use crate::api_route::Refusal;
use crate::client_certificate;
use crate::host;
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings, Unreadable};

/// The longest name of a virtual host, in bytes (AMQP 0-9-1, short strings).
const VIRTUAL_HOST: usize = 255;

/// Marks a Secret that says where a broker is; the broker's name.
pub const BROKER: &str = "meshwright.dev/broker";

/// What is known when a broker is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    /// Where it is looked for.
    pub(crate) namespace: &'a str,
    pub(crate) brokers: &'a Objects<Secret>,
    pub(crate) unreadable: &'a BTreeMap<String, Unreadable>,
    pub(crate) settings: &'a Settings,
}

/// What a broker is; nothing when it can't be had.
pub(crate) fn kind(broker: &mesh::Broker) -> Option<BrokerKind> {
    Address::read(&broker.url).ok().map(|address| address.kind)
}

/// With which scheme an address of one says TLS.
fn secure(kind: BrokerKind) -> &'static str {
    match kind {
        BrokerKind::Nats => "tls",
        BrokerKind::RabbitMq => "amqps",
        BrokerKind::Redis => "rediss",
    }
}

/// Why a broker takes no such topic; `at`: the field that names it.
pub(crate) fn topic_problem(kind: BrokerKind, at: &str, topic: &str) -> Option<String> {
    let (name, most) = (kind.name(), kind.abilities().topic);
    if topic.len() > most {
        let length = topic.len();
        return Some(format!(
            "{at}: it is {length} characters long, and {name} takes {most}."
        ));
    }
    let its_own = kind == BrokerKind::RabbitMq && topic.starts_with("amq.");
    its_own.then(|| format!("{at}: topics that begin with \"amq.\" are {name}'s own."))
}

// === impl Reader ===

impl Reader<'_> {
    /// The broker of that name; one without an address, and why, when it can't be had. `at`: the field that
    /// names it; `until`: what happens until it is there, as a sentence.
    pub(crate) fn broker(
        &self,
        at: &str,
        name: &str,
        until: &str,
    ) -> (mesh::Broker, Option<Refusal>) {
        match self.read(name) {
            Ok(broker) => (broker, None),
            Err(why) => {
                let broker = mesh::Broker {
                    name: name.to_owned(),
                    ..mesh::Broker::default()
                };
                let reason = Reason::SecretNotUsable;
                let message = format!("{at}: {why} {until}");
                (broker, Some(Refusal { reason, message }))
            }
        }
    }

    fn read(&self, name: &str) -> Result<mesh::Broker, String> {
        let (key, secret) = self.secret(name)?;
        let url = text(secret, "url");
        let url = url.ok_or_else(|| format!("Secret {key} has no text \"url\" in its data."))?;
        let address = Address::read(&url).map_err(|_| {
            format!(
                "what stands in \"url\" of Secret {key} is no nats://host:4222, amqp://host:5672 or \
                 redis://host:6379, and with TLS no tls://, amqps:// or rediss://; credentials stand beside it, \
                 in username and password, or for NATS in token, and RabbitMQ's virtual host in virtualHost."
            )
        })?;
        let service = host::service(&address.host, self.namespace, &self.settings.cluster_domain);
        // An address of IPv6 has no dots either, and is no Service's name.
        let service = service.filter(|_| !address.host.contains(':'));
        // Plaintext stays in the mesh: outside, anybody could answer.
        if service.is_none() && !address.tls {
            return Err(format!(
                "the broker of Secret {key} is outside the cluster, where anybody could answer plaintext: \
                 write {}:// in \"url\", or the name of a Service.",
                secure(address.kind)
            ));
        }
        let of = |field| text(secret, field).unwrap_or_default();
        let (user, password, token) = (of("username"), of("password"), of("token"));
        if !token.is_empty() && (!user.is_empty() || !password.is_empty()) {
            return Err(format!(
                "Secret {key} has both \"token\" and \"username\" or \"password\": a broker is asked with one."
            ));
        }
        let of_another = |field: &str, kind: BrokerKind| {
            format!(
                "Secret {key} has \"{field}\", which only {} takes.",
                kind.name()
            )
        };
        if !token.is_empty() && address.kind != BrokerKind::Nats {
            return Err(of_another("token", BrokerKind::Nats));
        }
        let virtual_host = of("virtualHost");
        if !virtual_host.is_empty() && address.kind != BrokerKind::RabbitMq {
            return Err(of_another("virtualHost", BrokerKind::RabbitMq));
        }
        if virtual_host.len() > VIRTUAL_HOST {
            return Err(format!(
                "what stands in \"virtualHost\" of Secret {key} is longer than {VIRTUAL_HOST} bytes."
            ));
        }
        let (certificate, private_key) = client_certificate::read(key, secret)?;
        if !certificate.is_empty() && !address.tls {
            return Err(format!(
                "Secret {key} has \"tls.crt\", and \"url\" leads to a Service, to which sidecars show certificates of their \
                 own: take it out, or write {}:// there.",
                secure(address.kind)
            ));
        }
        let ca_certificates = of("ca.crt");
        if !ca_certificates.is_empty() && certificates("", &ca_certificates).is_some() {
            return Err(format!(
                "what stands in \"ca.crt\" of Secret {key} is no certificate in PEM, or not all of it is."
            ));
        }
        let url = match address.tls {
            true => url,
            false => host::from_anywhere(url, &address.host, self.namespace),
        };
        Ok(mesh::Broker {
            name: name.to_owned(),
            url,
            user,
            password,
            token,
            ca_certificates,
            virtual_host,
            certificate,
            key: private_key,
        })
    }

    fn secret(&self, name: &str) -> Result<(&ObjectKey, &Secret), String> {
        let namespace = self.namespace;
        let all = self.brokers.range(ObjectKey::new(namespace, "")..);
        let own = all.take_while(|(key, _)| key.namespace == namespace);
        let mut named = own.filter(|(_, secret)| {
            let labels = secret.metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get(BROKER))
                .map(String::as_str)
                == Some(name)
        });
        match (named.next(), named.next()) {
            (Some((key, secret)), None) => Ok((key, secret)),
            (Some((one, _)), Some((other, _))) => Err(format!(
                "Secrets {one} and {other} both have the label {BROKER}: {name}, and it is not known which \
                 is meant: take it from one of them."
            )),
            (None, _) => Err(match self.unreadable.get(namespace) {
                Some(why) => why.sentence(namespace),
                None => format!(
                    "there is no Secret with the label {BROKER}: {name} in namespace {namespace}."
                ),
            }),
        }
    }
}

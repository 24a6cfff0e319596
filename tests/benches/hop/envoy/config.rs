//! Envoy as lean as it can be asked to be: what our sidecar does for a call, and nothing that it
//! does not (no request ids, no headers of Envoy's own, no access log).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::{Value, json};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/orders";

/// Files that mutual TLS needs: ECDSA P-256, one URI SAN each, as the mesh's own.
pub(crate) struct Keys {
    folder: PathBuf,
}

/// Plaintext HTTP/1.1 in and out.
pub(crate) fn hop(listen: SocketAddr, to: SocketAddr) -> Value {
    bootstrap(listen, "HTTP1", "15s", None, cluster(to))
}

/// The caller's side of a pair: HTTP/2 over mutual TLS out.
pub(crate) fn client(listen: SocketAddr, to: SocketAddr, keys: &Keys) -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut cluster = cluster(to);
    cluster["typed_extension_protocol_options"] = json!({
        OPTIONS: {
            "@type": format!("type.googleapis.com/{OPTIONS}"),
            "explicit_http_config": { "http2_protocol_options": {} },
        }
    });
    cluster["transport_socket"] = tls("UpstreamTlsContext", keys.context("client", SERVER));
    bootstrap(listen, "HTTP1", "15s", None, cluster)
}

/// The destination's side: HTTP/2 over mutual TLS in. Without a timeout: the caller's side has it.
pub(crate) fn server(listen: SocketAddr, to: SocketAddr, keys: &Keys) -> Value {
    let tls = tls("DownstreamTlsContext", keys.context("server", CLIENT));
    bootstrap(listen, "HTTP2", "0s", Some(tls), cluster(to))
}

fn bootstrap(
    listen: SocketAddr,
    codec: &str,
    timeout: &str,
    tls: Option<Value>,
    cluster: Value,
) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": codec,
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": { "virtual_hosts": [{
            "name": "bench",
            "domains": ["*"],
            "routes": [{
                "match": { "prefix": "/api" },
                "route": { "cluster": "upstream", "timeout": timeout },
            }],
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                "suppress_envoy_headers": true,
            },
        }],
    });
    let mut chain = json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({ "static_resources": {
        "listeners": [{ "address": socket(listen), "filter_chains": [chain] }],
        "clusters": [cluster],
    } })
}

fn cluster(to: SocketAddr) -> Value {
    json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(to) } }] }],
        },
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    } })
}

fn tls(kind: &str, context: Value) -> Value {
    let mut config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": context,
    });
    if kind == "DownstreamTlsContext" {
        config["require_client_certificate"] = json!(true);
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": config })
}

// === impl Keys ===

impl Keys {
    /// Makes an authority and two leaves.
    pub(crate) fn write(folder: &Path) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let root = authority.self_signed(&key)?;
        fs::write(folder.join("root.pem"), root.pem())?;
        let issuer = Issuer::new(authority, key);
        for (name, id) in [("client", CLIENT), ("server", SERVER)] {
            let mut leaf = CertificateParams::default();
            leaf.distinguished_name = DistinguishedName::new();
            leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
            let key = KeyPair::generate()?;
            let leaf = leaf.signed_by(&key, &issuer)?;
            fs::write(folder.join(format!("{name}.pem")), leaf.pem())?;
            fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn context(&self, own: &str, peer: &str) -> Value {
        let file = |name: String| json!({ "filename": self.folder.join(name) });
        json!({
            "alpn_protocols": ["h2"],
            // A client of Envoy's speaks 1.2 at most unless it is told otherwise.
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [{
                "certificate_chain": file(format!("{own}.pem")),
                "private_key": file(format!("{own}.key")),
            }],
            "validation_context": {
                "trusted_ca": file("root.pem".to_owned()),
                "match_typed_subject_alt_names": [
                    { "san_type": "URI", "matcher": { "exact": peer } },
                ],
            },
        })
    }
}

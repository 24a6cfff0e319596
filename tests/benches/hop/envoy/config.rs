//! Envoy as lean as it can be asked to be: what our sidecar does for a call, and nothing that it
//! does not (no request ids, no headers of Envoy's own, no access log). Windows and buffers are
//! Envoy's own defaults.

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

/// For a request, as in the mesh's rules.
const TIMEOUT: &str = crate::mesh::TIMEOUT;

/// Files that mutual TLS needs: ECDSA P-256, one URI SAN each, as the mesh's own.
pub(crate) struct Keys {
    folder: PathBuf,
}

/// What a pair carries, and how it does between its two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// HTTP/1.1, as HTTP/2 between.
    Http1,
    /// HTTP/1.1, as it is; WebSockets are let through.
    Http1AsItIs,
    /// HTTP/2, as it is.
    Http2,
    /// Bytes.
    Tcp,
    /// Bytes, asked for with `CONNECT`.
    Tunnel,
}

/// Plaintext HTTP/1.1 in and out.
pub(crate) fn hop(listen: SocketAddr, to: SocketAddr) -> Value {
    bootstrap(listen, manager("HTTP1", TIMEOUT), None, cluster(to))
}

/// The caller's side of a pair: mutual TLS out.
pub(crate) fn client(listen: SocketAddr, to: SocketAddr, keys: &Keys, carries: Carries) -> Value {
    let filter = match carries {
        Carries::Tcp => tcp_proxy(),
        Carries::Tunnel => connect_manager(),
        Carries::Http2 => manager("HTTP2", TIMEOUT),
        Carries::Http1 | Carries::Http1AsItIs => manager("HTTP1", TIMEOUT),
    };
    let mut cluster = match carries {
        Carries::Http1 | Carries::Http2 => speaking_http2(cluster(to)),
        Carries::Http1AsItIs | Carries::Tcp | Carries::Tunnel => cluster(to),
    };
    let context = keys.context("client", SERVER, carries);
    cluster["transport_socket"] = tls("UpstreamTlsContext", context);
    bootstrap(listen, filter, None, cluster)
}

/// The destination's side: mutual TLS in. Without a timeout: the caller's side has it.
pub(crate) fn server(listen: SocketAddr, to: SocketAddr, keys: &Keys, carries: Carries) -> Value {
    let filter = match carries {
        Carries::Tcp | Carries::Tunnel => tcp_proxy(),
        Carries::Http1AsItIs => manager("HTTP1", "0s"),
        Carries::Http1 | Carries::Http2 => manager("HTTP2", "0s"),
    };
    let cluster = match carries {
        Carries::Http2 => speaking_http2(cluster(to)),
        _ => cluster(to),
    };
    let context = keys.context("server", CLIENT, carries);
    let tls = tls("DownstreamTlsContext", context);
    bootstrap(listen, filter, Some(tls), cluster)
}

fn manager(codec: &str, timeout: &str) -> Value {
    let mut manager = json!({
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
    if codec == "HTTP1" {
        manager["upgrade_configs"] = json!([{ "upgrade_type": "websocket" }]);
    }
    json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager })
}

/// Ends `CONNECT` and sends on what follows.
fn connect_manager() -> Value {
    let mut filter = manager("HTTP1", "0s");
    let manager = &mut filter["typed_config"];
    manager["upgrade_configs"] = json!([{ "upgrade_type": "CONNECT" }]);
    manager["route_config"]["virtual_hosts"][0]["routes"] = json!([{
        "match": { "connect_matcher": {} },
        "route": {
            "cluster": "upstream",
            "timeout": "0s",
            "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
        },
    }]);
    filter
}

fn tcp_proxy() -> Value {
    json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "bench",
        "cluster": "upstream",
    } })
}

fn bootstrap(listen: SocketAddr, filter: Value, tls: Option<Value>, cluster: Value) -> Value {
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({ "static_resources": {
        "listeners": [{ "address": socket(listen), "filter_chains": [chain] }],
        "clusters": [cluster],
    } })
}

fn speaking_http2(mut cluster: Value) -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({
        OPTIONS: {
            "@type": format!("type.googleapis.com/{OPTIONS}"),
            "explicit_http_config": { "http2_protocol_options": {} },
        }
    });
    cluster
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

    fn context(&self, own: &str, peer: &str, carries: Carries) -> Value {
        let file = |name: String| json!({ "filename": self.folder.join(name) });
        let alpn = match carries {
            Carries::Http1 | Carries::Http2 => "h2",
            Carries::Http1AsItIs => "http/1.1",
            Carries::Tcp | Carries::Tunnel => "tcp",
        };
        json!({
            "alpn_protocols": [alpn],
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

//! What a connection begins with, as it is looked at before anybody reads it.

use std::sync::Arc;

use sidecar::net::detect::{FirstBytes, classify};
use sidecar::net::first_host::{self, FirstHost};
use sidecar::net::server_name;

use crate::fuzz;

#[test]
fn fuzz_the_first_bytes() {
    let examples: &[&[u8]] = &[
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1",
        &[0x16, 3, 1],
    ];
    fuzz(20_000, examples, &[], |bytes| match classify(bytes) {
        FirstBytes::Closed => assert!(bytes.is_empty()),
        FirstBytes::Tls => assert_eq!(bytes[0], 0x16),
        FirstBytes::Http2 => assert!(examples[0].starts_with(bytes)),
        FirstBytes::Http1 => assert!(bytes[0].is_ascii_uppercase() || b"\r\n".contains(&bytes[0])),
        FirstBytes::Other => assert_ne!(bytes[0], 0x16),
    });
}

#[test]
fn fuzz_the_host_of_a_first_request() {
    let examples: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\naccept: */*\r\nHost: api.example.com:80\r\n\r\n",
        b"\r\nOPTIONS * HTTP/1.1\nhost:[::1]\n\n",
        b"GET http://api.example.com/ HTTP/1.1\r\n",
    ];
    fuzz(20_000, examples, &[b"host:", b"\n"], |bytes| {
        let told = first_host::read(bytes);
        if let Some(FirstHost::Named(host)) = &told {
            assert!(
                bytes
                    .windows(host.len().max(1))
                    .any(|part| part.starts_with(host.as_bytes()))
            );
        }
        // What more bytes come changes nothing of what is told.
        let longer = first_host::read(&[bytes, b"\r\nhost: other\r\n\r\n"].concat());
        assert!(told.is_none() || told == longer, "{told:?} {longer:?}");
    });
}

#[test]
fn fuzz_what_a_tls_client_says_first() {
    // A ClientHello as rustls writes it, with a name in it.
    let config = rustls::ClientConfig::builder_with_provider(sidecar::net::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "db.example.com".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("bytes");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let pieces: &[&[u8]] = &[
        b"\x16\x03\x01",
        b"\0\0\0\x12",
        b"db.example.com",
        b"\xff\xff",
    ];
    fuzz(4_000, &[&hello], pieces, |bytes| {
        let mut rest = bytes;
        let heard = runtime.block_on(server_name::read(&mut rest));
        // Whatever it was, all that was read is passed on.
        let heard = heard.expect("nothing is waited for");
        assert_eq!([&heard.read[..], rest].concat(), bytes);
    });
}

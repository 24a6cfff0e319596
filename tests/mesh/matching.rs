//! Which requests a rule applies to, and that what was judged is what the application sees.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use sidecar::proxy::path::normalise;
use tests::client::Client;
use tests::mesh::{APPLICATION_PORT, Mesh, SOON, Sidecar, Workload};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::routing::{route, services};

/// `/public` and below goes to `orders`, `/admin` and below to `admin`.
struct World {
    _mesh: Mesh,
    public: Workload,
    admin: Workload,
    client: Client,
}

impl World {
    async fn start() -> Result<Self> {
        let yaml = services(&["orders", "admin"])
            + &route(
                "    - name: public\n      matches: [{ path: { type: Prefix, value: /public } }]\n    \
                 - name: admin\n      matches: [{ path: { type: Prefix, value: /admin } }]\n      \
                 backendRefs: [{ name: admin, port: 80 }]\n    \
                 - name: server\n      matches: [{ method: OPTIONS }]\n",
            );
        let mesh = Mesh::start(&yaml).await?;
        let public = mesh.workload("orders").await?;
        let admin = mesh.workload("admin").await?;
        let client = mesh.client("web").await?;
        mesh.programmed("orders").await?;
        Ok(Self {
            _mesh: mesh,
            public,
            admin,
            client,
        })
    }

    /// What the applications have seen, both together.
    fn seen(&self) -> usize {
        self.public.upstream.requests() + self.admin.upstream.requests()
    }

    /// What the application sees of a target that is sent as it is, and at whose it arrives.
    async fn arrives(&self, method: &str, target: &[u8]) -> Result<Arrival> {
        let before = self.seen();
        let (public, admin) = (&self.public.upstream, &self.admin.upstream);
        let before_public = public.requests();
        let (status, reason) = raw(&self.client, method, target).await?;
        Ok(match self.seen() - before {
            0 => Arrival::Answered(status, reason),
            1 => {
                let at_public = public.requests() > before_public;
                let upstream = if at_public { public } else { admin };
                let last = upstream.seen().pop().context("it was seen")?;
                match at_public {
                    true => Arrival::Public(last.target),
                    false => Arrival::Admin(last.target),
                }
            }
            more => anyhow::bail!("one request became {more}"),
        })
    }
}

#[derive(Debug, PartialEq)]
enum Arrival {
    /// By the mesh, with this status and reason.
    Answered(u16, String),
    Public(String),
    Admin(String),
}

/// Sends a target to a sidecar byte by byte, over a connection of its own.
async fn raw(client: &Client, method: &str, target: &[u8]) -> Result<(u16, String)> {
    let to = SocketAddr::new(client.sidecar().address().into(), 15001);
    let mut stream = TcpStream::connect(to).await?;
    let head = [
        method.as_bytes(),
        b" ",
        target,
        b" HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
    ];
    stream.write_all(&head.concat()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    let reason = answer
        .lines()
        .find_map(|line| line.strip_prefix("meshwright-reason: "));
    Ok((
        status.context("an answer")?.parse()?,
        reason.unwrap_or_default().to_owned(),
    ))
}

/// Waits until a sidecar has logged so many requests of one direction, and returns the lines.
async fn logged(sidecar: &Sidecar, direction: &str, count: usize) -> Result<Vec<Value>> {
    wait_until("all requests are logged", SOON, async || {
        let log = sidecar.log()?;
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = lines
            .filter(|line: &Value| line["direction"] == direction)
            .collect();
        ensure!(lines.len() >= count, "{log}");
        Ok(lines)
    })
    .await
}

#[tokio::test]
async fn every_kind_of_match_selects_and_the_most_specific_wins() -> Result<()> {
    let yaml = services(&["orders"])
        + &route(
            r#"    - name: all
    - name: api
      matches: [{ path: { type: Prefix, value: /api } }]
    - name: file
      matches: [{ path: { type: Pattern, value: "/api/files/{path...}" } }]
    - name: version
      matches: [{ path: { type: Regex, value: "/api/v[0-9]+/.*" } }]
    - name: customer
      matches: [{ path: { type: Pattern, value: "/api/{version}/customers/{id}" } }]
    - name: first-customer
      matches: [{ path: { type: Pattern, value: "/api/v1/customers/{id}" } }]
    - name: me
      matches: [{ path: { type: Exact, value: /api/v1/customers/%6De } }]
    - name: posted
      matches: [{ path: { type: Prefix, value: /api }, method: POST }]
    - name: beta
      matches:
      - path: { type: Prefix, value: /api }
        headers: [{ name: X-Beta, type: Present }]
    - name: beta-2
      matches:
      - path: { type: Prefix, value: /api }
        headers: [{ name: X-Beta, type: Present }, { name: X-Version, type: Regex, value: "2[.][0-9]+" }]
    - name: paged
      matches:
      - path: { type: Prefix, value: /api }
        query: [{ name: page, type: Regex, value: "[0-9]+" }]
    - name: search
      matches:
      - path: { type: Prefix, value: /api }
        query: [{ name: page, type: Present }, { name: q, value: two words }]
"#,
        );
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    type Sent = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
    );
    let requests: &[Sent] = &[
        ("all", "/", &[]),
        ("all", "/apis", &[]),
        ("api", "/api", &[]),
        ("api", "/api/v1", &[]),
        ("file", "/api/files", &[]),
        ("file", "/api/files/a/b", &[]),
        ("version", "/api/v12/orders", &[]),
        ("version", "/api/v2/customers/1/orders", &[]),
        ("api", "/api/vx/orders", &[]),
        ("customer", "/api/v2/customers/1", &[]),
        ("customer", "/api/x/customers/1", &[]),
        ("first-customer", "/api/v1/customers/1", &[]),
        ("me", "/api/v1/customers/me", &[]),
        ("beta", "/api/x", &[("x-beta", "")]),
        (
            "beta",
            "/api/x?page=1",
            &[("x-beta", "1"), ("x-version", "3.0")],
        ),
        (
            "beta-2",
            "/api/x",
            &[("x-beta", "1"), ("x-version", "2.14")],
        ),
        ("paged", "/api/x?page=12", &[]),
        ("paged", "/api/x?a=b&%70age=12&page=x", &[]),
        ("api", "/api/x?page=x&page=12", &[]),
        ("search", "/api/x?q=two+words&page", &[]),
        ("search", "/api/x?page=12&q=two%20words", &[]),
    ];
    for (expected, path, headers) in requests {
        let answer = client
            .get_with(&format!("http://orders{path}"), headers)
            .await?;
        assert_eq!(answer.status, 200, "{expected} {path}");
    }
    let url = "http://orders/api/x?page=1";
    client.send(Method::POST, url, &[], Bytes::new()).await?;

    let lines = logged(client.sidecar(), "outbound", requests.len() + 1).await?;
    for (line, (expected, path, headers)) in lines.iter().zip(requests) {
        assert_eq!(line["rule"], *expected, "{path} {headers:?}");
    }
    assert_eq!(lines[requests.len()]["rule"], "posted");
    Ok(())
}

#[tokio::test]
async fn a_path_is_judged_and_forwarded_in_one_form_whatever_bytes_it_is_sent_as() -> Result<()> {
    let world = World::start().await?;
    let public = |target: &str| Arrival::Public(target.to_owned());
    let admin = |target: &str| Arrival::Admin(target.to_owned());
    let refused = || Arrival::Answered(400, "bad_request".to_owned());
    let nowhere = || Arrival::Answered(404, "no_route".to_owned());
    for (sent, expected) in [
        (&b"/public"[..], public("/public")),
        (
            b"/public/a?b=/../admin&c=%61//",
            public("/public/a?b=/../admin&c=%61//"),
        ),
        (b"/admin/../public", public("/public")),
        (b"/public/../admin", admin("/admin")),
        (b"/public/%2e%2E/admin/x", admin("/admin/x")),
        (b"/public/./.././admin/.", admin("/admin/")),
        (b"/%61dmin", admin("/admin")),
        (b"/%61%64%6d%69%6E?%61", admin("/admin?%61")),
        (b"//admin", admin("/admin")),
        (b"/.//admin//x/", admin("/admin/x/")),
        (b"/ADMIN", nowhere()),
        // Data, not separators.
        (b"/public/a%2fb%5cc", public("/public/a%2Fb%5Cc")),
        (b"/public%2fadmin", nowhere()),
        (
            b"/public/%252e%252e/admin",
            public("/public/%252e%252e/admin"),
        ),
        (b"/public/a;x=1,b", public("/public/a;x=1,b")),
        (b"/public;x=1/a", nowhere()),
        (b"/public/[a]|{b}\"", public("/public/%5Ba%5D%7C%7Bb%7D%22")),
        // What somebody could read differently.
        (b"/admin%2f..", refused()),
        (b"/public/..%2fadmin", refused()),
        (b"/public/..%5cadmin", refused()),
        (b"/public/..;/admin", refused()),
        (b"/public//../admin", refused()),
        (b"/..", refused()),
        (b"/public/../../admin", refused()),
        (b"/a\\b", refused()),
        (b"/public\\..\\admin", refused()),
        (b"/public/%00", refused()),
        (b"/admin%00/../public", refused()),
        (b"/public/%0d%0ax-admin:%201", refused()),
        (b"/public/%7f", refused()),
        (b"/public/%c0%ae%c0%ae/admin", refused()),
        (b"/public/%e0%80%afadmin", refused()),
        (b"/public/%zz", refused()),
        (b"/public/%", refused()),
        (b"/public/caf\xc3\xa9", refused()),
        // The parser of URIs drops a fragment, so nobody sees it.
        (b"/public/a#/../../admin", public("/public/a")),
    ] {
        let target = [b"http://orders", sent].concat();
        let arrived = world.arrives("GET", &target).await?;
        assert_eq!(arrived, expected, "{}", String::from_utf8_lossy(sent));
    }
    // Nothing that the parser of HTTP refuses becomes a request.
    for sent in [
        &b"/\xc0\xae\xc0\xae/admin"[..],
        b"/public/\0",
        b"/public/\x7f",
        b"/public/<",
    ] {
        let target = [b"http://orders", sent].concat();
        let arrived = world.arrives("GET", &target).await?;
        assert_eq!(arrived, Arrival::Answered(400, String::new()), "{sent:?}");
    }
    // A target without a path.
    assert_eq!(world.arrives("GET", b"http://orders?a=b").await?, nowhere());
    assert_eq!(world.arrives("GET", b"orders:80").await?, refused());
    assert_eq!(
        world.arrives("OPTIONS", b"http://orders/").await?,
        public("/")
    );
    Ok(())
}

#[tokio::test]
async fn no_spelling_of_a_path_reaches_what_another_rule_governs() -> Result<()> {
    let world = World::start().await?;
    let odd = [
        "", "/", "//", ".", "..", "/.", "/..", "/../", "/./", "%2e", "/%2E%2e/", "%2f", "%2F..%2f",
        "\\", "%5c..%5c", ";", ";x=..", "..;/", "%00", "%c0%af", "%25", "%252f", "%", "?/../",
    ];
    let mut forwarded = 0;
    for first in ["/public", "/admin"] {
        for middle in odd {
            for last in ["admin", "/admin", "../public"] {
                let path = format!("{first}{middle}{last}");
                let target = format!("http://orders{path}");
                let arrived = world.arrives("GET", target.as_bytes()).await?;
                // What it is, as anybody would say who knows the form alone.
                let (sent, query) = match path.split_once('?') {
                    Some((sent, query)) => (sent, format!("?{query}")),
                    None => (&*path, String::new()),
                };
                let below = |form: &str, prefix: &str| {
                    form == prefix || form.starts_with(&format!("{prefix}/"))
                };
                let expected = match normalise(sent.as_bytes()) {
                    Err(_) => Arrival::Answered(400, "bad_request".to_owned()),
                    Ok(form) if below(&form, "/public") => {
                        Arrival::Public(format!("{form}{query}"))
                    }
                    Ok(form) if below(&form, "/admin") => Arrival::Admin(format!("{form}{query}")),
                    Ok(_) => Arrival::Answered(404, "no_route".to_owned()),
                };
                forwarded += usize::from(!matches!(expected, Arrival::Answered(..)));
                assert_eq!(arrived, expected, "{path}");
            }
        }
    }
    assert!(forwarded > 30, "only {forwarded} arrived");
    Ok(())
}

#[tokio::test]
async fn the_destination_does_not_believe_that_a_peer_has_settled_the_path() -> Result<()> {
    let world = World::start().await?;
    // A peer with a certificate of the mesh, whose sidecar looks at nothing.
    let store = sidecar::identity::store::Store::open(&world.client.sidecar().state())?;
    let own = store.key_and_chain().context("a key and a chain")?;
    let roots = sidecar::net::tls::root_store(&store.roots().context("roots")?)?;
    let tls = sidecar::net::tls::TlsContext::new(&own, roots)?;
    let orders = &world.public;
    let address = SocketAddr::new(orders.sidecar.address().into(), APPLICATION_PORT);
    let tcp = TcpStream::connect(address).await?;
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let stream = tokio_rustls::TlsConnector::from(Arc::clone(&tls.client_h2))
        .connect(name, tcp)
        .await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    let connection = tokio::spawn(connection);

    for (sent, expected) in [
        ("/public/../admin?a=/../", Some("/admin?a=/../")),
        ("//%61dmin/", Some("/admin/")),
        ("/a%2fb", Some("/a%2Fb")),
        ("/a\\b", None),
        ("/a%2f..", None),
        ("/..;/a", None),
        ("/%00", None),
        ("/../a", None),
    ] {
        let before = orders.upstream.requests();
        let uri: Uri = format!("http://orders{sent}").parse()?;
        let request = Request::get(uri).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        let seen = orders.upstream.seen().split_off(before);
        let seen: Vec<&str> = seen.iter().map(|seen| &*seen.target).collect();
        match expected {
            Some(expected) => assert_eq!((status, &seen[..]), (200, &[expected][..]), "{sent}"),
            None => assert_eq!((status, seen.len()), (400, 0), "{sent}"),
        }
    }
    connection.abort();

    let lines = logged(&orders.sidecar, "inbound", 8).await?;
    let paths: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["path"].as_str())
        .collect();
    assert_eq!(paths[..3], ["/admin", "/admin/", "/a%2Fb"]);
    // What has no such form is logged as it was sent, with what is wrong.
    assert_eq!(paths[3], "/a\\b");
    assert_eq!(lines[3]["reason"], "bad_request");
    let detail = lines[3]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("backslash"), "{detail}");
    Ok(())
}

#[tokio::test]
async fn the_caller_s_log_has_the_path_that_was_judged() -> Result<()> {
    let world = World::start().await?;
    world
        .arrives("GET", b"http://orders/public/../%61dmin?token=secret")
        .await?;
    let lines = logged(world.client.sidecar(), "outbound", 1).await?;
    assert_eq!(lines[0]["path"], "/admin");
    assert_eq!(lines[0]["rule"], "admin");
    Ok(())
}

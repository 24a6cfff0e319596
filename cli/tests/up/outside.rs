//! What is called outside the cluster within limits: the partner is a server on the host, and records what
//! comes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::mesh::{Folder, until, workload};
use crate::programs;

/// The name that the mesh has for the host.
const HOST: &str = "host.meshwright.internal";

/// A server outside the mesh.
struct Partner {
    port: u16,
    /// What came: the first line of a request, or `tls` for a connection that begins so; and when.
    came: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Partner {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let came = Arc::new(Mutex::new(Vec::new()));
        let partner = Self {
            port,
            came: came.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let came = came.clone();
                std::thread::spawn(move || serve(stream, &came));
            }
        });
        partner
    }

    fn came(&self) -> Vec<String> {
        let came = self.came.lock().unwrap();
        came.iter().map(|(what, _)| what.clone()).collect()
    }

    fn url(&self) -> String {
        format!("http://{HOST}:{}/", self.port)
    }

    /// The Service `partner`, with its one port of this protocol.
    fn service(&self, protocol: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "partner", "namespace": "shop" },
            "spec": {
                "type": "ExternalName", "externalName": HOST,
                "ports": [{ "port": self.port, "appProtocol": protocol }],
            },
        })
    }
}

fn serve(mut stream: TcpStream, came: &Mutex<Vec<(String, Instant)>>) {
    let note = |what: &str| came.lock().unwrap().push((what.to_owned(), Instant::now()));
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    if reader
        .fill_buf()
        .is_ok_and(|bytes| bytes.starts_with(&[0x16]))
    {
        note("tls");
        let _ = reader.read(&mut [0; 1024]);
        let _ = stream.write_all(b"\x15ok");
        return;
    }
    let mut lines = reader.lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        note(&first);
        let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\noutside");
        if head.iter().any(|line| line == "connection: close") {
            return;
        }
    }
}

fn rate_limit(limit: Value) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "RateLimit",
        "metadata": { "name": "partner", "namespace": "shop" },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "partner" }], "limits": [limit] },
    })
}

/// A folder with `web`, and with `far` in a namespace of its own.
fn folder(documents: &[Value]) -> Folder {
    let mut all = workload("web", "server", 1, &[]);
    let mut far = workload("far", "server", 1, &[]);
    far.iter_mut()
        .for_each(|document| document["metadata"]["namespace"] = json!("elsewhere"));
    all.extend(far);
    all.extend(documents.iter().cloned());
    Folder::new(&all)
}

/// How many sidecars enforce the RateLimit, and how many should.
fn programmed(folder: &Folder) -> (Option<u64>, Option<u64>) {
    let output = folder.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut verdicts = status["verdicts"].as_array().unwrap().iter();
    let verdict = verdicts.find(|verdict| verdict["kind"] == "RateLimit");
    let programmed = verdict.map(|verdict| &verdict["programmed"]);
    let number = |field: &str| programmed.and_then(|programmed| programmed[field].as_u64());
    (number("n"), number("m"))
}

fn in_force(folder: &Folder) {
    until("the one sidecar of the namespace enforces it", || {
        programmed(folder) == (Some(1), Some(1))
    });
}

/// What a program in `web` is answered that calls the partner under a name.
fn called_as(folder: &Folder, partner: &Partner, name: &str) -> String {
    let client = programs::command("client").join(" ");
    let client = format!("CLAIM={name} URL={} {client}", partner.url());
    let output = folder.run(&["exec", "web", "--", "sh", "-c", &client]);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// How often web's sidecar has said this of the limit.
fn counted(folder: &Folder, outcome: &str) -> f64 {
    let outcome = format!(r#"outcome="{outcome}""#);
    let labels = [r#"rate_limit="shop/partner""#, &outcome];
    folder.counted("web", "meshwright_rate_limit_total", &labels)
}

#[test]
fn what_a_namespace_sends_outside_is_limited_beside_those_who_call() {
    let partner = Partner::start();
    let limit = json!({ "name": "all", "requests": 2, "per": "1h", "methods": ["GET"] });
    let folder = folder(&[partner.service("http"), rate_limit(limit)]);
    let _mesh = folder.up(&[]);
    in_force(&folder);

    assert!(folder.get_from("web", &partner.url()).contains("outside"));
    // By the Service's name, as a cluster's DNS would lead there.
    assert!(called_as(&folder, &partner, "partner.shop").contains("outside"));
    for name in [HOST, "partner", "HOST.meshwright.internal"] {
        let answer = called_as(&folder, &partner, name);
        assert!(answer.contains("429 Too Many Requests"), "{answer}");
        assert!(answer.contains("rate_limited"), "{answer}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
    assert_eq!(partner.came().len(), 2);
    assert_eq!(
        (counted(&folder, "passed"), counted(&folder, "limited")),
        (2.0, 3.0)
    );

    // What is for somebody else at that address, and who calls from elsewhere, is not limited.
    assert!(called_as(&folder, &partner, "other.example.com").contains("outside"));
    assert!(
        folder
            .get_from("elsewhere/far", &partner.url())
            .contains("outside")
    );
    assert_eq!(partner.came().len(), 4);

    // Each request counts, on one connection too.
    let two = format!(
        "GET /a HTTP/1.1\r\nhost: {HOST}\r\n\r\nGET /b HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"
    );
    let to = format!("{HOST}:{}", partner.port);
    folder.says("web", &to, two.as_bytes());
    assert_eq!(
        (partner.came().len(), counted(&folder, "limited")),
        (4, 5.0)
    );

    let explained = folder.run(&["explain", &partner.url(), "--from", "web"]);
    let told = String::from_utf8_lossy(&explained.stdout);
    assert!(
        told.contains("counted here by RateLimit shop/partner"),
        "{told}"
    );
}

#[test]
fn what_is_sent_to_a_partner_comes_as_evenly_as_is_said() {
    let partner = Partner::start();
    let limit = json!({
        "name": "even", "requests": 5, "per": "1s", "burst": 1,
        "action": "Delay", "delay": { "max": "30s", "maxQueue": 10 },
    });
    let folder = folder(&[partner.service("http"), rate_limit(limit)]);
    let _mesh = folder.up(&[]);
    in_force(&folder);
    let to = format!("{HOST}:{}", partner.port);
    let last = "GET /last HTTP/1.1\r\nhost: partner\r\nconnection: close\r\n\r\n";
    let all = "GET / HTTP/1.1\r\nhost: partner\r\n\r\n".repeat(4) + last;
    folder.says("web", &to, all.as_bytes());
    until("all have come", || partner.came().len() == 5);
    let came = partner.came.lock().unwrap();
    // One at once, and four that each waited for their turn, at a fifth of a second each.
    let took = came[4].1 - came[0].1;
    assert!(took >= Duration::from_millis(700), "{took:?}");
    assert_eq!(counted(&folder, "delayed"), 4.0);
}

/// A ClientHello that asks for a name.
fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let name = sized(&[&[0], &sized(name.as_bytes())[..]].concat());
    let extension = |number: u8, bytes: &[u8]| [&[0, number], &sized(bytes)[..]].concat();
    let extensions = [
        extension(0, &name),
        extension(10, &sized(&[0, 29])),
        extension(13, &sized(&[4, 3])),
    ];
    let body = [
        &[3, 3],
        &[7; 32][..],
        &[0],
        &sized(&[0xc0, 0x2b]),
        &[1, 0],
        &sized(&extensions.concat()),
    ];
    let body = body.concat();
    let handshake = [&[1, 0], &sized(&body)[..]].concat();
    [&[0x16, 3, 1], &sized(&handshake)[..]].concat()
}

#[test]
fn encrypted_connections_are_counted_by_the_name_that_they_ask_for() {
    let partner = Partner::start();
    let limit = json!({ "name": "all", "requests": 1, "per": "1h" });
    let folder = folder(&[partner.service("https"), rate_limit(limit)]);
    let _mesh = folder.up(&[]);
    in_force(&folder);
    let to = format!("{HOST}:{}", partner.port);
    let says = |name: &str| folder.says("web", &to, &hello(name)).0;
    assert_eq!(says("host.meshwright.internal"), "156f6b");
    assert_eq!(says("Host.Meshwright.internal"), "");
    assert_eq!(says("partner.shop.svc.cluster.local"), "");
    assert_eq!(says("other.example.com"), "156f6b");
    assert_eq!(partner.came(), ["tls", "tls"]);
    assert_eq!(
        (counted(&folder, "passed"), counted(&folder, "limited")),
        (1.0, 2.0)
    );
    let labels = [r#"direction="outbound""#, r#"reason="rate_limited""#];
    let refused = folder.counted("web", "meshwright_connections_refused_total", &labels);
    assert_eq!(refused, 2.0);
}

#[test]
fn what_is_not_http_or_whose_server_speaks_first_passes_a_limit_for_any_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"\x01hi");
        }
    });
    let any = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "partner", "namespace": "shop" },
        "spec": { "type": "ExternalName", "externalName": HOST },
    });
    let limit = json!({ "name": "all", "requests": 1, "per": "1h" });
    let folder = folder(&[any, rate_limit(limit)]);
    let _mesh = folder.up(&[]);
    in_force(&folder);
    let to = format!("{HOST}:{port}");
    for said in [&b""[..], b"\0\0\0\0"] {
        let (heard, _) = folder.says("web", &to, said);
        assert_eq!(heard, "016869");
    }
}

#[test]
fn an_encrypted_connection_waits_for_its_turn() {
    let partner = Partner::start();
    let limit = json!({
        "name": "even", "requests": 1, "per": "1s", "burst": 1,
        "action": "Delay", "delay": { "max": "30s", "maxQueue": 10 },
    });
    let folder = folder(&[partner.service("tls"), rate_limit(limit)]);
    let _mesh = folder.up(&[]);
    in_force(&folder);
    let to = format!("{HOST}:{}", partner.port);
    std::thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| folder.says("web", &to, &hello(HOST)).0));
        let heard = calls.map(|call| call.join().unwrap());
        assert_eq!(heard, ["156f6b"; 3]);
    });
    let came = partner.came.lock().unwrap();
    // Each of the last two waited until a second had passed since the one before might come.
    let took = came[2].1 - came[0].1;
    assert!(took >= Duration::from_millis(1_500), "{took:?}");
}

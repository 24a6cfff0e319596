mod attempts;
mod called;
mod kept;

use super::*;
use crate::config::guard::Workload;
use crate::config::retry_policy::RetryPolicy;
use crate::config::state::Built;
use wire::{Generation, ResourceId};

/// What a sidecar holds.
#[derive(Default)]
struct World {
    built: Built,
    held: Vec<Resource>,
    healths: Healths,
}

impl World {
    /// `shop`: `orders` (HTTP, one pod) and `orders-v2`, `ledger` (TCP) and `ledger-eu`, `mixed`
    /// whose port declares nothing, `db` without a virtual address, each at its own port.
    fn shop() -> Self {
        use mesh::Protocol::{Detect, Http, Tcp};
        Self::default()
            .service("orders", "10.0.0.1", 80, Http, "10.1.0.1")
            .service("orders-v2", "10.0.0.2", 80, Http, "10.1.0.2")
            .service("ledger", "10.0.0.3", 7000, Tcp, "10.1.0.3")
            .service("ledger-eu", "10.0.0.4", 7000, Tcp, "10.1.0.4")
            .service("mixed", "10.0.0.5", 9000, Detect, "10.1.0.5")
            .service("db", "", 5432, Tcp, "10.1.0.6")
    }

    fn service(
        mut self,
        name: &str,
        address: &str,
        port: u32,
        protocol: mesh::Protocol,
        pod: &str,
    ) -> Self {
        // Where there is no virtual address the name leads to this port.
        let listens = if address.is_empty() { port } else { 8080 };
        let endpoint = mesh::Endpoint {
            address: pod.into(),
            port: listens,
            pod: format!("shop/{name}-0"),
            own_address: true,
            ..Default::default()
        };
        let sent = mesh::Endpoints {
            namespace: "shop".into(),
            service: name.into(),
            hosts: vec![name.into()],
            addresses: Vec::from_iter((!address.is_empty()).then(|| address.into())),
            ports: vec![mesh::ServicePort {
                port,
                protocol: protocol.into(),
                endpoints: vec![endpoint],
                ..Default::default()
            }],
        };
        let service = Service::build(sent, None).unwrap();
        self.built.services.insert(name.into(), Arc::new(service));
        self
    }

    fn requests(self, to: &str, rules: Vec<mesh::Rule>) -> Self {
        self.route(to, "requests", |route| route.rules = rules)
    }

    fn connections(self, to: &str, rules: Vec<mesh::ConnectionRule>) -> Self {
        self.route(to, "connections", |route| route.connections = rules)
    }

    fn route(mut self, to: &str, of: &str, with: impl FnOnce(&mut mesh::Route)) -> Self {
        let mut sent = mesh::Route {
            namespace: "shop".into(),
            name: format!("{to}-{of}"),
            services: vec![reference(to)],
            ..Default::default()
        };
        with(&mut sent);
        let id = ResourceId {
            kind: Kind::Route,
            namespace: "shop".into(),
            name: sent.name.as_str().into(),
        };
        let built = Arc::new(Route::build(sent.clone(), None).unwrap());
        self.built.routes.insert(id.to_string(), built);
        self.held
            .push(Resource::new(id, Generation::default(), &[], &sent));
        self
    }

    fn balanced(mut self, of: &str, by: mesh::load_balancing::Algorithm) -> Self {
        let sent = mesh::RetryPolicy {
            namespace: "shop".into(),
            name: of.into(),
            services: vec![reference(of)],
            load_balancing: Some(mesh::LoadBalancing {
                algorithm: Some(by),
                slow_start_ms: None,
            }),
            ..Default::default()
        };
        let policy = Arc::new(RetryPolicy::build(sent).unwrap());
        self.built.retry_policies.insert(of.into(), policy);
        self
    }

    fn refusing_unknown(mut self) -> Self {
        let workload = Workload::build(mesh::Workload {
            refuse_unknown: true,
            ..Default::default()
        });
        self.built.workload = Some(Arc::new(workload.unwrap()));
        self
    }

    fn told(&self, query: &str) -> Value {
        let state = State::link(self.built.clone());
        answer(&state, &self.held, &self.healths, query).unwrap()
    }
}

fn reference(name: &str) -> mesh::ServiceRef {
    mesh::ServiceRef {
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn to(name: &str, port: u32, weight: u32) -> mesh::Backend {
    mesh::Backend {
        service: Some(reference(name)),
        port,
        weight,
        ..Default::default()
    }
}

fn named(name: &str, server_names: &[&str], backends: Vec<mesh::Backend>) -> mesh::ConnectionRule {
    mesh::ConnectionRule {
        name: name.into(),
        server_names: server_names.iter().map(|&name| name.into()).collect(),
        backends,
        idle_timeout_ms: Some(30_000),
    }
}

/// Name and weight of the places that it goes to.
fn places(told: &Value) -> Vec<(String, u64)> {
    let goes = told["goes"].as_array().into_iter().flatten();
    let place = |to: &Value| Some((to["service"].as_str()?.to_owned(), to["weight"].as_u64()?));
    goes.filter_map(place).collect()
}

fn governs(told: &Value) -> Option<&str> {
    let mut rules = told["rules"].as_array().into_iter().flatten();
    rules.find(|rule| rule["governs"] == true)?["rule"].as_str()
}

#[test]
fn what_is_asked_wrongly_is_said_with_how_to_ask() {
    let state = State::default();
    let wrong = |query: &str| answer(&state, &[], &Healths::default(), query).unwrap_err();
    assert!(wrong("").contains("url=http://orders/1"));
    assert!(wrong("url=/orders").contains("with its host"));
    assert!(wrong("url=http://orders/&header=x").contains("name: value"));
    assert!(wrong("url=http://orders/&method=%20").contains("no method"));
    assert!(wrong("url=http://orders/&x=1").contains("server-name and header"));
    assert!(wrong("url=ftp://orders/").contains("http, https, tls or tcp"));
    assert!(wrong("url=tcp://orders").contains("the port of tcp://"));
    assert!(wrong("url=http://orders/&server-name=x").contains("with tls://"));
}

#[test]
fn a_path_that_is_refused_is_said_with_its_reason() {
    let told = World::shop().told("url=http://orders/a%2500");
    assert_eq!(told["refused"]["reason"], "bad_request");
    assert_eq!(told["refused"]["status"], 400);
}

#[test]
fn connections_are_told_their_rule_their_shares_and_their_limit() {
    let shares = vec![to("ledger", 7000, 9), to("ledger-eu", 7000, 1)];
    let world = World::shop().connections("ledger", vec![named("all", &[], shares)]);
    for url in ["tcp://ledger:7000", "tcp://10.0.0.3:7000"] {
        let told = world.told(&format!("url={url}"));
        assert_eq!(told["carried"], "connection");
        assert_eq!(told["route"], "shop/ledger-connections");
        assert_eq!(governs(&told), Some("all"));
        let expected = [
            ("shop/ledger".to_owned(), 9),
            ("shop/ledger-eu".to_owned(), 1),
        ];
        assert_eq!(places(&told), expected);
        assert_eq!(told["goes"][1]["endpoints"], 1);
        assert_eq!(told["idleTimeoutMs"], 30_000);
        assert_eq!(told["asProxy"], Value::Null);
    }
    // To a port of which nobody reads requests, a request is such a connection.
    let told = world.told("url=http://ledger:7000/");
    assert_eq!(
        (&told["carried"], &told["path"]),
        (&json!("connection"), &Value::Null)
    );
}

#[test]
fn the_name_that_a_client_asks_for_decides_and_is_the_hosts_unless_another_is_said() {
    let world = World::shop().connections(
        "ledger",
        vec![
            named("own", &["ledger"], vec![]),
            named("eu", &["*.eu.example.com"], vec![to("ledger-eu", 7000, 1)]),
        ],
    );
    let told = world.told("url=tls://ledger:7000");
    assert_eq!(
        (governs(&told), &told["serverName"]),
        (Some("own"), &json!("ledger"))
    );
    assert_eq!(places(&told), [("shop/ledger".to_owned(), 1)]);
    let told = world.told("url=https://LEDGER:7000/x");
    assert_eq!(governs(&told), Some("own"));
    let told = world.told("url=tls://ledger:7000&server-name=A.eu.example.com");
    assert_eq!(governs(&told), Some("eu"));
    assert_eq!(places(&told), [("shop/ledger-eu".to_owned(), 1)]);
    assert_eq!(told["rules"][0]["matches"][0]["asks"][0]["holds"], false);
    // An address is no name to ask for, and other bytes ask for none.
    for url in ["tls://10.0.0.3:7000", "tcp://ledger:7000"] {
        let told = world.told(&format!("url={url}"));
        assert_eq!(told["refused"]["reason"], "no_route", "{told}");
        assert_eq!(
            (&told["refused"]["closed"], &told["refused"]["status"]),
            (&json!(true), &Value::Null)
        );
        assert!(places(&told).is_empty());
    }
}

#[test]
fn a_route_governs_the_ports_that_carry_what_it_is_about_and_no_others() {
    let world = World::shop()
        .requests("ledger", vec![mesh::Rule::default()])
        .connections("orders", vec![named("all", &[], vec![])])
        .requests("mixed", vec![mesh::Rule::default()]);
    let told = world.told("url=tcp://ledger:7000");
    assert_eq!(
        (&told["route"], &told["reads"]),
        (&Value::Null, &json!("Tcp"))
    );
    assert!(
        told["asides"][0]
            .as_str()
            .unwrap()
            .contains("shop/ledger-requests is about requests")
    );
    let told = world.told("url=http://orders/");
    assert_eq!(told["route"], Value::Null);
    assert!(
        told["asides"][0]
            .as_str()
            .unwrap()
            .contains("shop/orders-connections is about")
    );
    // Where HTTP is declared nothing else is carried.
    let told = world.told("url=tcp://orders:80");
    assert_eq!(
        (&told["refused"]["reason"], &told["refused"]["closed"]),
        (&json!("bad_request"), &json!(true))
    );

    // Where nothing is declared, the bytes tell,
    let told = world.told("url=http://mixed:9000/");
    assert_eq!(
        (&told["route"], &told["reads"]),
        (&json!("shop/mixed-requests"), &json!("Detect"))
    );
    let told = world.told("url=tls://mixed:9000");
    assert_eq!(
        (&told["route"], &told["carried"]),
        (&Value::Null, &json!("connection"))
    );
    // unless an ApiRoute is about connections: it declares it.
    let world = world.connections("mixed", vec![named("all", &[], vec![])]);
    let told = world.told("url=http://mixed:9000/");
    assert_eq!(
        (&told["protocol"], &told["reads"]),
        (&json!("Detect"), &json!("Tcp"))
    );
    assert_eq!(told["route"], "shop/mixed-connections");
}

#[test]
fn addresses_mean_what_they_do_to_the_sidecar() {
    let world = World::shop()
        .requests(
            "orders",
            vec![mesh::Rule {
                name: "all".into(),
                backends: vec![to("orders-v2", 80, 1)],
                ..Default::default()
            }],
        )
        .connections("db", vec![named("all", &[], vec![])]);
    let told = world.told("url=http://10.0.0.1/");
    assert_eq!(
        (&told["service"], governs(&told)),
        (&json!("shop/orders"), Some("all"))
    );

    // A pod's own address is that pod, and its Service's ApiRoute is not asked,
    let told = world.told("url=http://10.1.0.1:8080/");
    assert_eq!(
        (&told["pod"]["name"], &told["route"]),
        (&json!("shop/orders-0"), &Value::Null)
    );
    assert_eq!(told["goes"][0]["itself"], "10.1.0.1:8080");
    assert!(
        told["asides"][0]
            .as_str()
            .unwrap()
            .contains("shop/orders-requests does not govern")
    );
    // unless the Service has no other address.
    for host in ["10.1.0.6", "db"] {
        let told = world.told(&format!("url=tcp://{host}:5432"));
        assert_eq!(
            (&told["service"], governs(&told)),
            (&json!("shop/db"), Some("all"))
        );
    }
    let told = world.told("url=tcp://10.1.0.6:5432");
    assert_eq!(told["goes"][0]["itself"], "10.1.0.6:5432");

    // A port that the Service lacks is nobody's, and another of a pod is its sidecar's business.
    for host in ["10.0.0.1", "orders"] {
        let told = world.told(&format!("url=http://{host}:81/"));
        assert_eq!(told["refused"]["closed"], true);
        assert!(
            told["refused"]["why"]
                .as_str()
                .unwrap()
                .contains("no port 81"),
            "{told}"
        );
        assert_eq!(told["asProxy"]["status"], 404);
    }
    let told = world.told("url=tcp://10.1.0.1:22");
    assert!(
        told["passes"]["why"]
            .as_str()
            .unwrap()
            .contains("has this address"),
        "{told}"
    );
}

#[test]
fn what_is_not_known_passes_or_is_refused_as_the_namespace_says() {
    for (host, to) in [
        ("example.com", "example.com"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
    ] {
        let url = format!("url=https://{host}/");
        let told = World::shop().told(&url);
        assert_eq!(told["passes"]["to"], format!("{to}:443"));
        assert_eq!(
            (&told["refused"], &told["asProxy"]),
            (&Value::Null, &Value::Null)
        );
        let told = World::shop().refusing_unknown().told(&url);
        let refused = &told["refused"];
        assert_eq!(
            (&refused["reason"], &refused["closed"]),
            (&json!("address_not_known"), &json!(true))
        );
        assert_eq!(told["passes"], Value::Null);

        let url = format!("url=http://{host}/");
        let told = World::shop().told(&url);
        assert_eq!(told["passes"]["to"], format!("{to}:80"));
        assert_eq!(
            told["asProxy"],
            json!({ "reason": "unknown_host", "status": 404 })
        );
        let told = World::shop().refusing_unknown().told(&url);
        assert_eq!(
            (&told["refused"]["status"], &told["refused"]["closed"]),
            (&json!(403), &Value::Null)
        );
    }
}

#[test]
fn how_endpoints_are_picked_is_told_of_what_is_sent_and_of_connections() {
    use mesh::load_balancing::Algorithm;
    let hash = |on| Algorithm::ConsistentHash(mesh::ConsistentHash { on: Some(on) });
    let header = mesh::consistent_hash::On::Header("x-user".into());
    let world = World::shop()
        .balanced("orders", hash(header.clone()))
        .balanced("ledger", hash(header))
        .balanced("mixed", Algorithm::RoundRobin(mesh::RoundRobin::default()))
        .balanced("db", hash(mesh::consistent_hash::On::Source(true)));
    let by = |query: &str| {
        let told = world.told(query);
        let balanced = &told["goes"][0]["balanced"];
        let by = balanced["by"].as_str().unwrap_or_default().to_owned();
        (by, balanced["retryPolicy"].clone())
    };
    let (told, policy) = by("url=http://orders/&header=x-user:+7");
    assert_eq!(told, "consistent hash of header x-user");
    assert_eq!(policy, "shop/orders");
    let without = "least request, for it has no header x-user to hash";
    assert_eq!(by("url=http://orders/").0, without);
    assert_eq!(by("url=tcp://ledger:7000").0, without);
    assert_eq!(by("url=tcp://mixed:9000").0, "round robin");
    assert_eq!(
        by("url=tcp://db:5432").0,
        "consistent hash of the calling workload"
    );
    assert_eq!(by("url=http://orders-v2/"), (String::new(), Value::Null));
}

#[test]
fn what_goes_to_no_backend_that_exists_is_refused() {
    let gone = || vec![to("gone", 80, 1), to("orders", 80, 0)];
    let world = World::shop()
        .requests(
            "orders",
            vec![mesh::Rule {
                backends: gone(),
                ..Default::default()
            }],
        )
        .connections("ledger", vec![named("all", &[], gone())]);
    let told = world.told("url=http://orders/");
    assert_eq!(
        (&told["refused"]["reason"], &told["refused"]["status"]),
        (&json!("backend_missing"), &json!(503))
    );
    let told = world.told("url=tcp://ledger:7000");
    assert_eq!(
        (&told["refused"]["reason"], &told["refused"]["closed"]),
        (&json!("backend_missing"), &json!(true))
    );
    assert_eq!(told["goes"][0]["missing"], true);
}

#[test]
fn what_is_told_of_layers_that_fan_out_is_bounded() {
    // Eight layers, of which each leads to the next sixteen times: 16^7 ways.
    let mut world = World::default();
    for layer in 0..8 {
        let name = format!("layer-{layer}");
        let leads_on = || mesh::Backend {
            route: Some(mesh::RouteRef {
                namespace: "shop".into(),
                name: format!("layer-{}-requests", layer + 1),
            }),
            ..to(&format!("layer-{}", layer + 1), 80, 1)
        };
        let backends = match layer {
            7 => Vec::new(),
            _ => (0..16).map(|_| leads_on()).collect(),
        };
        let rule = mesh::Rule {
            name: "all".into(),
            backends,
            ..Default::default()
        };
        let address = format!("10.0.1.{layer}");
        world = world
            .service(&name, &address, 80, mesh::Protocol::Http, "10.1.1.1")
            .requests(&name, vec![rule]);
    }
    let told = world.told("url=http://layer-0/").to_string();
    assert_eq!(told.matches("\"then\":").count(), 64);
    assert!(told.contains("\"untold\":\"shop/layer-"), "{}", told.len());
}

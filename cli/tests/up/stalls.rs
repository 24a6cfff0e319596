//! Ports of which nothing is declared, and whose servers speak first.

use serde_json::{Value, json};

use crate::mesh::{Folder, until, workload};
use crate::programs;

/// `web`, which calls, and `mail`, whose server speaks first.
fn documents(declared: Option<&str>) -> Vec<Value> {
    let mut documents = workload("web", "server", 1, &[]);
    documents.extend(workload("mail", "greeter", 1, &[]));
    let mut port = json!({ "port": 25, "targetPort": 8080 });
    if let Some(protocol) = declared {
        port["appProtocol"] = protocol.into();
    }
    documents[3]["spec"]["ports"] = json!([port]);
    documents
}

/// How long a program inside `web` waits for the greeting, in milliseconds.
fn hear(folder: &Folder) -> u32 {
    let hearer = programs::command("hearer").join(" ");
    let said = folder.exec("web", &format!("TO=mail:25 {hearer}"));
    let after = said.lines().find_map(|line| {
        let (_, after) = line.split_once("220 ready after ")?;
        after.strip_suffix(" ms")
    });
    after.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

fn checked(folder: &Folder) -> String {
    let checked = folder.run(&["check", folder.path().to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
    String::from_utf8(checked.stdout).unwrap()
}

/// How many connections of `web` have waited.
fn waited(folder: &Folder) -> usize {
    let metrics = folder.get_from("web", "http://127.0.0.1:15000/metrics");
    let name = r#"meshwright_stalls_total{service="shop/mail",port="25"} "#;
    let counted = metrics.lines().find_map(|line| line.strip_prefix(name));
    counted.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn check_tells_which_port_to_declare_where_callers_wait_for_a_server_that_speaks_first() {
    let folder = Folder::new(&documents(None));
    let mesh = folder.up(&[]);
    assert!(!checked(&folder).contains("speaks first"));
    for _ in 0..2 {
        assert!(hear(&folder) >= 200);
    }
    assert_eq!(waited(&folder), 2);

    let said = checked(&folder);
    let line = said.lines().find(|line| line.contains("speaks first"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    let told = "Service shop/mail: port 25 is not declared and its server speaks first: 2 connections \
                of shop/web-0 waited 0.2 s each: write `appProtocol: tcp` at the port, or begin its \
                name with `tcp-`";
    assert!(line.ends_with(told), "{line}");
    // By file and line, which is that of the port.
    let place = line.strip_suffix(told).unwrap();
    let file = folder.path().join("shop.yaml");
    let number = place.strip_prefix(file.to_str().unwrap()).unwrap();
    let number: usize = number.trim_matches([':', ' ']).parse().unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    let at: Vec<_> = written.lines().skip(number - 1).take(2).collect();
    assert!(at.join("").contains("\"port\": 25"), "{at:?}");

    // Declared, nobody waits, and nothing is left to tell.
    folder.write("shop.yaml", &documents(Some("tcp")));
    mesh.waits_for("Service shop/mail");
    until("the port is declared", || {
        !checked(&folder).contains("speaks first")
    });
    until("the server is heard at once", || hear(&folder) < 200);
    assert_eq!(waited(&folder), 2);
}

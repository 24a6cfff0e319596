//! `meshwright port-forward`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use nix::sys::signal::Signal;

use crate::mesh::{Folder, until, workload};
use crate::shop;
use crate::tap::Runs;

/// Forwards any port to port 8080 of a workload; returns its address.
fn forward(folder: &Folder, workload: &str) -> (Runs, String) {
    let mut runs = Runs::start(folder.command(&["port-forward", workload, ":8080"]));
    let line = runs.line();
    let (at, to) = line
        .split_once(" leads to ")
        .unwrap_or_else(|| panic!("{line}"));
    assert!(to.starts_with("port 8080 of shop/"), "{line}");
    let at = at.to_owned();
    (runs, at)
}

/// What `/` is answered by whoever is behind an address, past any sidecar: when this side has said all,
/// the other one hangs up.
fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}

fn many_at_a_time(arguments: &[&str]) {
    let folder = shop();
    let _mesh = folder.up(arguments);
    let (mut runs, address) = forward(&folder, "deployment/web");
    // Some that say nothing, and meanwhile others.
    let idle: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    let askers: Vec<_> = (0..20)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || get(&address).unwrap())
        })
        .collect();
    for asker in askers {
        let body = asker.join().unwrap();
        assert!(body.starts_with("web-0 called by 127."), "{body}");
    }
    runs.signal(Signal::SIGINT);
    assert_eq!(runs.ends().0, Some(0));
    drop(idle);
    until("nobody listens any more", || {
        TcpStream::connect(&address).is_err()
    });
}

#[test]
fn a_port_here_is_a_port_of_a_workload_for_many_at_a_time_until_ctrl_c() {
    many_at_a_time(&[]);
}

#[test]
fn a_port_is_forwarded_without_namespaces_too() {
    many_at_a_time(&["--no-namespaces"]);
}

#[test]
fn a_pod_that_is_started_anew_is_forwarded_to_as_before() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let (_runs, address) = forward(&folder, "shop/web");
    assert!(get(&address).unwrap().ends_with(' '));
    let mut documents = workload("web", "server", 1, &[("GREETING", "anew")]);
    documents.extend(workload("orders", "server", 2, &[("GREETING", "hello")]));
    folder.write("shop.yaml", &documents);
    until("the new one answers", || {
        get(&address).is_ok_and(|body| body.ends_with("anew"))
    });
}

#[test]
fn what_can_not_be_forwarded_is_said() {
    let folder = shop();
    let _mesh = folder.up(&[]);
    let said = |arguments: &[&str]| {
        let output = folder.run(&[&["port-forward"], arguments].concat());
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = said(&["ordres", ":8080"]);
    assert!(
        unknown.contains("no workload is named `ordres`"),
        "{unknown}"
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = said(&["web", &format!("{port}:8080")]);
    let expected =
        format!("port {port} of this machine can't be had: write another one, `LOCAL:8080`");
    assert!(in_use.contains(&expected), "{in_use}");
    assert!(said(&["web", "http"]).contains("write a port, `8080`, or two"));

    // Nobody listens there, of which only a connection learns.
    let mut runs = Runs::start(folder.command(&["port-forward", "web", ":9"]));
    let line = runs.line();
    let address = line.split(' ').next().unwrap();
    let _stream = TcpStream::connect(address).unwrap();
    runs.tells("connecting to port 9 of shop/web-0: Connection refused");
}

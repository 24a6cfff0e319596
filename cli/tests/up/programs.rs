//! What runs inside the meshes of these tests: this very test binary, in other roles.
//!
//! An ignored test is a program that the test binary can be asked to be.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// The command line that is the program `name`.
pub(crate) fn command(name: &str) -> Vec<String> {
    let own = std::env::current_exe().unwrap();
    let name = format!("programs::{name}");
    [
        own.to_str().unwrap(),
        "--ignored",
        "--exact",
        "--nocapture",
        &name,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The body that `url` (http://host:port/path) answers, or why it doesn't.
pub(crate) fn get(url: &str) -> std::io::Result<String> {
    get_claiming(url, None, None)
}

/// The same, with another `Host` than the one that is called, or by way of a proxy.
fn get_claiming(url: &str, host: Option<&str>, proxy: Option<&str>) -> std::io::Result<String> {
    let after_scheme = |url: &str| url.strip_prefix("http://").unwrap().to_owned();
    let whole = after_scheme(url);
    let (authority, path) = whole.split_once('/').unwrap();
    let mut address = proxy.map_or_else(|| authority.to_owned(), after_scheme);
    if !address.contains(':') {
        address.push_str(":80");
    }
    let target = proxy.map_or_else(|| format!("/{path}"), |_| url.to_owned());
    let mut stream = TcpStream::connect(&address)?;
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        host.unwrap_or(authority)
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(std::io::Error::other(answer))
    }
}

/// Answers every request on `$HOST:$PORT` with who it is, who called and `$GREETING`; one for
/// `/to/NAME/PATH` with what `http://NAME/PATH` answers, and one for `/held` not before there is a
/// file `release` in `$HELD`.
#[test]
#[ignore = "a program: run by its caller"]
fn server() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let host = std::env::var("HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
    let listener = TcpListener::bind(format!("{host}:{}", variable("PORT"))).unwrap();
    for stream in listener.incoming().flatten() {
        let greeting = variable("GREETING");
        std::thread::spawn(move || {
            let caller = stream.peer_addr().unwrap().ip();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            let mut path = String::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(asked) = line.strip_suffix(" HTTP/1.1\r\n") {
                    path = asked.split_once(' ').unwrap().1.to_owned();
                }
                if line == "\r\n" {
                    let body = if let Some(url) = path.strip_prefix("/to/") {
                        get(&format!("http://{url}")).unwrap()
                    } else {
                        if path == "/held" {
                            hold();
                        }
                        let own = std::env::var("HOSTNAME").unwrap();
                        format!("{own} called by {caller} {greeting}")
                    };
                    write!(
                        stream,
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                    .unwrap();
                }
            }
        });
    }
}

/// Says that a request is here, and waits for leave to answer it.
fn hold() {
    let folder = std::path::PathBuf::from(std::env::var("HELD").unwrap());
    std::fs::write(folder.join("arrived"), "").unwrap();
    crate::mesh::until("a held request is released", || {
        folder.join("release").exists()
    });
}

/// Ends at once, with a word on why.
#[test]
#[ignore = "a program: run by its caller"]
fn failure() {
    eprintln!("no database at {}", std::env::var("DATABASE").unwrap());
    std::process::exit(3);
}

/// Prints what `$URL` answers, asked for as `$CLAIM` and by way of `$PROXY` if those are given.
#[test]
#[ignore = "a program: run by its caller"]
fn client() {
    let given = |name: &str| std::env::var(name).ok();
    let (claim, proxy) = (given("CLAIM"), given("PROXY"));
    let body = get_claiming(&given("URL").unwrap(), claim.as_deref(), proxy.as_deref());
    println!("{}", body.unwrap());
}

/// Prints the IPv4 addresses that the name server answers for `$NAME`, asked itself: the hosts file
/// has a say in what a resolver finds.
#[test]
#[ignore = "a program: run by its caller"]
fn lookup() {
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let servers = resolv
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let server = servers.map(str::trim).next().unwrap().to_owned();
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in std::env::var("NAME").unwrap().split('.') {
        query.push(label.len().try_into().unwrap());
        query.extend(label.as_bytes());
    }
    query.extend(b"\0\0\x01\0\x01");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let wait = std::time::Duration::from_secs(10);
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.send_to(&query, (server.as_str(), 53)).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    // After the question, records of 16 bytes each that end in an address.
    for record in answer[query.len()..length].chunks_exact(16) {
        println!(
            "A {}",
            std::net::Ipv4Addr::new(record[12], record[13], record[14], record[15])
        );
    }
}

/// Greets everyone who connects to `$HOST:$PORT`, before they say anything.
#[test]
#[ignore = "a program: run by its caller"]
fn greeter() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let host = std::env::var("HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
    let listener = TcpListener::bind(format!("{host}:{}", variable("PORT"))).unwrap();
    for mut stream in listener.incoming().flatten() {
        // Who has gone needs no greeting.
        let _ = stream.write_all(b"220 ready\r\n");
    }
}

/// Prints what `$TO` says first, and after how many milliseconds.
#[test]
#[ignore = "a program: run by its caller"]
fn hearer() {
    let begun = std::time::Instant::now();
    let mut stream = TcpStream::connect(std::env::var("TO").unwrap()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    println!("{} after {} ms", said.trim(), begun.elapsed().as_millis());
}

/// Says `$SAY` (in hex) to `$TO`, and prints what is said until the connection ends (in hex as well),
/// and after how many milliseconds that is.
#[test]
#[ignore = "a program: run by its caller"]
fn sayer() {
    let say = std::env::var("SAY").unwrap_or_default();
    let pairs = say.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let say: Vec<u8> = pairs.map(byte).collect();
    let begun = std::time::Instant::now();
    let mut stream = TcpStream::connect(std::env::var("TO").unwrap()).unwrap();
    // It may be closed already, or reset: then nothing was said.
    let _ = stream.write_all(&say);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let said: String = said.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("said [{said}] until {} ms", begun.elapsed().as_millis());
}

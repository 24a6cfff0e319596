//! curl, against a server of Go's `net/http`.

use tests::foreign::Pair;

const SERVER: &str = "exec $BIN/http-server";

/// What is asked with `curl -sS` and these arguments.
const EXCHANGES: &[(&str, &str)] = &[
    ("a page", "-i $URL/page"),
    (
        "a page with a query and headers",
        "-i -H 'X-Empty;' -H 'X-Twice: 1' -H 'X-Twice: 2' -H 'Cookie: a=1; b=2' \"$URL/page?a=b%20c&d=%2F\"",
    ),
    ("HEAD", "-I $URL/page"),
    ("OPTIONS", "-i -X OPTIONS $URL/page"),
    ("an unusual method", "-i -X PROPFIND $URL/page"),
    ("no such page", "-i $URL/page/none"),
    ("an error of the application", "-i $URL/failure"),
    ("no content", "-i $URL/nothing"),
    ("early hints", "-i $URL/early"),
    ("a redirect that is followed", "-i -L $URL/page/old"),
    (
        "an absolute redirect that is followed",
        "-i -L -d body $URL/page/away",
    ),
    ("not modified", "-i -H 'If-None-Match: \"one\"' $URL/tagged"),
    ("modified", "-i -H 'If-None-Match: \"two\"' $URL/tagged"),
    ("an answer in chunks", "-i $URL/chunks"),
    ("trailers", "-i -H 'TE: trailers' $URL/trailers"),
    ("a form", "-i -d 'a=1&b=2' $URL/upload"),
    ("an empty form", "-i -d '' $URL/upload"),
    ("a request in chunks", "-i -T - $URL/upload </etc/services"),
    (
        "a body that is waited for",
        "-i -H 'Expect: 100-continue' -d body $URL/upload",
    ),
    (
        "a body that is refused before it is sent",
        "-i -H 'Expect: 100-continue' -d body $URL/refuse",
    ),
    (
        "10 MiB in",
        "-o $OWN/in -D - \"$URL/bytes?count=10485760\" && sha256sum <$OWN/in",
    ),
    (
        "10 MiB out",
        "-i --data-binary @<(head -c 10485760 /dev/zero) $URL/upload",
    ),
    (
        "10 MiB out in chunks",
        "-i -T - $URL/upload < <(head -c 10485760 /dev/zero)",
    ),
    (
        "one connection for three requests",
        "-w '%{num_connects}\\n' $URL/page $URL/chunks -d body $URL/upload",
    ),
    (
        "three at once",
        "--parallel --parallel-immediate $URL/tagged $URL/tagged $URL/tagged",
    ),
    (
        "events, each of which is sent after the one before was read",
        "-N $URL/events | while read -r line; do echo \"$line\"; [[ $line != id:* ]] || curl -sS $URL/next; done",
    ),
];

/// What curl 7.88 fails at over HTTP/2 with prior knowledge, with or without a mesh: using a
/// connection again, and an answer that comes before its body was sent.
const NOT_OVER_HTTP2: &[&str] = &[
    "a redirect that is followed",
    "an absolute redirect that is followed",
    "a body that is refused before it is sent",
    "one connection for three requests",
];

#[track_caller]
fn asks(declared: Option<&'static str>, how: &str) {
    let scripts: Vec<(&str, String)> = EXCHANGES
        .iter()
        .filter(|(name, _)| how != "--http2-prior-knowledge" || !NOT_OVER_HTTP2.contains(name))
        .map(|(name, arguments)| (*name, format!("curl -sS {how} {arguments}")))
        .collect();
    let exchanges: Vec<(&str, &str)> = scripts
        .iter()
        .map(|(name, script)| (*name, script.as_str()))
        .collect();
    Pair::new(8080, declared, SERVER).is_the_same(&exchanges);
}

#[test]
fn curl_over_http1_notices_no_mesh() {
    asks(Some("http"), "--http1.1");
}

#[test]
fn curl_over_http1_to_an_undeclared_port_notices_no_mesh() {
    asks(None, "--http1.1");
}

#[test]
fn curl_over_http2_notices_no_mesh() {
    asks(Some("http"), "--http2-prior-knowledge");
}

#[test]
fn curl_that_offers_an_upgrade_to_http2_notices_no_mesh() {
    asks(None, "--http2");
}

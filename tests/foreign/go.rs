//! Go's `net/http` at both ends, as it is by default but for HTTP/2, which it would not speak here.

use tests::foreign::Pair;

#[track_caller]
fn asks(declared: Option<&'static str>) {
    Pair::new(8080, declared, "exec $BIN/http-server")
        .is_the_same(&[("every kind of request", "$BIN/http-client 2>&1")]);
}

#[test]
fn gos_client_notices_no_mesh() {
    asks(Some("http"));
}

#[test]
fn gos_client_to_an_undeclared_port_notices_no_mesh() {
    asks(None);
}

//! Python: `http.server`, and requests, `http.client` and urllib.

use tests::foreign::Pair;

const EXCHANGES: &[(&str, &str)] = &[
    ("requests", "python3 $PROGRAMS/python/client.py requests"),
    (
        "http.client",
        "python3 $PROGRAMS/python/client.py http.client",
    ),
    ("urllib", "python3 $PROGRAMS/python/client.py urllib"),
];

#[test]
fn pythons_clients_and_server_notice_no_mesh() {
    let server = "exec python3 $PROGRAMS/python/server.py";
    Pair::new(8080, None, server).is_the_same(EXCHANGES);
}

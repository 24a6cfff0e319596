//! NATS, whose server speaks first.

use tests::foreign::Pair;

const SERVER: &str = "exec $BIN/nats-server --addr 0.0.0.0 --port $PORT --log $OWN/log";

const EXCHANGES: &[(&str, &str)] = &[
    (
        "letters and questions",
        "$BIN/nats-client nats://$HOST:$PORT",
    ),
    (
        "by hand",
        "exec 3<>/dev/tcp/$HOST/$PORT; read -r info <&3; echo ${info:0:5}; printf 'CONNECT {\"verbose\":true}\\r\\nPING\\r\\n' >&3; head -n 2 <&3",
    ),
];

#[test]
fn nats_notices_no_mesh() {
    Pair::new(4222, Some("nats"), SERVER).is_the_same(EXCHANGES);
}

#[test]
fn nats_on_an_undeclared_port_notices_no_mesh() {
    Pair::new(4222, None, SERVER).is_the_same(EXCHANGES);
}

//! Node: `node:http` and fetch, and WebSocket by the package `ws`.

use tests::foreign::Pair;

#[test]
fn nodes_clients_and_server_notice_no_mesh() {
    let server = "exec node $PROGRAMS/node/server.js";
    Pair::new(8080, None, server).is_the_same(&[
        ("http and fetch", "node $PROGRAMS/node/client.js"),
        ("a websocket", "node $PROGRAMS/node/websocket.js plain"),
        (
            "a websocket that compresses",
            "node $PROGRAMS/node/websocket.js deflate",
        ),
    ]);
}

//! The client and the server of gRPC's interoperability tests, of grpc-go.

use tests::foreign::Pair;

/// What is carried unlike others: large and many messages, no message, an error with words, metadata
/// both ways, cancellation from either moment, a deadline, and methods that nobody has.
const CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "status_code_and_message",
    "special_status_message",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

#[track_caller]
fn passes(declared: Option<&'static str>) {
    let scripts: Vec<(&str, String)> = CASES
        .iter()
        .map(|case| {
            let run = format!(
                "$BIN/grpc-client --server_host=$HOST --server_port=$PORT --test_case={case} 2>&1"
            );
            // Go's log begins lines with the time.
            (*case, format!("set -o pipefail; {run} | cut -d ' ' -f 3-"))
        })
        .collect();
    let exchanges: Vec<(&str, &str)> = scripts
        .iter()
        .map(|(name, script)| (*name, script.as_str()))
        .collect();
    Pair::new(8080, declared, "exec $BIN/grpc-server --port=8080").is_the_same(&exchanges);
}

#[test]
fn grpc_notices_no_mesh() {
    passes(Some("grpc"));
}

#[test]
fn grpc_to_an_undeclared_port_notices_no_mesh() {
    passes(None);
}

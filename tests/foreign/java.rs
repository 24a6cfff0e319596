//! The JDK's own client, against a server of Go's `net/http`.

use tests::foreign::Pair;

#[test]
fn a_client_of_the_jvm_notices_no_mesh() {
    Pair::new(8080, None, "exec $BIN/http-server").is_the_same(&[
        ("HTTP/1.1", "java $PROGRAMS/java/Client.java HTTP_1_1"),
        (
            "HTTP/1.1 that offers an upgrade to HTTP/2",
            "java $PROGRAMS/java/Client.java HTTP_2",
        ),
    ]);
}

//! Redis, whose client speaks first, and whose commands by hand begin as a request line does.

use tests::foreign::Pair;

const SERVER: &str = "cd $OWN && exec redis-server --port $PORT --save '' --protected-mode no";

const EXCHANGES: &[(&str, &str)] = &[
    ("ping", "redis-cli -h $HOST -p $PORT ping"),
    (
        "values",
        "redis-cli -h $HOST -p $PORT <<<$'set a 1\nincr a\nlpush l x y\nlrange l 0 -1\nget none\nnonsense'",
    ),
    (
        "a large value",
        "head -c 3000000 /dev/zero | redis-cli -h $HOST -p $PORT -x set z && redis-cli -h $HOST -p $PORT strlen z",
    ),
    (
        "a transaction of many in one write",
        "for i in {1..1000}; do echo incr n; done | redis-cli -h $HOST -p $PORT --pipe | grep -v ECHO; redis-cli -h $HOST -p $PORT get n",
    ),
    (
        "ping by hand",
        "exec 3<>/dev/tcp/$HOST/$PORT; printf 'PING\\r\\nQUIT\\r\\n' >&3; cat <&3",
    ),
    (
        "ping by hand, in two parts",
        "exec 3<>/dev/tcp/$HOST/$PORT; printf PI >&3; printf 'NG\\r\\nQUIT\\r\\n' >&3; cat <&3",
    ),
    (
        "values by hand",
        "exec 3<>/dev/tcp/$HOST/$PORT; printf 'SET a /b\\r\\nGET a\\r\\nQUIT\\r\\n' >&3; cat <&3",
    ),
];

#[test]
fn redis_notices_no_mesh() {
    Pair::new(6379, Some("redis"), SERVER).is_the_same(EXCHANGES);
}

#[test]
fn redis_on_an_undeclared_port_notices_no_mesh() {
    Pair::new(6379, None, SERVER).is_the_same(EXCHANGES);
}

//! PostgreSQL, whose client asks for TLS before it says anything else.

use tests::foreign::Pair;

/// It refuses to be root, so it is somebody else in a user namespace of its own.
const SERVER: &str = r#"
    exec unshare --user --map-user 1000 --map-group 1000 sh -c '
        bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
        cd "$OWN" && "$bin/initdb" --pgdata data --username postgres --auth trust --no-sync >log 2>&1
        echo "host all all all trust" >>data/pg_hba.conf
        exec "$bin/postgres" -D data -p "$PORT" -h "*" -k "" -c fsync=off >>log 2>&1
    '
"#;

const EXCHANGES: &[(&str, &str)] = &[
    (
        "a table",
        "set -o pipefail; psql -h $HOST -p $PORT -U postgres -c 'create table t (a int, b text)' -c \"insert into t select i, 'Grüße' || i from generate_series(1, 1000) i\" -c 'select count(*), max(b) from t'",
    ),
    (
        "many rows",
        "set -o pipefail; psql -h $HOST -p $PORT -U postgres -At -c 'select i, repeat(chr(65 + i % 26), 100) from generate_series(1, 50000) i' | sha256sum",
    ),
    (
        "copies both ways",
        "set -o pipefail; seq 1 100000 | psql -h $HOST -p $PORT -U postgres -c 'create table c (a int)' -c '\\copy c from stdin' -c '\\copy c to stdout' | sha256sum",
    ),
    (
        "an error within a transaction",
        "set -o pipefail; psql -h $HOST -p $PORT -U postgres -c 'begin; select 1/0' 2>&1 || true",
    ),
    (
        "TLS that the server has not",
        "psql \"host=$HOST port=$PORT user=postgres sslmode=require\" -c 'select 1' 2>&1 | sed 's/(.*)//; s/[0-9.]* port/port/' || true",
    ),
    (
        "a notification",
        "set -o pipefail; psql -h $HOST -p $PORT -U postgres -c 'listen l' -c \"notify l, 'hello'\" | sed 's/PID.*//'",
    ),
];

#[test]
fn postgres_notices_no_mesh() {
    Pair::new(5432, Some("postgres"), SERVER).is_the_same(EXCHANGES);
}

#[test]
fn postgres_on_an_undeclared_port_notices_no_mesh() {
    Pair::new(5432, None, SERVER).is_the_same(EXCHANGES);
}
